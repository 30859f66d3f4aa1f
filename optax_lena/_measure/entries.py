"""Entries: values of single layers, read from vectors over all layers.

In: vectors `(..., layers)`, and which entries to read. Out: one pytree for each.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.xla_metadata import set_xla_metadata

# One layer, or several whose entries stay together.
Row = int | tuple[int, ...]


def entries_of(vectors: Any, rows: Sequence[Row]) -> list[Any]:
    """Reads entries of vectors.

    Args:
      vectors: a pytree of arrays `(..., layers)`.
      rows: which entries; a tuple of them gives the result a last axis.

    Returns:
      For each of `rows` a pytree of arrays, `(...)` or `(..., slices)`.
    """
    if not any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(vectors)):
        return _slices(vectors, rows)
    return jax.lax.platform_dependent(
        vectors,
        cpu=functools.partial(_at_places, rows=rows),
        default=functools.partial(_slices, rows=rows),
    )


def _slices(vectors: Any, rows: Sequence[Row]) -> list[Any]:
    """Reads entries by static slices, which cost no kernel launch on a GPU."""

    def entry(vector: jax.Array, row: int) -> jax.Array:
        return jax.lax.index_in_dim(vector, row, -1, keepdims=False)

    return [
        jax.tree.map(functools.partial(entry, row=row), vectors)
        if isinstance(row, int)
        else _gathered(vectors, row)
        for row in rows
    ]


def _at_places(vectors: Any, rows: Sequence[Row]) -> list[Any]:
    """Reads entries so that XLA:CPU compiles no more kernels for more entries.

    It compiles kernels of equal code once, but takes 20 ms for every kernel with a
    static slice at another index. So the kernels read the index from memory: it comes
    from a call that XLA may not inline, and is no constant to it. If XLA inlines the
    call nevertheless, only compile time is lost.
    """
    single = sorted({row for row in rows if isinstance(row, int)})
    number = jax.jit(lambda vectors: (vectors, [jnp.int32(row) for row in single]))
    with set_xla_metadata(inlineable="false"):
        vectors, places = number(vectors)

    def entry(vector: jax.Array, place: jax.Array) -> jax.Array:
        return jax.lax.dynamic_index_in_dim(
            vector, place, -1, keepdims=False, allow_negative_indices=False
        )

    entry_of = {
        row: jax.tree.map(functools.partial(entry, place=place), vectors)
        for row, place in zip(single, places, strict=True)
    }
    return [
        entry_of[row] if isinstance(row, int) else _gathered(vectors, row)
        for row in rows
    ]


def _gathered(vectors: Any, rows: tuple[int, ...]) -> Any:
    return jax.tree.map(lambda vector: vector[..., np.asarray(rows, np.int32)], vectors)
