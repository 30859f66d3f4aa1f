r"""The two moments of a gradient that is the mean over several microbatches.

In: the gradients $g_i$ of n microbatches. Out: their mean and, per parameter,

$$\text{micro\_sq\_norm} = \sum_i p_i \lVert g_i \rVert^2, \qquad
  \text{batch\_sq\_norm} = \Bigl\lVert \sum_i p_i g_i \Bigr\rVert^2$$

with $p_i = 1/n$, or the microbatch's share of the weight. For an optimizer that divides
every entry of the gradient by a scale of its own (Adam), both norms are taken of
`preconditioner` times the gradient; the mean gradient stays as it is.
"""

import numbers
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optax_lena import _axes
from optax_lena._axes import AxisName
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


def sq_norms(
    grads: PyTree, layers: Layers, preconditioner: PyTree | None = None
) -> PyTree:
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
    if preconditioner is not None:
        grads = jax.tree.map(_precondition, grads, preconditioner)
    return jax.tree.map(sq_norm, names, grads)


def _precondition(grad: jax.Array, multiplier: jax.Array) -> jax.Array:
    wide = grad.astype(accumulation_dtype(grad))
    return wide * multiplier.astype(_real_dtype(wide))


def check_preconditioner(preconditioner: PyTree | None, like: PyTree) -> PyTree | None:
    """Returns the multipliers in a pytree of the kind of `like`; None if given none.

    Leaves are matched by name: the gradients of an nnx model stand in other variables
    than the optimizer's state does.
    """
    if preconditioner is None:
        return None
    given, expected = (
        dict(zip(parameter_names(tree), jax.tree.leaves(tree), strict=True))
        for tree in (preconditioner, like)
    )
    for parameter in {**expected, **given}:
        shapes = [
            jnp.shape(leaves[parameter]) if parameter in leaves else "none"
            for leaves in (expected, given)
        ]
        if shapes[0] != shapes[1]:
            raise ValueError(
                "`preconditioner` must hold one multiplier for each entry of the "
                f"gradient, shape {shapes[0]} at parameter {parameter!r}, got "
                f"{shapes[1]}: take it from optax_lena.adam_preconditioner(opt_state, "
                "params), with the parameters that are differentiated."
            )
    leaves = [jnp.asarray(given[parameter]) for parameter in expected]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def finish(
    micro_sq_norm: PyTree,
    mean_grads: PyTree,
    num_microbatches: int | jax.Array,
    layers: Layers,
    like: PyTree,
    preconditioner: PyTree | None = None,
) -> tuple[PyTree, GradMoments]:
    """Takes the norms of the mean, then rounds: gradients to the dtypes of `like`."""
    batch_sq_norm = sq_norms(mean_grads, layers, preconditioner)
    micro, batch = jax.tree.map(
        lambda x: x.astype(jnp.float32), (micro_sq_norm, batch_sq_norm)
    )
    grads = jax.tree.map(lambda m, g: m.astype(jnp.result_type(g)), mean_grads, like)
    return grads, GradMoments(micro, batch, num_microbatches)


def check_weights(
    weights: jax.typing.ArrayLike | None, shape: tuple[int, ...], equal: float
) -> jax.Array:
    """Returns float32 weights of the given shape; `equal` ones where there are none."""
    if weights is None:
        return jnp.full(shape, equal, jnp.float32)
    weights = jnp.asarray(weights, jnp.float32)
    if weights.shape != shape:
        raise ValueError(
            f"`weights` must hold one weight per microbatch, shape {shape}, got shape "
            f"{weights.shape}: sum what you count (valid tokens, unpadded examples) "
            "within each microbatch first."
        )
    return weights


def divide(tree: PyTree, total: jax.Array) -> PyTree:
    """Divides weighted sums by the sum of the weights; all are 0 if that is 0."""
    scale = jnp.where(total == 0, 0, 1 / jnp.where(total == 0, 1, total))
    return jax.tree.map(lambda x: x * scale.astype(_real_dtype(x)), tree)


def weigh(weight: jax.Array, value: jax.Array) -> jax.Array:
    """Returns `weight * value`, summable: in float32 or wider.

    A weight of 0 gives 0 whatever the value: a microbatch of padding only has weight 0
    and usually a loss of 0 / 0.
    """
    value = value.astype(accumulation_dtype(value))
    weighted = weight.astype(_real_dtype(value)) * value
    return jnp.where(weight == 0, jnp.zeros_like(value), weighted)


def _real_dtype(x: jax.Array) -> Any:
    return jnp.finfo(x.dtype).dtype


def check_num_microbatches(num_microbatches: int) -> None:
    """Raises a `ValueError` unless there are at least two microbatches."""
    if not isinstance(num_microbatches, numbers.Integral) or num_microbatches < 2:
        raise ValueError(
            "`num_microbatches` must be an integer of at least 2, got "
            f"{num_microbatches!r}: the gain compares the gradients of several "
            "microbatches and is undefined for one. "
            "Split the batch into 2 or more, or train a base-batch run with plain "
            "optax: its gain is 1 by definition."
        )


def moments_from_stack(
    grads: PyTree,
    *,
    weights: jax.typing.ArrayLike | None = None,
    layers: Layers = per_parameter,
    preconditioner: PyTree | None = None,
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
        multiplied before its norm is taken (`optax_lena.adam_preconditioner`); None:
        by nothing. The mean gradients that are returned are not multiplied.

    Returns:
      The mean gradients, in the dtype of `grads`, and their `GradMoments`.

    Raises:
      ValueError: if the leaves disagree on n, or n < 2, or `weights` is not `[n]`, or
        `preconditioner` is not like the mean gradients.

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
    count = num_microbatches
    each = check_weights(weights, (count,), equal=1 / count)

    def total(x: jax.Array) -> jax.Array:
        return jnp.sum(jax.vmap(weigh)(each, jnp.asarray(x)), axis=0)

    one = jax.eval_shape(lambda stacks: jax.tree.map(lambda g: g[0], stacks), grads)
    preconditioner = check_preconditioner(preconditioner, one)
    norms = jax.vmap(lambda g: sq_norms(g, layers, preconditioner))(grads)
    mean_grads, micro_sq_norm = jax.tree.map(total, (grads, norms))
    if weights is not None:
        count = jnp.sum(each != 0, dtype=jnp.int32)
        mean_grads, micro_sq_norm = divide((mean_grads, micro_sq_norm), each.sum())
    return finish(micro_sq_norm, mean_grads, count, layers, grads, preconditioner)


def moments_over_axis(
    grads: PyTree,
    axis_name: AxisName,
    *,
    weight: jax.typing.ArrayLike | None = None,
    layers: Layers = per_parameter,
    preconditioner: PyTree | None = None,
) -> tuple[PyTree, GradMoments]:
    r"""Averages every device's own gradients and returns the moments that LENA needs.

    For `shard_map` and `pmap`: one microbatch per device. It is `jax.lax.pmean` with
    the norms in the same all-reduce.

    $$\bar g = \frac1n \sum_{i \in \text{axis}} g_i, \qquad
      \text{micro\_sq\_norm} = \frac1n \sum_{i \in \text{axis}} \lVert g_i \rVert^2$$

    .. warning::
      The gradients must be local. Inside `jax.shard_map`, `jax.grad` with respect to
      replicated parameters returns gradients that are summed over the axis already;
      that is an error here. With `check_vma=False` and in `pmap` jax's types do not
      tell: if you averaged first, every layer reports a gain of exactly 1. With
      `optax_lena.value_and_grad(loss_fn, n, axis_name=...)` nothing can go wrong.

    Args:
      grads: the gradients of this device's microbatch.
      axis_name: the axis, or a tuple of axes, over which the batch is spread.
      weight: `()`, what this device's mean was taken over (tokens, unpadded examples);
        None for equal weights. See `optax_lena.value_and_grad`.
      layers: which parameters stack several layers (`optax_lena.stacked`).
      preconditioner: a pytree like `grads`, the same on every device, by which every
        gradient is multiplied before its norm is taken
        (`optax_lena.adam_preconditioner`); None: by nothing.

    Returns:
      The mean gradients, in the dtype of `grads`, and their `GradMoments`; both are
      the same on every device.

    Raises:
      ValueError: if there is one device only, or a gradient is not local, or
        `preconditioner` is not like `grads`.
      NameError: from jax, if the axis is not bound here.

    Example:
      >>> import jax, jax.numpy as jnp, optax_lena
      >>> def step(grad):
      ...     return optax_lena.moments_over_axis({"w": grad}, "batch")
      >>> grads, moments = jax.vmap(step, axis_name="batch", out_axes=None)(
      ...     jnp.array([3.0, 5.0])
      ... )
      >>> print(grads["w"], moments.micro_sq_norm["w"], moments.batch_sq_norm["w"])
      4.0 17.0 16.0
    """
    check_layers(layers)
    count = jax.lax.axis_size(axis_name)
    check_num_microbatches(count)
    _axes.check_local(grads, parameter_names(grads), axis_name)
    own = check_weights(weight, (), equal=1 / count)
    preconditioner = check_preconditioner(preconditioner, grads)
    norms = sq_norms(grads, layers, preconditioner)
    sums = jax.tree.map(lambda x: weigh(own, x), (grads, norms))
    if weight is None:
        mean_grads, micro_sq_norm = jax.lax.psum(sums, axis_name)
    else:
        counted = (own != 0).astype(jnp.int32)
        sums, total, count = jax.lax.psum((sums, own, counted), axis_name)
        mean_grads, micro_sq_norm = divide(sums, total)
    return finish(micro_sq_norm, mean_grads, count, layers, grads, preconditioner)
