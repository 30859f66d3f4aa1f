r"""The two moments of a gradient that is the mean over several microbatches.

In: the gradients $g_i$ of n microbatches. Out: their mean and, per parameter,

$$\text{micro\_sq\_norm} = \sum_i p_i \lVert g_i \rVert^2, \qquad
  \text{batch\_sq\_norm} = \Bigl\lVert \sum_i p_i g_i \Bigr\rVert^2$$

with $p_i = 1/n$, or the microbatch's share of the weight.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optax_lena._layers import (
    Layers,
    check_layers,
    parameter_names,
    per_parameter,
    stack_size,
)

PyTree = Any


class GradMoments(NamedTuple):
    """The squared norms of a gradient, before and after it was averaged.

    Attributes:
      micro_sq_norm: mean over the microbatches of the gradient's squared norm; a
        pytree like the parameters with float32 leaves of shape `()`, or `(slices,)`
        for a parameter that `optax_lena.stacked` selects.
      batch_sq_norm: squared norm of the mean gradient; a pytree of the same kind.
      num_microbatches: how many microbatches were averaged (those of weight 0 do not
        count); an integer or an integer scalar array.
    """

    micro_sq_norm: PyTree
    batch_sq_norm: PyTree
    num_microbatches: int | jax.Array


def accumulation_dtype(leaf: Any) -> Any:
    """Returns the dtype in which sums over `leaf` are taken: float32 or wider."""
    return jnp.promote_types(jnp.result_type(leaf), jnp.float32)


def sq_norms(grads: PyTree, layers: Layers) -> PyTree:
    """Returns the squared norm of every leaf, per slice where it stacks layers.

    The result keeps the accumulation dtype, so that it can be summed on.
    """

    def sq_norm(parameter: str, leaf: jax.Array) -> jax.Array:
        leaf = jnp.asarray(leaf)
        # Cast before squaring: a float16 gradient of 300 has no float16 square.
        leaf = leaf.astype(accumulation_dtype(leaf))
        square = jnp.square(jnp.abs(leaf)) if jnp.iscomplexobj(leaf) else leaf * leaf
        axis = layers.stack_axis(parameter)
        if axis is None:
            return jnp.sum(square)
        stack_size(parameter, leaf, axis)
        return jnp.sum(jnp.moveaxis(square, axis, 0), axis=range(1, leaf.ndim))

    names = jax.tree.unflatten(jax.tree.structure(grads), parameter_names(grads))
    return jax.tree.map(sq_norm, names, grads)


def finish(
    micro_sq_norm: PyTree,
    mean_grads: PyTree,
    num_microbatches: int | jax.Array,
    layers: Layers,
) -> GradMoments:
    """Makes the float32 moments of mean gradients in the accumulation dtype."""
    to_float32 = lambda tree: jax.tree.map(lambda x: x.astype(jnp.float32), tree)
    return GradMoments(
        to_float32(micro_sq_norm),
        to_float32(sq_norms(mean_grads, layers)),
        num_microbatches,
    )


def shares(
    weights: jax.typing.ArrayLike | None, num_microbatches: int
) -> tuple[jax.Array, int | jax.Array]:
    """Turns weights into shares that sum to 1, and counts the microbatches.

    Args:
      weights: `[n]`, or None for equal ones. If all are 0, so are the shares.
      num_microbatches: n.

    Returns:
      The float32 shares `[n]`, and how many of them are not 0.
    """
    if weights is None:
        equal = jnp.full((num_microbatches,), 1 / num_microbatches, jnp.float32)
        return equal, num_microbatches
    weights = jnp.asarray(weights, jnp.float32)
    if weights.shape != (num_microbatches,):
        raise ValueError(
            "`weights` must hold one weight per microbatch, shape "
            f"({num_microbatches},), got shape {weights.shape}: sum what you count "
            "(valid tokens, unpadded examples) within each microbatch first."
        )
    total = jnp.sum(weights)
    parts = jnp.where(total > 0, weights / jnp.where(total > 0, total, 1), 0)
    return parts, jnp.sum(parts > 0, dtype=jnp.int32)


def weigh(share: jax.Array, value: jax.Array) -> jax.Array:
    """Returns `share * value`, and 0 for a share of 0 whatever the value.

    A microbatch of padding only has weight 0 and usually a loss of 0 / 0.
    """
    share = share.astype(jnp.finfo(value.dtype).dtype)
    return jnp.where(share > 0, share * value, jnp.zeros_like(value))


def check_num_microbatches(num_microbatches: int) -> None:
    """Raises a `ValueError` unless there are at least two microbatches."""
    if num_microbatches < 2:
        raise ValueError(
            f"`num_microbatches` must be at least 2, got {num_microbatches}: the gain "
            "compares the gradients of several microbatches and is undefined for one. "
            "Split the batch into 2 or more, or train a base-batch run with plain "
            "optax: its gain is 1 by definition."
        )


def moments_from_stack(
    grads: PyTree,
    *,
    weights: jax.typing.ArrayLike | None = None,
    layers: Layers = per_parameter,
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

    Returns:
      The mean gradients, in the dtype of `grads`, and their `GradMoments`.

    Raises:
      ValueError: if the leaves disagree on n, or n < 2, or `weights` is not `[n]`.

    Example:
      >>> import jax.numpy as jnp, optax_lena
      >>> grads, moments = optax_lena.moments_from_stack({"w": jnp.array([3.0, 5.0])})
      >>> print(grads["w"], moments.micro_sq_norm["w"], moments.batch_sq_norm["w"])
      4.0 17.0 16.0

    References:
      Ko, Lee, Kim, *Not All Layers Are Equal*, WWW 2022, Eq. 4.
    """
    check_layers(layers)
    sizes = {jnp.shape(g)[:1] for g in jax.tree.leaves(grads)}
    if len(sizes) != 1 or sizes == {()}:
        raise ValueError(
            "Every leaf of `grads` must have the microbatches on its leading axis, "
            f"got leading sizes {sorted(sizes)}."
        )
    ((num_microbatches,),) = sizes
    check_num_microbatches(num_microbatches)
    parts, count = shares(weights, num_microbatches)

    def mean(g: jax.Array) -> jax.Array:
        g = jnp.asarray(g).astype(accumulation_dtype(g))
        return jnp.sum(jax.vmap(weigh)(parts, g), axis=0)

    mean_grads = jax.tree.map(mean, grads)
    norms = jax.vmap(lambda g: sq_norms(g, layers))(grads)
    moments = finish(jax.tree.map(mean, norms), mean_grads, count, layers)
    return jax.tree.map(lambda m, g: m.astype(g.dtype), mean_grads, grads), moments
