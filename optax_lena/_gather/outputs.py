"""Outputs: how the results of n calls of a loss are combined.

In: the loss and auxiliary data of every microbatch. Out: the whole batch's. The
kind of each output follows from its shape alone, or is given by the user:

- `"mean"`: averaged like the loss. Floating-point data whose shape does not depend on
  the batch: accuracies, BatchNorm statistics.
- `"sum"`: added up. Only if asked for: sums over tokens.
- `"examples"`: joined along axis 0, in the batch's order. Data whose first axis grows
  with the batch: logits, losses of examples.
- `"stack"`: stacked, `(n, ...)`. Any other data: integers, keys.
- `"shape"`: decided by the shape, the default.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optax_lena._measure.parameters import parameter_names
from optax_lena._types import PyTree

MEAN, SUM, EXAMPLES, STACK, SHAPE = "mean", "sum", "examples", "stack", "shape"
KINDS = (MEAN, SUM, EXAMPLES, STACK, SHAPE)


class Plan(NamedTuple):
    """How the outputs of all microbatches are put together.

    Attributes:
      shapes: the outputs of one microbatch, as `eval_types` returns them.
      kinds: how each of their leaves is combined.
    """

    shapes: PyTree
    kinds: list[str]


def check_kinds(aux: PyTree | None, has_aux: bool) -> None:
    """Raises a `ValueError` unless all leaves of `aux` are kinds, and there is data."""
    if aux is not None and not has_aux:
        raise ValueError(
            f"`aux` must be None without `has_aux=True`, got {aux!r}: the loss then "
            "returns no auxiliary data."
        )
    for kind in jax.tree.leaves(aux):
        if not isinstance(kind, str) or kind not in KINDS:
            raise ValueError(
                f"`aux` must say for each auxiliary output one of {KINDS}, got "
                f"{kind!r}: it is a pytree that is a prefix of the auxiliary data, or "
                "one of those words for all of it."
            )


def kinds_of(
    aux: PyTree,
    asked: PyTree | None,
    sizes: set[int],
    larger: Callable[[], PyTree],
) -> list[str]:
    """Decides how each leaf of the auxiliary data is combined.

    Args:
      aux: shapes and dtypes, of one microbatch.
      asked: the user's kinds, a prefix of `aux`; None: the shapes decide.
      sizes: the microbatch's lengths along axis 0.
      larger: returns the shapes for a batch several times as large.

    Returns:
      One kind per leaf.

    Raises:
      ValueError: if neither the shapes nor the user decide it.
    """
    leaves, names = jax.tree.leaves(aux), parameter_names(aux)
    said = _broadcast(SHAPE if asked is None else asked, aux)
    # A scalar may be the squeezed output of a microbatch of one example.
    may_grow = {
        name: leaf.shape[0] if leaf.ndim else 1
        for name, leaf, kind in zip(names, leaves, said, strict=True)
        if kind == SHAPE and (leaf.ndim or 1 in sizes)
    }
    others = leaves
    try:
        if may_grow:
            others = jax.tree.leaves(larger())
    except Exception as error:
        unclear = [name for name, size in may_grow.items() if size in sizes]
        if unclear:
            raise ValueError(
                "`aux` must say how to combine the auxiliary outputs "
                f"{unclear[:4]}: their first axis is as long as a microbatch, and the "
                "loss cannot be traced with a larger batch to see whether it grows. "
                f"Say aux='examples', or 'mean', or another of {KINDS}."
            ) from error
    return [
        _kind(name, leaf, other) if kind == SHAPE else kind
        for name, leaf, other, kind in zip(names, leaves, others, said, strict=True)
    ]


def _broadcast(asked: PyTree, aux: PyTree) -> list[str]:
    try:
        return list(jax.tree.leaves(jax.tree.broadcast(asked, aux)))
    except ValueError as error:
        raise ValueError(
            f"`aux` must be a prefix of the auxiliary data, got {asked!r} for "
            f"{jax.tree.structure(aux)}."
        ) from error


def _kind(name: str, leaf: jax.ShapeDtypeStruct, larger: jax.ShapeDtypeStruct) -> str:
    if leaf.shape == larger.shape:
        return MEAN if is_float(leaf) else STACK
    if leaf.shape[1:] != larger.shape[1:]:
        raise ValueError(
            f"`aux` must say how to combine the auxiliary output {name!r}: its shape "
            f"{leaf.shape} becomes {larger.shape} with a larger batch, and only a "
            "growing first axis can be joined. Move the examples to axis 0, or say "
            "aux='stack'."
        )
    return EXAMPLES


def is_float(x: Any) -> bool:
    """Says whether `x` can be averaged."""
    return jnp.issubdtype(x.dtype, jnp.inexact)


def join(stack: jax.Array) -> jax.Array:
    """Joins `(n, b, ...)` to `(n * b, ...)`: microbatches of successive examples."""
    return stack.reshape(-1, *stack.shape[2:])


def join_interleaved(stack: jax.Array, size: int) -> jax.Array:
    """Joins outputs of microbatches with the examples i, i + n, i + 2n, ...

    Args:
      stack: `(n, b * k, ...)`, k rows for every example, such as its tokens.
      size: b, the examples of a microbatch.

    Returns:
      `(b * n * k, ...)`, in the order of the batch.

    Raises:
      ValueError: if the number of rows is not a multiple of the examples.
    """
    count, rows = stack.shape[:2]
    if rows % size:
        raise ValueError(
            f"`aux` must say how to combine an output with {rows} rows for {size} "
            "examples: with spread='time' microbatches interleave examples, and its "
            "rows cannot be put back into order. Say aux='stack' or spread='space'."
        )
    of_examples = stack.reshape(count, size, rows // size, *stack.shape[2:])
    return join(join(jnp.moveaxis(of_examples, 0, 1)))
