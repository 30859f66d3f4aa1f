r"""Gatherer for loops that have one gradient per update, and nothing else.

It wraps an optimizer, and estimates the moments of a batch from this gradient and the
one before it.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_lena._dtypes import accumulation_dtype
from optax_lena._gather.wrapped import Preconditioner, multipliers_of, wrapped
from optax_lena._measure.layers import Layers, per_parameter
from optax_lena._measure.metric import Metric, metric_of
from optax_lena._measure.moments import GradMoments, moments_in
from optax_lena._measure.sums import pack
from optax_lena._transformation import transformation
from optax_lena._types import PyTree


class SuccessiveState(NamedTuple):
    """State of `from_successive_gradients`.

    Attributes:
      inner_state: the wrapped optimizer's state.
      grads: the last finite gradient.
      has_grads: `()` bool, whether there was one.
    """

    inner_state: optax.OptState
    grads: PyTree
    has_grads: jax.Array


def from_successive_gradients(
    tx: optax.GradientTransformation,
    *,
    layers: Layers = per_parameter,
    preconditioner: Preconditioner = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Estimates the moments from this gradient and the one before it.

    For loops that can give one gradient per update and nothing else. The two batches
    are treated as two microbatches of a batch twice as large (AdaptDL's differenced
    estimator). With $d = \frac14 \lVert g_t - g_{t-1} \rVert^2$ and
    $m = \frac12 (\lVert g_t \rVert^2 + \lVert g_{t-1} \rVert^2)$

    $$\sigma^2 / S = 2 d, \qquad \lVert\mu\rVert^2 = m - 2 d$$

    which is what two halves of *this* batch with `batch_sq_norm` $= m$ and
    `micro_sq_norm` $= m + 2d$ would show; those are the moments that `tx` gets, and
    beside them $\lVert g_t \rVert^2$, in which a `SpikeLimit` looks for spikes. Where S
    was another at the update before, its noise $\sigma^2 / S'$ counts as such.

    It is biased: between the two gradients the parameters move, and the change of the
    true gradient, $\frac12 \lVert \mu_t - \mu_{t-1} \rVert^2$, counts as noise. The
    gain is too high where a step turns the gradient, at high rates or early in a run.
    Prefer any other gatherer. Memory: one copy of the gradient.

    Args:
      tx: the optimizer that gets the moments; it needs a `batch_scale`, since here the
        number of microbatches is not S.
      layers: which parameters stack several layers (`optax_lena.stacked`).
      preconditioner: for Adam, `optax_lena.adam_preconditioner`; see `accumulate`.

    Returns:
      The optimizer, whose `update` needs no moments. Nothing is measured in the first
      update, nor in one whose gradient is not finite.

    Raises:
      TypeError: if `tx` is no optimizer; from `update`, if it gets `moments`, or a
        gradient is an integer array.
      ValueError: if an option is invalid; from `update`, if `tx` has no `batch_scale`.

    Example:
      >>> import jax.numpy as jnp, optax_lena
      >>> tx = optax_lena.from_successive_gradients(optax_lena.lena(0.1, batch_scale=8))
      >>> state = tx.init(jnp.array(0.0))
      >>> for grad in (3.0, 1.0):
      ...     updates, state = tx.update(jnp.array(grad), state)
      >>> row = optax_lena.layer_report(state)["model"]
      >>> print(row["noise"], row["signal"])  # sigma^2 = 8 * 2, mu^2 = 5 - 2
      16.0 3.0

    References:
      Qiao et al., *Pollux*, OSDI 2021, and `gradient_noise_scale.py` of AdaptDL.
    """
    tx = wrapped(tx, layers, preconditioner)
    return transformation(
        functools.partial(_init, tx),
        functools.partial(_update, tx, layers, preconditioner),
        SuccessiveState,
    )


def _init(tx: optax.GradientTransformationExtraArgs, params: PyTree) -> SuccessiveState:
    zeros = jax.tree.map(jnp.zeros_like, params)
    return SuccessiveState(tx.init(params), zeros, jnp.zeros((), bool))


def _update(
    tx: optax.GradientTransformationExtraArgs,
    layers: Layers,
    preconditioner: Preconditioner,
    grads: PyTree,
    state: SuccessiveState,
    params: PyTree | None = None,
    **extra_args: Any,
) -> tuple[PyTree, SuccessiveState]:
    if "moments" in extra_args:
        raise TypeError(
            "`from_successive_gradients` estimates the moments itself, got `moments`: "
            "call tx.update without them, or use the optimizer that it wraps. Inside "
            "`accumulate`, which passes moments, remove one of the two wrappers."
        )
    grads = jax.tree.map(jnp.asarray, grads)  # optax takes Python numbers too
    multipliers = multipliers_of(preconditioner, state.inner_state, grads)
    metric = metric_of(layers, multipliers, grads)
    moments, own, is_finite = _moments(metric, grads, state)
    extra_args |= {"moments": moments, "gradient_sq_norm": own}
    updates, inner_state = tx.update(grads, state.inner_state, params, **extra_args)
    kept = jax.tree.map(
        lambda g, s: jnp.where(is_finite, g, s).astype(s.dtype), grads, state.grads
    )
    return updates, SuccessiveState(inner_state, kept, state.has_grads | is_finite)


def _moments(
    metric: Metric, grads: PyTree, state: SuccessiveState
) -> tuple[GradMoments, PyTree, jax.Array]:
    """Returns the moments, the gradient's own norms, and whether it is finite."""

    def wide(g: jax.Array) -> jax.Array:
        return g.astype(accumulation_dtype(g))

    new, old = jax.tree.map(wide, (grads, state.grads))
    moved = jax.tree.map(jnp.subtract, new, old)
    difference, *norms = (metric.sq_norms(tree) for tree in (moved, new, old))
    batch = jax.tree.map(lambda a, b: (a + b) / 2, *norms)
    micro = jax.tree.map(lambda m, d: m + d / 2, batch, difference)
    is_finite = jnp.all(jnp.isfinite(pack(norms[0])))
    for grad, old in zip(*map(jax.tree.leaves, (grads, state.grads)), strict=True):
        # The gradient is kept in the parameters' dtype, where it may overflow. In its
        # own dtype it is finite if its norm is, and need not be read again.
        if grad.dtype != old.dtype:
            is_finite &= jnp.all(jnp.isfinite(grad.astype(old.dtype)))
    count = jnp.where(state.has_grads & is_finite, 2, 1)
    return moments_in(metric, micro, batch, count), norms[0], is_finite
