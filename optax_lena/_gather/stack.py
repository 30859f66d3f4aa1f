"""Gatherer: stacked gradients in, their mean and its moments out."""

import jax
import jax.numpy as jnp

from optax_lena._measure.layers import Layers, per_parameter
from optax_lena._measure.metric import Metric, metric_of
from optax_lena._measure.moments import (
    GradMoments,
    check_num_microbatches,
    check_weights,
)
from optax_lena._measure.sums import divide, mean_and_moments, pack, weigh
from optax_lena._types import PyTree


def moments_from_stack(
    grads: PyTree,
    *,
    weights: jax.typing.ArrayLike | None = None,
    layers: Layers = per_parameter,
    preconditioner: PyTree | Metric | None = None,
) -> tuple[PyTree, GradMoments]:
    r"""Averages stacked gradients and returns the moments that LENA needs.

    For gradients that already lie in memory, as `jax.vmap(jax.grad(...))` leaves them.
    `optax_lena.value_and_grad` gives the same numbers with one gradient in memory.

    $$\bar g = \sum_i p_i g_i, \qquad
      \text{micro\_sq\_norm} = \sum_i p_i \lVert g_i \rVert^2, \qquad
      \text{batch\_sq\_norm} = \lVert \bar g \rVert^2$$

    Args:
      grads: a pytree whose leaves have shape `(n, ...)`, one row per microbatch.
      weights: `[n]`, what each microbatch's mean was taken over (tokens, unpadded
        examples), so that $p_i = w_i / \sum_j w_j$; None for equal ones. See
        `optax_lena.value_and_grad` for why the formulas downstream stay the same.
      layers: which parameters stack several layers (`optax_lena.stacked`).
      preconditioner: a pytree like the mean gradients, by which every gradient is
        multiplied before its norm is taken (`optax_lena.adam_preconditioner`), or a
        `Metric` of your own; None: the gradients' own norms. The mean gradients that
        are returned are not multiplied.

    Returns:
      The mean gradients, in the dtype of `grads`, and their `GradMoments`.

    Raises:
      ValueError: if the leaves disagree on n, or n < 2, or `weights` is not `[n]`, or a
        weight is negative or not finite, or `preconditioner` is not like the mean
        gradients.
      TypeError: if a gradient is an integer array.

    Example:
      >>> import jax.numpy as jnp, optax_lena
      >>> grads, moments = optax_lena.moments_from_stack({"w": jnp.array([3.0, 5.0])})
      >>> print(grads["w"], moments.micro_sq_norm["w"], moments.batch_sq_norm["w"])
      4.0 17.0 16.0

    References:
      Ko, Lee, Kim, *Not All Layers Are Equal*, WWW 2022, Eq. 4.
    """
    count = _leading_size(grads)
    each = check_weights(weights, (count,), equal=1 / count)
    one = jax.eval_shape(lambda stacks: jax.tree.map(lambda g: g[0], stacks), grads)
    metric = metric_of(layers, preconditioner, one)

    def total(x: jax.Array) -> jax.Array:
        return jnp.sum(jax.vmap(weigh)(each, jnp.asarray(x)), axis=0)

    norms = jax.vmap(lambda g: pack(metric.sq_norms(g)))(grads)
    mean, micro = jax.tree.map(total, grads), total(norms)
    if weights is None:
        return mean_and_moments(mean, micro, count, metric, grads)
    mean, micro = divide((mean, micro), each.sum())
    counted = jnp.sum(each != 0, dtype=jnp.int32)
    return mean_and_moments(mean, micro, counted, metric, grads)


def _leading_size(grads: PyTree) -> int:
    sizes = {jnp.shape(g)[:1] for g in jax.tree.leaves(grads)}
    if len(sizes) != 1 or sizes == {()}:
        raise ValueError(
            "Every leaf of `grads` must have the microbatches on its leading axis, "
            f"got leading sizes {sorted(sizes)}: stack the microbatches' gradients, "
            "jax.tree.map(lambda *g: jnp.stack(g), *grads)."
        )
    ((count,),) = sizes
    check_num_microbatches(count, "the leading axis of `grads`")
    return count
