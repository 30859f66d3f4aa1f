"""Layouts: where each parameter's statistics stand in a vector over layers.

In: a pytree of parameters (or gradients) and a `Layers` rule. Out: a `Layout`, which
turns one value per parameter into a vector `[layers]`, and back. Everything downstream
of this file works on such vectors.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.xla_metadata import set_xla_metadata
from jax.tree_util import GetAttrKey, keystr, tree_leaves_with_path

from optax_lena._dtypes import accumulation_dtype
from optax_lena._measure.layers import MODEL, Layers
from optax_lena._types import shard_axes, varying

PyTree = Any

_VALUE = (GetAttrKey("value"),)


def parameter_names(tree: Any) -> list[str]:
    """Returns one readable name, such as `conv1/kernel`, per leaf of `tree`."""
    paths = [path for path, _ in tree_leaves_with_path(tree)]
    siblings = Counter(path[:-1] for path in paths)
    # nnx.Variable, nnx.VariableState and linen's boxes show their array as an
    # attribute `value`. It is no part of the name, unless it has siblings.
    paths = [
        path[:-1] if path[-1:] == _VALUE and siblings[path[:-1]] == 1 else path
        for path in paths
    ]
    names = [keystr(path, simple=True, separator="/") or MODEL for path in paths]
    # The key "a/b" beside a key "b" below "a" would read the same.
    count = Counter(names)
    return [
        name if count[name] == 1 else keystr(path)
        for name, path in zip(names, paths, strict=True)
    ]


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
    rows: tuple[int | tuple[int, ...], ...]
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
        if not isinstance(vector, jax.core.Tracer):
            return self._entries(vector)
        return jax.lax.platform_dependent(
            vector, cpu=self._entries_at_places, default=self._entries
        )

    def _entries(self, vector: jax.Array) -> list[jax.Array]:
        # A plain integer makes a static slice, an index array a gather.
        return [
            jax.lax.index_in_dim(vector, row, keepdims=False)
            if isinstance(row, int)
            else vector[np.asarray(row, np.int32)]
            for row in self.rows
        ]

    def _entries_at_places(self, vector: jax.Array) -> list[jax.Array]:
        rows = sorted({row for row in self.rows if isinstance(row, int)})
        vector, entries = entries_at_places(vector, rows)
        entry_of = dict(zip(rows, entries, strict=True))
        return [
            entry_of[row] if isinstance(row, int) else vector[np.asarray(row, np.int32)]
            for row in self.rows
        ]


def entries_at_places(vectors: PyTree, rows: Sequence[int]) -> tuple[PyTree, list]:
    """Reads entries so that more of them are no more kernels for XLA:CPU to compile.

    It compiles kernels of equal code once, but takes 20 ms for every kernel whose slice
    is at a place of its own. So the kernels read the place from memory: XLA sees no
    constants in what a call returns that it may not inline. If it inlines nevertheless,
    only compile time is lost. Other platforms should keep the slices, which cost a GPU
    no launch.

    Args:
      vectors: a pytree of arrays `(..., layers)`.
      rows: which layers.

    Returns:
      The vectors, and a list of such pytrees, of one layer each.
    """
    number = jax.jit(lambda vectors: (vectors, [jnp.int32(row) for row in rows]))
    with set_xla_metadata(inlineable="false"):
        vectors, places = number(vectors)

    def entry(vector: jax.Array, place: jax.Array) -> jax.Array:
        return jax.lax.dynamic_index_in_dim(
            vector, place, -1, keepdims=False, allow_negative_indices=False
        )

    entries = [jax.tree.map(lambda v, p=p: entry(v, p), vectors) for p in places]
    return vectors, entries


def layout_of(layers: Layers, tree: PyTree) -> Layout:
    """Applies a rule to a tree of parameters (arrays or their shapes and dtypes)."""
    parameters = parameter_names(tree)
    axes = tuple(layers.stack_axis(p) for p in parameters)
    index: dict[str, int] = {}
    rows: list[int | tuple[int, ...]] = []
    for parameter, leaf, axis in zip(
        parameters, jax.tree.leaves(tree), axes, strict=True
    ):
        layer = layers.layer_of(parameter)
        if not isinstance(layer, str):
            raise ValueError(
                "`layers` must name the layer of every parameter, and layer_of("
                f"{parameter!r}) is {layer!r}: return a string."
            )
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
    if not -len(shape) <= axis < len(shape):
        raise ValueError(
            f"`layers` says that parameter {parameter!r} stacks layers on axis {axis}, "
            f"but its shape is {shape}: name an axis it has, or a narrower regex."
        )
    return shape[axis]


def check_inexact(name: str, tree: PyTree) -> None:
    """Raises a `TypeError` that names a parameter whose numbers have no fractions."""
    for i, leaf in enumerate(jax.tree.leaves(tree)):
        dtype = getattr(leaf, "dtype", type(leaf))
        is_inexact = dtype in (float, complex) or jnp.issubdtype(dtype, jnp.inexact)
        if not is_inexact:
            got = getattr(dtype, "name", None) or getattr(dtype, "__name__", dtype)
            raise TypeError(
                f"`{name}` must be floating-point, got {got} at "
                f"parameter {parameter_names(tree)[i]!r}: such a parameter has no "
                "gradient. Put None in its place, and pass it as a further "
                "argument of the loss, or convert it."
            )


def check_no_shards(optimizer: str, tree: PyTree, moments: Any) -> None:
    """Raises a `ValueError` for a shard, where `optimizer` needs the whole tensor.

    Args:
      optimizer: its name.
      tree: what it needs whole.
      moments: the gradient's, of whole tensors. What varies over an axis over which
        they vary as well belongs to a model of the device's own.
    """
    for parameter, sharded in zip(
        parameter_names(tree), shard_axes(tree, moments), strict=True
    ):
        if sharded and moments is not None:
            raise ValueError(
                f"`params` of `{optimizer}` must be whole on every device, got a shard "
                f"of {parameter!r}, which varies over the axes {list(sharded)}: it "
                "would take each device's shard for the whole. Update under jax.jit, "
                "where any sharding will do, or gather parameters and gradients first."
            )


def zeros_of(leaf: Any, dtype: Any) -> jax.Array:
    """Returns zeros of an array's shape that vary and are sharded as its type says."""
    axes = varying(leaf)
    if isinstance(leaf, jax.ShapeDtypeStruct) and leaf.sharding is None and axes:
        zeros = jnp.zeros(leaf.shape, dtype)
        return jax.lax.pcast(zeros, tuple(sorted(axes)), to="varying")
    return jnp.zeros_like(leaf, dtype=dtype)


def scale_leaves(updates: PyTree, factors: list[jax.Array], layout: Layout) -> PyTree:
    """Multiplies every leaf by its factor, `()`, or its slices by theirs."""
    leaves, treedef = jax.tree.flatten(updates)
    scaled = []
    for leaf, factor, axis in zip(leaves, factors, layout.axes, strict=True):
        if axis is not None:
            others = [i for i in range(leaf.ndim) if i != axis % leaf.ndim]
            factor = jnp.expand_dims(factor, others)
        wide = leaf.astype(accumulation_dtype(leaf)) * factor
        scaled.append(wide.astype(leaf.dtype))
    return jax.tree.unflatten(treedef, scaled)
