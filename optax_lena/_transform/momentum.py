r"""Heavy-ball momentum that counts examples and not updates.

In: updates at the layers' rates, and S. Out: the buffer of `optax.trace`, which
remembers the same number of examples at every S, down to a floor, at equal step length.
"""

import functools
from typing import Any, NamedTuple

import jax
import optax
from jax.typing import ArrayLike

from optax_lena._dtypes import add, cast_like, multiply
from optax_lena._parts.memory import FIRST_FLOOR, Memory
from optax_lena._transform.batch_scale import scale_of
from optax_lena._transformation import transformation
from optax_lena._types import PyTree


class _Options(NamedTuple):
    momentum: ArrayLike
    nesterov: bool
    batch_scale: ArrayLike | None


def trace_of_examples(
    batch_scale: ArrayLike | None,
    momentum: ArrayLike,
    nesterov: bool,
    accumulator_dtype: Any,
) -> optax.GradientTransformationExtraArgs:
    r"""`optax.trace` with a momentum that follows S.

    $$m \leftarrow \beta(S) \, m + \frac{1 - \beta(S)}{1 - \beta} \, u, \qquad
      \beta(S) = \max(\beta^S, \min(\beta, 0.8))$$

    The factor keeps the sum of all steps that an update leads to,
    $u / (1 - \beta)$. At S = 1 it is `optax.trace`. With the keyword argument `fall` an
    update multiplies the buffer before anything else.

    Args:
      batch_scale: S; None: the number of microbatches.
      momentum: β at the base batch, in [0, 1).
      nesterov: whether to use Nesterov momentum.
      accumulator_dtype: the dtype of the buffer; None: the parameters' dtype.

    Returns:
      The transformation.
    """
    options = _Options(momentum, nesterov, batch_scale)
    init = optax.trace(momentum, nesterov, accumulator_dtype).init
    return transformation(init, functools.partial(_update, options), optax.TraceState)


def factors(
    momentum: ArrayLike, batch_scale: ArrayLike | None, **extra_args: Any
) -> tuple[ArrayLike, ArrayLike]:
    """Returns the factors on the buffer and on what an update adds to it."""
    moved = Memory(momentum, FIRST_FLOOR).forget(scale_of(batch_scale, **extra_args))
    return moved.kept, moved.added / (1 - momentum)


def _update(
    options: _Options,
    updates: PyTree,
    state: optax.TraceState,
    params: PyTree | None = None,
    *,
    fall: jax.Array | None = None,
    **extra_args: Any,
) -> tuple[PyTree, optax.TraceState]:
    del params
    momentum, nesterov, batch_scale = options
    kept, longer = factors(momentum, batch_scale, **extra_args)

    left = kept if fall is None else multiply(kept, fall)

    def move(share: ArrayLike, update: jax.Array, trace: jax.Array) -> jax.Array:
        return add(multiply(longer, update), multiply(share, trace))

    trace = jax.tree.map(functools.partial(move, left), updates, state.trace)
    if nesterov:
        updates = jax.tree.map(functools.partial(move, kept), updates, trace)
    else:
        updates = trace
    # Also where the gradients are wider: a buffer that changes its dtype compiles
    # again, and cannot be the carry of a scan.
    return updates, optax.TraceState(cast_like(trace, state.trace))
