"""Passes: one call of the loss for each microbatch, and the sums over all of them.

In: a function that visits one microbatch, and all of them stacked. Out: weighted sums
of what can be summed, and stacks of the rest.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import keystr, tree_leaves_with_path

from optax_lena._dtypes import accumulation_dtype
from optax_lena._gather.outputs import MEAN, SUM, Plan
from optax_lena._measure.sums import weigh
from optax_lena._types import PyTree, zeros_of


def split(batch: PyTree, num_microbatches: int) -> PyTree:
    """Cuts a batch: every leaf `(n * b, ...)` becomes `(n, b, ...)`."""
    return _cut(batch, num_microbatches, (num_microbatches, -1))


def split_interleaved(batch: PyTree, num_microbatches: int) -> PyTree:
    """Cuts a batch so that each microbatch takes every n-th example.

    A batch that lies on several devices stays where it is: a microbatch has a share of
    every device's examples.
    """
    cut = _cut(batch, num_microbatches, (-1, num_microbatches))
    return jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), cut)


def _cut(batch: PyTree, num_microbatches: int, shape: tuple[int, int]) -> PyTree:
    def cut_leaf(leaf: Any) -> jax.Array:
        given = jnp.shape(leaf)
        size = given[0] // num_microbatches
        known = tuple(size if length == -1 else length for length in shape)
        return jnp.reshape(leaf, (*known, *given[1:]))

    check_divides(batch, num_microbatches)
    return jax.tree.map(cut_leaf, batch)


def check_divides(batch: PyTree, num_microbatches: int) -> None:
    """Raises a `ValueError` unless all leaves can be cut, and in the same places."""
    for path, leaf in tree_leaves_with_path(batch):
        given = jnp.shape(leaf)
        if not given or given[0] % num_microbatches or not given[0]:
            remedy = "drop or pad the last examples (and pass `weights`)"
            if isinstance(leaf, (bool, int, float, complex)):
                remedy = "pass an array in place of a list"
            raise ValueError(
                f"`batch` must divide into {num_microbatches} microbatches on axis 0, "
                f"got shape {given} at {keystr(path) or 'its root'}: {remedy}, and "
                "pass what is no example as a further argument."
            )
    _check_equal_rows(batch)


def _check_equal_rows(batch: PyTree) -> None:
    """Raises a `ValueError` if leaves differ in their numbers of rows."""
    rows = None
    for path, leaf in tree_leaves_with_path(batch):
        own = jnp.shape(leaf)[0]
        if rows is not None and own != rows:
            raise ValueError(
                "`batch` must have as many rows in every leaf, one for each example, "
                f"got {own} at {keystr(path)} and {rows} before it: reshape what has k "
                "rows an example to (examples, k, ...). Of graphs and other ragged "
                "data stack n padded parts and take [0] of each leaf in the loss. Pass "
                "what is no example as a further argument."
            )
        rows = own


def weighted_scan(
    visit: Callable[..., PyTree], plan: Plan, weights: jax.Array, xs: PyTree
) -> tuple[list[jax.Array], list[jax.Array]]:
    """Scans `visit` over xs; sums some of its leaves, stacks the others.

    Args:
      visit: `visit(*x) -> tree`, for one entry x of xs.
      plan: how that tree is combined.
      weights: `[n]`, of the microbatches in what is averaged.
      xs: a tuple of pytrees with leading axis n.

    Returns:
      The sums, in float32 or wider, and the stacks `(n, ...)`.
    """

    def body(sums: list[jax.Array], weight_and_x: Any) -> tuple[Any, Any]:
        weight, x = weight_and_x
        leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(visit(*x))]
        summed, stacked = _partitioned(leaves, plan.kinds)
        added = [_added(weight, leaf, kind) for leaf, kind in summed]
        return jax.tree.map(jnp.add, sums, added), [leaf for leaf, _ in stacked]

    # Zeros keep the mesh axes of the leaves' types, as scan requires of a carry.
    summed, _ = _partitioned(jax.tree.leaves(plan.shapes), plan.kinds)
    zeros = [zeros_of(leaf, _sum_dtype(leaf, kind)) for leaf, kind in summed]
    if len(weights) > 1:
        return jax.lax.scan(body, zeros, (weights, xs))
    # One microbatch per device is usual, and XLA's convolutions are slow inside loops.
    sums, stacked = body(zeros, jax.tree.map(lambda x: x[0], (weights, xs)))
    return sums, [leaf[None] for leaf in stacked]


def _added(weight: jax.Array, leaf: jax.Array, kind: str) -> jax.Array:
    """Returns what one microbatch adds: 0 for a weight of 0, whatever its values."""
    if kind == MEAN:
        return weigh(weight, leaf)
    leaf = leaf.astype(_sum_dtype(leaf, kind))
    return jnp.where(weight == 0, jnp.zeros_like(leaf), leaf)


def _sum_dtype(leaf: Any, kind: str) -> Any:
    # Integers are summed as integers, as wide as in jnp.sum, and averaged as floats.
    if kind == SUM and not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return jax.eval_shape(jnp.sum, jax.ShapeDtypeStruct((), leaf.dtype)).dtype
    return accumulation_dtype(leaf)


def merge(sums: list[jax.Array], stacks: list[jax.Array], plan: Plan) -> PyTree:
    """Puts sums and stacks back into the tree that they were taken from."""
    summed, stacked = iter(sums), iter(stacks)
    merged = [
        next(summed) if kind in (MEAN, SUM) else next(stacked) for kind in plan.kinds
    ]
    return jax.tree.unflatten(jax.tree.structure(plan.shapes), merged)


def _partitioned(leaves: list[Any], kinds: Sequence[str]) -> tuple[list, list]:
    pairs = list(zip(leaves, kinds, strict=True))
    summed = [pair for pair in pairs if pair[1] in (MEAN, SUM)]
    return summed, [pair for pair in pairs if pair[1] not in (MEAN, SUM)]
