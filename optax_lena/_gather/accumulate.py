r"""Gatherer for loops that call `update` once per microbatch.

It wraps an optimizer and gives it the moments that the loop cannot: successive calls
are treated as the microbatches of one batch.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_lena._checks import (
    check_loss,
    check_number,
    check_same_on_devices,
    known_number,
)
from optax_lena._eager import choose, is_known
from optax_lena._gather.wrapped import Preconditioner, multipliers_of, wrapped
from optax_lena._measure.layers import Layers, per_parameter
from optax_lena._measure.moments import GradMoments, check_weights
from optax_lena._measure.sums import IncrementalMoments, MomentSums, divide, weigh
from optax_lena._transformation import transformation
from optax_lena._types import PyTree, eval_types, zeros_of

EveryK = int | Callable[[jax.Array], jax.typing.ArrayLike]


class AccumulateState(NamedTuple):
    """State of `accumulate`.

    Attributes:
      inner_state: the wrapped optimizer's state.
      sums: the sums of the gradients so far, and of their squared norms.
      losses: `()` float32, the sum of the losses so far, weighted likewise.
      loss_weight: `()` float32, the weight of the calls that had a loss.
      calls: `()` int32, calls in the sums.
      updates: `()` int32, updates that the wrapped optimizer has made.
      skipped: `()` int32, calls left out because their gradient or weight was not
        finite.
    """

    inner_state: optax.OptState
    sums: MomentSums
    losses: jax.Array
    loss_weight: jax.Array
    calls: jax.Array
    updates: jax.Array
    skipped: jax.Array


def accumulate(
    tx: optax.GradientTransformation,
    every_k: EveryK,
    *,
    layers: Layers = per_parameter,
    preconditioner: Preconditioner = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Treats k successive calls of `update` as the microbatches of one batch.

    The training loop stays as it is, with one gradient per call and no moments. The
    first k - 1 calls return updates of zero; the k-th runs `tx` once on the mean, with
    the moments of the k gradients. It is `optax.MultiSteps` for LENA: MultiSteps gives
    its optimizer only the last call's keyword arguments.

    A call whose gradient is not finite is left out, and another call takes its place. A
    call of weight 0 counts, but adds nothing, whatever its gradient is. The state may
    be saved after any call.

    Args:
      tx: the optimizer that gets the moments, such as `optax_lena.lena(...)`. Its
        `batch_scale` is the scale of the whole batch; None: the number of microbatches.
      every_k: calls per update; or a function of the number of updates made so far.
        With 1 nothing is measured unless calls have `moments`; a warning says so.
      layers: which parameters stack several layers (`optax_lena.stacked`).
      preconditioner: for Adam, `optax_lena.adam_preconditioner`: a function of the
        state of `tx` and a pytree like the parameters that returns what gradients are
        multiplied by before their norms are taken. None: nothing.

    Returns:
      The optimizer. Its `update` takes three optional keyword arguments: `moments`, if
      every call's gradient is itself a mean over several devices (k calls times d
      devices are n microbatches), taken with the same preconditioner, if any; `weight`,
      `()`, what the call's mean was taken over (tokens); and `value`, `()`, the call's
      loss, of which `tx` gets the mean. Other keyword arguments of the k-th call go to
      `tx`.

    Raises:
      ValueError: if `every_k` is not an integer of at least 1, or another option is
        invalid; from `update`, if `moments` do not fit the gradients, or `value`
        is no scalar, or the weight, where it is known, is negative or not finite, or
        either differs between devices where the gradients do not.
      TypeError: if `tx` is no optimizer; from `update`, if a gradient holds integers,
        or `moments` are something else, or it is given `weights`.

    Warns:
      RuntimeWarning: from `update`, if `every_k` is 1 and there are no moments.

    Example:
      >>> import jax.numpy as jnp, optax_lena
      >>> tx = optax_lena.accumulate(optax_lena.lena(0.1, momentum=None), every_k=2)
      >>> params = {"w": jnp.array(1.0)}
      >>> state = tx.init(params)
      >>> for grad in (0.0, 2.0):
      ...     updates, state = tx.update({"w": jnp.array(grad)}, state, params)
      ...     print(round(float(updates["w"]), 3))
      0.0
      -0.2
    """
    tx = wrapped(tx, layers, preconditioner)
    if not callable(every_k):
        meaning = "the number of calls that make one update"
        check_number("every_k", every_k, meaning, at_least=1, integer=True)
    return transformation(
        functools.partial(_init, tx, layers),
        functools.partial(_update, tx, every_k, layers, preconditioner),
        AccumulateState,
    )


def _init(
    tx: optax.GradientTransformationExtraArgs, layers: Layers, params: PyTree
) -> AccumulateState:
    # Every count is an array of its own: JAX does not donate one buffer twice.
    def zero() -> jax.Array:
        return jnp.zeros((), jnp.int32)

    sums = IncrementalMoments(layers).init(params)
    losses, loss_weight = (jnp.zeros((), jnp.float32) for _ in range(2))
    counts = zero(), zero(), zero()
    return AccumulateState(tx.init(params), sums, losses, loss_weight, *counts)


def _update(
    tx: optax.GradientTransformationExtraArgs,
    every_k: EveryK,
    layers: Layers,
    preconditioner: Preconditioner,
    grads: PyTree,
    state: AccumulateState,
    params: PyTree | None = None,
    *,
    moments: GradMoments | None = None,
    weight: jax.typing.ArrayLike = 1.0,
    value: jax.typing.ArrayLike | None = None,
    **extra_args: Any,
) -> tuple[PyTree, AccumulateState]:
    _check_call(every_k, moments, extra_args)
    multipliers = multipliers_of(preconditioner, state.inner_state, grads)
    incremental = IncrementalMoments(layers, multipliers)
    added = _add(incremental, state, grads, moments, weight, value)
    k = every_k(state.updates) if callable(every_k) else every_k
    check_number("every_k", k, "what the function returned", at_least=1, integer=True)

    def emit(state: AccumulateState) -> tuple[PyTree, AccumulateState]:
        mean, all_moments = incremental.finish(state.sums, grads)
        given = extra_args | {"moments": all_moments}
        if value is not None:
            # NaN, no loss, if all calls that had one have weight 0.
            has_loss = state.loss_weight > 0
            mean_loss = divide(state.losses, state.loss_weight)
            given["value"] = jnp.where(has_loss, mean_loss, jnp.nan)
        updates, inner_state = tx.update(mean, state.inner_state, params, **given)
        empty = jax.tree.map(jnp.zeros_like, state._replace(inner_state=()))
        return updates, empty._replace(
            inner_state=inner_state,
            updates=optax.safe_increment(state.updates),
            skipped=state.skipped,
        )

    is_full = added.calls >= k

    def wait(state: AccumulateState) -> tuple[PyTree, AccumulateState]:
        # Outside of jax.jit no types have to agree; errors show before an update.
        if is_known(is_full) and state.updates > 0:
            return jax.tree.map(jnp.zeros_like, grads), state
        updates, _ = eval_types(emit, state)
        return jax.tree.map(lambda x: zeros_of(x, x.dtype), updates), state

    return choose(is_full, emit, wait, added)


def _check_call(
    every_k: EveryK, moments: GradMoments | None, extra_args: dict[str, Any]
) -> None:
    """Warns of calls of which nothing is measured; raises for `weights`."""
    if known_number(every_k) == 1 and moments is None:
        warnings.warn(
            "`every_k` of 1 measures nothing: the noise between the gradients of one "
            "call is not known, and every gain stays 1. Accumulate 2 calls or more, or "
            "pass `moments=`.",
            RuntimeWarning,
            stacklevel=4,  # who called update
        )
    if "weights" in extra_args:  # as gatherers call them; nothing else would tell
        raise TypeError(
            "`accumulate` takes `weight`, one number for the microbatch of a call, got "
            "`weights`: pass `update(..., weight=...)`."
        )


def _add(
    incremental: IncrementalMoments,
    state: AccumulateState,
    grads: PyTree,
    moments: GradMoments | None,
    weight: jax.typing.ArrayLike,
    value: jax.typing.ArrayLike | None,
) -> AccumulateState:
    """Adds a call's gradient, unless it, its moments or its weight are not finite."""
    weight = check_weights(weight, (), equal=1, name="weight")
    total = "take jax.lax.psum(weight, {axes})"
    check_same_on_devices("weight", weight, grads, total)
    is_weight = jnp.isfinite(weight) & (weight >= 0)
    weight = jnp.where(is_weight, weight, 0)
    # The sums with this call, which adds nothing if its weight is 0. A squared norm may
    # be infinite (a norm above 2e19), which the guards read.
    added = incremental.add(state.sums, grads, weight=weight, moments=moments)
    finite = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(added.grads)]
    finite.append(~jnp.any(jnp.isnan(added.micro_sq_norm)))
    is_finite = functools.reduce(jnp.logical_and, finite, is_weight)
    used = jnp.where(is_finite, weight, 0)
    losses, loss_weight = state.losses, state.loss_weight
    if value is not None:
        check_loss(value, grads)
        losses = losses + weigh(used, jnp.asarray(value, jnp.float32))
        loss_weight = loss_weight + used.astype(loss_weight.dtype)
    keep = functools.partial(jnp.where, is_finite)
    return state._replace(
        sums=jax.tree.map(keep, added, state.sums),
        losses=losses,
        loss_weight=loss_weight,
        calls=state.calls + is_finite.astype(jnp.int32),
        skipped=state.skipped + (~is_finite).astype(jnp.int32),
    )
