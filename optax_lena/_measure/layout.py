"""Layouts: where each parameter's statistics stand in a vector over layers.

In: a pytree of parameters (or gradients) and a `Layers` rule. Out: a `Layout`, which
turns one value per parameter into a vector `[layers]`, and back. Everything downstream
of this file works on such vectors.
"""

import dataclasses
import numbers
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optax_lena._dtypes import accumulation_dtype, multiply
from optax_lena._measure.entries import Row, entries_of
from optax_lena._measure.layers import Layers
from optax_lena._measure.parameters import parameter_names
from optax_lena._types import PyTree


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where each parameter's statistics stand in a vector over layers.

    Attributes:
      names: the layers' names, in order of first appearance.
      parameters: the parameters' names, in the order of the tree's leaves.
      rows: for each parameter the row of its layer, an integer; for a stacked
        parameter the rows of its slices.
      axes: for each parameter the axis that stacks layers, or None.
    """

    names: tuple[str, ...]
    parameters: tuple[str, ...]
    rows: tuple[Row, ...]
    axes: tuple[int | None, ...]

    def gather(self, values: Sequence[jax.Array]) -> jax.Array:
        """Sums per-parameter values into a `[layers]` float32 vector.

        Args:
          values: per parameter an array of shape `()`, or `(slices,)` if stacked.

        Returns:
          The sums, in the order of `names`.
        """
        if not values:
            return jnp.zeros((0,), jnp.float32)
        flat = jnp.concatenate([jnp.ravel(v).astype(jnp.float32) for v in values])
        rows = np.concatenate([np.ravel(r) for r in self.rows]).astype(np.int32)
        if np.array_equal(rows, np.arange(len(self.names))):
            return flat
        return jax.ops.segment_sum(flat, rows, num_segments=len(self.names))

    def scatter(self, vector: jax.Array) -> list[jax.Array]:
        """Returns, per parameter, its entries of a `[layers]` vector."""
        return entries_of(vector, self.rows)


def layout_of(layers: Layers, tree: PyTree) -> Layout:
    """Applies a rule to a tree of parameters (arrays or their shapes and dtypes)."""
    parameters = parameter_names(tree)
    axes = tuple(layers.stack_axis(p) for p in parameters)
    index: dict[str, int] = {}
    rows: list[Row] = []
    for parameter, leaf, axis in zip(
        parameters, jax.tree.leaves(tree), axes, strict=True
    ):
        layer = layers.layer_of(parameter)
        if not isinstance(layer, str):
            raise ValueError(
                "`layers` must name the layer of every parameter, and layer_of("
                f"{parameter!r}) is {layer!r}: return a string."
            )
        # The state saves names as UTF-8, each with a zero behind it.
        layer = layer.replace("\0", "\\0").encode(errors="backslashreplace").decode()
        if axis is None:
            rows.append(index.setdefault(layer, len(index)))
            continue
        slices = range(stack_size(parameter, leaf, axis))
        names = [f"{layer}[{i}]" for i in slices]
        rows.append(tuple(index.setdefault(name, len(index)) for name in names))
    return Layout(tuple(index), tuple(parameters), tuple(rows), axes)


def stack_size(parameter: str, leaf: Any, axis: int) -> int:
    """Returns how many layers `leaf` stacks along `axis`."""
    shape = jnp.shape(leaf)
    is_axis = isinstance(axis, numbers.Integral)
    if not is_axis or not -len(shape) <= axis < len(shape):
        raise ValueError(
            f"`layers` says that parameter {parameter!r} stacks layers on axis {axis}, "
            f"but its shape is {shape}: name an axis it has, or a narrower regex."
        )
    return shape[axis]


def scale_leaves(updates: PyTree, factors: list[jax.Array], layout: Layout) -> PyTree:
    """Multiplies every leaf by its factor, `()`, or its slices by theirs."""
    leaves, treedef = jax.tree.flatten(updates)
    scaled = []
    for leaf, factor, axis in zip(leaves, factors, layout.axes, strict=True):
        leaf = jnp.asarray(leaf)  # a Python number, as optax takes it
        if axis is not None:
            others = [i for i in range(leaf.ndim) if i != axis % leaf.ndim]
            factor = jnp.expand_dims(factor, others)
        wide = multiply(factor, leaf.astype(accumulation_dtype(leaf)))
        scaled.append(wide.astype(leaf.dtype))
    return jax.tree.unflatten(treedef, scaled)
