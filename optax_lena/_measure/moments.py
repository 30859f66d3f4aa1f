r"""The two moments of a gradient that is the mean over several microbatches.

The gradients $g_i$ of n microbatches have a mean and, per parameter, two moments:

$$\text{micro\_sq\_norm} = \sum_i p_i \lVert g_i \rVert^2, \qquad
  \text{batch\_sq\_norm} = \Bigl\lVert \sum_i p_i g_i \Bigr\rVert^2$$

with $p_i = 1/n$, or the microbatch's share of the total weight.
"""

import functools
import numbers
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import GetAttrKey

from optax_lena._checks import (
    FLOAT32_MAX,
    check_number,
    check_same_on_devices,
    short,
)
from optax_lena._dtypes import is_kind, weight_dtype
from optax_lena._masks import is_masked
from optax_lena._measure.layout import Layout, stack_size
from optax_lena._measure.metric import Metric, ShardedMetric
from optax_lena._types import PyTree


class GradMoments(NamedTuple):
    """The squared norms of a gradient, before and after it was averaged.

    Attributes:
      micro_sq_norm: mean over the microbatches of the gradient's squared norm; a
        pytree like the parameters with float32 leaves of shape `()`, or `(slices,)`
        for a parameter that `optax_lena.stacked` selects.
      batch_sq_norm: squared norm of the mean gradient; a pytree of the same kind.
      num_microbatches: how many microbatches were averaged (those of weight 0 do not
        count); an integer, which is no leaf of the pytree, or an integer scalar array.
    """

    micro_sq_norm: PyTree
    batch_sq_norm: PyTree
    num_microbatches: int | jax.Array

    def rescale(self, factor: jax.typing.ArrayLike) -> "GradMoments":
        """Returns the moments of `factor` times the gradients.

        The gradients of a loss that was multiplied by a loss scale are too long by that
        factor. They are divided by the scale, and their moments must follow.

        Args:
          factor: what the gradients are multiplied by, such as `1 / loss_scale`; a
            number or a scalar array.

        Returns:
          Moments whose norms are multiplied by the factor's square, and whose count is
          unchanged.

        Raises:
          ValueError: if the factor is not a finite number.

        Example:
          >>> import jax.numpy as jnp, optax_lena
          >>> stack = {"w": jnp.array([3.0, 5.0])}
          >>> _, moments = optax_lena.moments_from_stack({"w": 1024 * stack["w"]})
          >>> moments = moments.rescale(1 / 1024)
          >>> print(moments.micro_sq_norm["w"], moments.num_microbatches)
          17.0 2
        """
        check_number("factor", factor, "what the gradients are multiplied by")
        factor = jnp.asarray(factor, jnp.float32)
        # Twice, not by its square: float32 holds 1 / 2**80, but not its square.
        scale = lambda x: x * factor * factor  # noqa: E731
        micro, batch = jax.tree.map(scale, (self.micro_sq_norm, self.batch_sq_norm))
        return self._replace(micro_sq_norm=micro, batch_sq_norm=batch)


class PreconditionedMoments(GradMoments):
    """Moments in a metric other than the gradient's own norm, usually Adam's metric.

    Only the type differs: numbers do not show which metric they were taken in, but an
    optimizer can read the type when it is traced.
    """

    __slots__ = ()


# A plain count is structure: `jax.tree.map(lambda m: m / 4, moments)` leaves it alone.
def _flatten(moments: GradMoments) -> tuple[tuple[PyTree, ...], int | None]:
    count = moments.num_microbatches
    if isinstance(count, numbers.Integral):
        return moments[:2], int(count)
    return tuple(moments), None


def _flatten_with_keys(moments: GradMoments) -> tuple[Any, int | None]:
    children, count = _flatten(moments)
    return tuple(zip(map(GetAttrKey, moments._fields), children, strict=False)), count


def _unflatten(
    kind: type[GradMoments], count: int | None, children: Any
) -> GradMoments:
    micro, batch, *rest = children
    return kind(micro, batch, rest[0] if count is None else count)


for _kind in (GradMoments, PreconditionedMoments):
    jax.tree_util.register_pytree_with_keys(
        _kind, _flatten_with_keys, functools.partial(_unflatten, _kind), _flatten
    )


def moments_in(
    metric: Metric | ShardedMetric, micro: PyTree, batch: PyTree, count: Any
) -> GradMoments:
    """Makes the moments of a gradient from squared norms that a metric took.

    Args:
      metric: the metric that took them.
      micro: the mean of the microbatches' norms, in the accumulation dtype.
      batch: the norms of the mean, likewise.
      count: n.

    Returns:
      The moments, in float32.
    """
    kind = GradMoments if metric.is_plain else PreconditionedMoments
    to_float32 = lambda x: x.astype(jnp.float32)  # noqa: E731
    micro, batch = jax.tree.map(to_float32, (micro, batch))
    return kind(micro, batch, count)


def check_moments(moments: Any, grads: PyTree = ()) -> None:
    """Raises unless `moments` are those of the gradients.

    Args:
      moments: what the user gave.
      grads: the gradients, or updates made of them.

    Raises:
      TypeError: unless they are `GradMoments`.
      ValueError: if devices with the same gradients have moments of their own.
    """
    if not isinstance(moments, GradMoments):
        got = "none" if moments is None else type(moments).__name__
        raise TypeError(
            "LENA's update needs the keyword argument `moments`, an "
            f"optax_lena.GradMoments, got {got}. Take gradients and moments together "
            "from optax_lena.value_and_grad (or moments_from_stack, "
            "moments_over_axis), then call tx.update(grads, state, params, "
            "moments=moments). If they were given, a wrapper has dropped them: for "
            "flax's TrainState there is optax_lena.flax.TrainState. A loop that passes "
            "nothing on needs optax_lena.accumulate or from_successive_gradients "
            "around the optimizer."
        )
    remedy = (
        "take moments_over_axis(grads, {axes}), or jax.lax.psum(sums, {axes}) before "
        "IncrementalMoments.finish"
    )
    check_same_on_devices("moments", moments, grads, remedy)


def check_count(count: Any) -> None:
    """Raises unless `count` can be the number of microbatches in moments."""
    if isinstance(count, (int, numbers.Integral)):
        check_num_microbatches(count)
        return
    dtype = getattr(count, "dtype", None)
    if dtype is None or not is_kind(dtype, jnp.integer) or jnp.shape(count):
        got = count if dtype is None else f"{dtype} of shape {jnp.shape(count)}"
        raise TypeError(
            "`moments.num_microbatches` must be an integer, or an integer array of "
            f"shape (), got {got}: a tree map over the moments has changed it (to "
            "rescale moments use moments.rescale(factor)), or sums over an axis were "
            "averaged (take jax.lax.psum of an IncrementalMoments' sums)."
        )


def check_num_microbatches(num_microbatches: Any, source: str = "") -> None:
    """Raises a `ValueError` unless there are at least two microbatches.

    Args:
      num_microbatches: n.
      source: what n was read from, if it is no argument.

    Raises:
      ValueError: that says what n must be.
    """
    name = f"`num_microbatches`, {source}," if source else "`num_microbatches`"
    is_integer = isinstance(num_microbatches, numbers.Integral)
    if not is_integer or isinstance(num_microbatches, bool) or num_microbatches < 2:
        raise ValueError(
            f"{name} must be an integer of at least 2, got {num_microbatches!r}: the "
            "gain compares the gradients of several microbatches and is undefined for "
            "one. Split the batch into 2 or more, or train a base-batch run with plain "
            "optax: its gain is 1 by definition."
        )


def check_weights(
    weights: jax.typing.ArrayLike | None,
    shape: tuple[int, ...],
    equal: float,
    name: str = "weights",
) -> jax.Array:
    """Returns weights of the given shape; each is `equal` if none are given.

    Args:
      weights: what the user gave.
      shape: the shape that they must have.
      equal: each weight if none are given.
      name: the argument's name.

    Returns:
      The weights, in JAX's default dtype: with x64, float32 would round a third.

    Raises:
      ValueError: for another shape, or a weight that is negative or not finite.
    """
    if weights is None:
        return jnp.full(shape, equal, weight_dtype())
    given, weights = weights, _as_weights(weights, name)
    if weights.shape != shape:
        raise ValueError(
            f"`{name}` must hold one weight per microbatch, shape {shape}, got shape "
            f"{weights.shape}: sum what you count (valid tokens, unpadded examples) "
            "within each microbatch first."
        )
    if not isinstance(weights, jax.core.Tracer) and weights.is_fully_addressable:
        known = np.asarray(weights)
        if not ((known >= 0) & (known <= FLOAT32_MAX)).all():
            raise ValueError(
                f"`{name}` must be finite numbers of at least 0, got {given!r}: what "
                "the mean was taken over, such as a number of tokens."
            )
    return weights


def _as_weights(weights: Any, name: str) -> jax.Array:
    if any(isinstance(x, jax.Array) for x in jax.tree.leaves(weights)):
        given = jnp.asarray(weights)
    else:
        given = np.asarray(weights)  # jnp.asarray overflows at 2**40 tokens
    if given.dtype.kind in "cmMOSU":
        raise ValueError(
            f"`{name}` must be finite numbers of at least 0, got {weights!r}."
        )
    with np.errstate(over="ignore"):  # to infinity, which is rejected
        return jnp.asarray(given.astype(weight_dtype()))


def align_norms(
    norms: PyTree, name: str, updates: PyTree, layout: Layout
) -> list[jax.Array]:
    """Returns the norms that belong to the parameters that `updates` holds.

    Under `optax.masked` and `optax.partition` the updates of other parameters are
    masked, and the moments hold the norms of all.

    Args:
      norms: a pytree like the parameters.
      name: its name, for errors.
      updates: a pytree like the parameters, of which some may be masked.
      layout: the updates' layout.

    Returns:
      One norm per parameter of the layout, or one per slice of a stacked one.

    Raises:
      ValueError: if `norms` is not like the updates.
    """
    nodes, treedef = jax.tree.flatten(updates, is_leaf=is_masked)
    try:
        entries = treedef.flatten_up_to(norms)
    except ValueError as error:
        raise ValueError(
            f"`{name}` must be a pytree like the updates, with one norm per "
            f"parameter: {short(str(error))} Take moments and gradients from the same "
            "call, and for an nnx model from optax_lena.flax.value_and_grad with the "
            "optimizer's `wrt`."
        ) from error
    pairs = [
        (node, entry)
        for node, entry in zip(nodes, entries, strict=True)
        if not is_masked(node)
    ]
    for parameter, axis, (node, entry) in zip(
        layout.parameters, layout.axes, pairs, strict=True
    ):
        expected = () if axis is None else (stack_size(parameter, node, axis),)
        dtype, shape = (getattr(entry, x, None) for x in ("dtype", "shape"))
        is_real = dtype is not None and is_kind(dtype, jnp.floating)
        if shape != expected or not is_real:
            got = f"{shape}, {dtype}" if dtype else jax.tree.structure(entry)
            raise ValueError(
                f"`{name}` must be real and have shape {expected} at parameter "
                f"{parameter!r}, got {got}: give the gatherer, `accumulate` and the "
                "transformation the same `layers`, and moments of the same parameters."
            )
    return [entry for _, entry in pairs]
