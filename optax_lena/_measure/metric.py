r"""Metrics: the norm in which noise is measured, and which slices are layers.

In: a gradient. Out: one squared norm per parameter, or per slice of a stacked one. For
an optimizer that divides every entry of the gradient by a scale (Adam), noise is
measured in the norm of the divided gradient.
"""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optax_lena._dtypes import accumulation_dtype, is_kind, multiply
from optax_lena._measure.layers import Layers, check_layers, per_parameter
from optax_lena._measure.layout import stack_size
from optax_lena._measure.parameters import check_inexact, leaves_by_name, tree_of_names
from optax_lena._types import PyTree, bound_axes, replicated, shard_axes, varying


@dataclasses.dataclass(frozen=True, eq=False)
class Metric:
    r"""Squared Euclidean norms of the gradient, or of multiples of its entries.

    $$\lVert g \rVert_p^2 = \sum_j (p_j g_j)^2$$

    A metric of your own is a subclass with another `sq_norm`, given to a gatherer as
    `preconditioner`; the gatherer sets its `layers`. It must be a quadratic form,
    summed over entries: with another norm, such as the largest entry, the parts of
    noise and signal do not add up, and a sum over shards is not the norm of the whole.

    Attributes:
      layers: which parameters stack several layers; in a metric for a gatherer, those
        of the gatherer, or the default.
      multipliers: p, a pytree like the gradient; None: 1.

    Example:
      >>> import jax.numpy as jnp, optax_lena
      >>> class PerEntry(optax_lena.Metric):
      ...     def sq_norm(self, gradient):
      ...         return jnp.sum(gradient**2) / gradient.size
      >>> stack = {"w": jnp.array([[3.0, 1.0], [1.0, 1.0]])}
      >>> _, moments = optax_lena.moments_from_stack(stack, preconditioner=PerEntry())
      >>> print(moments.micro_sq_norm["w"], moments.batch_sq_norm["w"])
      3.0 2.5
    """

    layers: Layers = per_parameter
    multipliers: PyTree | None = None

    def __post_init__(self) -> None:
        """Checks the layers."""
        check_layers(self.layers)

    @property
    def is_plain(self) -> bool:
        """Whether norms are taken of the gradient itself."""
        return type(self) is Metric and self.multipliers is None

    def sq_norm(self, gradient: jax.Array) -> jax.Array:
        """Returns the squared norm of one layer's gradient, in its own dtype.

        Args:
          gradient: one tensor, or one slice of it, already multiplied; in float32 or
            wider, so that a float16 gradient of 300 has a square.

        Returns:
          A real scalar `()`.
        """
        if jnp.iscomplexobj(gradient):
            gradient = jnp.abs(gradient)
        return jnp.sum(gradient * gradient)

    def sq_norms(self, grads: PyTree) -> PyTree:
        """Returns the squared norm of every leaf, per slice where it stacks layers.

        The result keeps the accumulation dtype, so that it can be summed further.
        """
        if self.multipliers is not None:
            grads = jax.tree.map(_multiply, grads, self.multipliers)
        return jax.tree.map(self._sq_norm_of_leaf, tree_of_names(grads), grads)

    def _sq_norm_of_leaf(self, parameter: str, leaf: jax.Array) -> jax.Array:
        leaf = jnp.asarray(leaf)
        leaf = leaf.astype(accumulation_dtype(leaf))
        axis = self.layers.stack_axis(parameter)
        if axis is None:
            return self.sq_norm(leaf)
        stack_size(parameter, leaf, axis)
        return replicated(jax.vmap(self.sq_norm, in_axes=axis)(leaf))

    def placed(self, place: Callable[[PyTree], PyTree]) -> "Metric":
        """Returns the metric with its arrays placed elsewhere on a mesh."""
        if self.multipliers is None:
            return self
        return _with(self, multipliers=place(self.multipliers))


def _with(metric: Metric, **attributes: Any) -> Metric:
    """Returns a copy of a metric with other attributes, without its `__init__`."""
    changed = copy.copy(metric)
    for name, value in attributes.items():
        object.__setattr__(changed, name, value)  # the class is frozen
    return changed


def metric_of(
    layers: Layers,
    preconditioner: PyTree | Metric | None,
    like: PyTree,
    name: str = "grads",
) -> Metric:
    """Returns the metric that a gatherer's arguments describe.

    Args:
      layers: which parameters stack several layers.
      preconditioner: multipliers, or a metric, or None.
      like: the gradients or parameters. Leaves are matched by name: the gradients of an
        nnx model are in other variables than the state of the optimizer.
      name: the name of `like`, for errors.

    Returns:
      The metric that a gatherer takes its norms in.

    Raises:
      ValueError: if the multipliers are not like the parameters, or the metric has
        other layers than the gatherer.
      TypeError: if `like` has integer leaves.
    """
    check_layers(layers)
    check_inexact(name, like)
    if preconditioner is None:
        return Metric(layers)
    if not isinstance(preconditioner, Metric):
        return Metric(layers, _aligned(preconditioner, like))
    if preconditioner.layers not in (per_parameter, layers):
        raise ValueError(
            "`preconditioner` must be an optax_lena.Metric without `layers`, or with "
            f"the {layers!r} of its gatherer, got one with {preconditioner.layers!r}: "
            "give `layers` to the gatherer."
        )
    multipliers = preconditioner.multipliers
    if multipliers is not None:
        multipliers = _aligned(multipliers, like)
    return _with(preconditioner, layers=layers, multipliers=multipliers)


def _aligned(preconditioner: PyTree, like: PyTree) -> PyTree:
    """Returns multipliers, matched by name, as a tree like the gradients."""
    if any(map(callable, jax.tree.leaves(preconditioner))):
        raise ValueError(
            "`preconditioner` must hold one multiplier for each entry of the gradient, "
            f"got {preconditioner!r}: call it, such as optax_lena.adam_preconditioner("
            "opt_state, params). Only accumulate and from_successive_gradients take "
            "the function itself."
        )
    given, expected = leaves_by_name(preconditioner), leaves_by_name(like)
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
    leaves = [_multiplier(parameter, given[parameter]) for parameter in expected]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _multiplier(parameter: str, given: Any) -> jax.Array:
    dtype = getattr(given, "dtype", np.dtype(type(given)))
    if not is_kind(dtype, jnp.floating, jnp.integer):
        raise ValueError(
            "`preconditioner` must hold real numbers, or be an optax_lena.Metric, got "
            f"{given!r} at parameter {parameter!r}."
        )
    return jnp.asarray(given)


def _multiply(grad: jax.Array, multiplier: jax.Array) -> jax.Array:
    wide = grad.astype(accumulation_dtype(grad))
    return multiply(multiplier, wide)


@dataclasses.dataclass(frozen=True, eq=False)
class ShardedMetric:
    """The metric of gradients of which this device holds one shard, in `shard_map`.

    Attributes:
      metric: the metric of the shards.
      axes: for each parameter the bound axes over which it is sharded.
    """

    metric: "Metric | ShardedMetric"
    axes: tuple[tuple[str, ...], ...]

    @property
    def layers(self) -> Layers:
        """Which parameters stack several layers."""
        return self.metric.layers

    @property
    def is_plain(self) -> bool:
        """Whether norms are taken of the gradient itself."""
        return self.metric.is_plain

    def sq_norms(self, grads: PyTree) -> PyTree:
        """Returns the squared norms of the whole tensors."""
        leaves, treedef = jax.tree.flatten(self.metric.sq_norms(grads))
        # In one order on all hosts, which must trace the same program; a set has none.
        for axes in dict.fromkeys(axes for axes in self.axes if axes):
            places = [i for i, own in enumerate(self.axes) if own == axes]
            sums = jax.lax.psum([leaves[i] for i in places], axes)
            for i, total in zip(places, sums, strict=True):
                leaves[i] = total
        return jax.tree.unflatten(treedef, leaves)

    def placed(self, place: Callable[[PyTree], PyTree]) -> "ShardedMetric":
        """Returns the metric with its arrays placed elsewhere on a mesh."""
        return dataclasses.replace(self, metric=self.metric.placed(place))


def sq_norm_of_whole(tree: PyTree, moments: Any) -> jax.Array:
    """Returns the squared norm of all tensors, of which this device may hold shards.

    Args:
      tree: tensors, or the shards that this device has of them inside `shard_map`.
      moments: of whole tensors. Over an axis over which they vary too, every
        device has a model of its own.

    Returns:
      A scalar `()`; NaN where no type says whether they are shards, as without
      `check_vma`, and devices of one model differ in it.
    """
    metric = ShardedMetric(Metric(), shard_axes(tree, moments))
    sq_norm = jnp.asarray(sum(metric.sq_norms(jax.tree.leaves(tree))), jnp.float32)
    untyped = [x for x in bound_axes() if not varying(jax.lax.axis_index(x))]
    if not untyped:
        return sq_norm
    whole = jnp.asarray(sum(map(jnp.sum, jax.tree.leaves(moments))), jnp.float32)
    ends = jnp.stack([sq_norm, -sq_norm, whole, -whole])
    for axis in untyped:
        # Copies of a tensor have one norm, and shards hardly ever do.
        most, least, most_of_whole, least_of_whole = jax.lax.pmax(ends, axis)
        is_copy = most == -least
        is_own_model = most_of_whole > -least_of_whole
        sq_norm = jnp.where(is_copy | is_own_model, sq_norm, jnp.nan)
    return sq_norm
