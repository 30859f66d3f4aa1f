r"""Gatherers for loops that call `update` once per microbatch, or have one gradient.

Both wrap an optimizer, and give it the moments that the loop cannot: `accumulate`
takes successive calls for the microbatches of one batch, `from_successive_gradients`
estimates the moments of a batch from this gradient and the one before it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_lena._layers import Layers, check_layers, per_parameter
from optax_lena._moments import (
    GradMoments,
    PyTree,
    accumulation_dtype,
    check_preconditioner,
    divide,
    finish,
    sq_norms,
    weigh,
)

# A function of the wrapped optimizer's state and a pytree like the parameters.
Preconditioner = Callable[[optax.OptState, PyTree], PyTree] | None


class AccumulateState(NamedTuple):
    """State of `accumulate`.

    Attributes:
      inner_state: the wrapped optimizer's state.
      grads: weighted sum of the gradients so far, in float32 or wider.
      micro_sq_norm: weighted sum of their squared norms, one vector for all
        parameters (and slices of stacked ones), in float32 or wider.
      weight: `()`, sum of the weights so far.
      num_microbatches: `()` int32, microbatches summed so far.
      calls: `()` int32, calls that made the sums.
      updates: `()` int32, updates that the wrapped optimizer has made.
      skipped: `()` int32, calls left out because their gradient was not finite.
    """

    inner_state: optax.OptState
    grads: PyTree
    micro_sq_norm: jax.Array
    weight: jax.Array
    num_microbatches: jax.Array
    calls: jax.Array
    updates: jax.Array
    skipped: jax.Array


def accumulate(
    tx: optax.GradientTransformation,
    every_k: int | Callable[[jax.Array], jax.typing.ArrayLike],
    *,
    layers: Layers = per_parameter,
    preconditioner: Preconditioner = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Takes k successive calls of `update` for the microbatches of one batch.

    The training loop stays as it is, with one gradient per call and no moments. The
    first k - 1 calls return updates of zero; the k-th runs `tx` once on the mean, with
    the moments of the k gradients. It is `optax.MultiSteps` for LENA: MultiSteps gives
    its optimizer only the last call's keyword arguments.

    A call whose gradient is not finite is left out, and another one is awaited in its
    place. The state may be saved at any call.

    Args:
      tx: the optimizer that gets the moments, such as `optax_lena.lena(...)`. Its
        `batch_scale` is the scale of the whole batch; None: the number of microbatches.
      every_k: calls per update; or a function of the number of updates made so far.
      layers: which parameters stack several layers (`optax_lena.stacked`).
      preconditioner: for Adam, `optax_lena.adam_preconditioner`: what makes, of the
        state of `tx` and a pytree like the parameters, the multipliers of the gradients
        of which the norms are taken. None: the gradients' own norms.

    Returns:
      The optimizer. Its `update` takes two optional keyword arguments: `moments`, if
      every call's gradient is itself a mean over several devices (k calls times d
      devices are n microbatches; if there is a preconditioner, made with it), and
      `weight`, `()`, what the call's mean was taken over (tokens). Other keyword
      arguments of the k-th call go to `tx`.

    Raises:
      ValueError: if `every_k` is a number below 1.

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
    check_layers(layers)
    if not callable(every_k) and every_k < 1:
        raise ValueError(
            f"`every_k` must be at least 1, got {every_k}: it is the number of calls "
            "that make one update."
        )
    tx = optax.with_extra_args_support(tx)

    def init_fn(params: PyTree) -> AccumulateState:
        # Every count is an array of its own: JAX does not donate one buffer twice.
        def zero() -> jax.Array:
            return jnp.zeros((), jnp.int32)

        return AccumulateState(
            inner_state=tx.init(params),
            grads=jax.tree.map(_zeros_in_accumulation_dtype, params),
            micro_sq_norm=jnp.zeros_like(_pack(sq_norms(params, layers))),
            weight=jnp.zeros((), jnp.float32),
            num_microbatches=zero(),
            calls=zero(),
            updates=zero(),
            skipped=zero(),
        )

    def update_fn(
        grads: PyTree,
        state: AccumulateState,
        params: PyTree | None = None,
        *,
        moments: GradMoments | None = None,
        weight: jax.typing.ArrayLike = 1.0,
        **extra_args: Any,
    ) -> tuple[PyTree, AccumulateState]:
        multipliers = _multipliers(preconditioner, state.inner_state, grads)
        if moments is None:
            micro, count = sq_norms(grads, layers, multipliers), 1
        else:
            micro, count = moments.micro_sq_norm, moments.num_microbatches
        weight = jnp.asarray(weight, jnp.float32)
        added = _add(state, grads, micro, count, weight)
        k = every_k(state.updates) if callable(every_k) else every_k

        def emit(state: AccumulateState) -> tuple[PyTree, AccumulateState]:
            sums = (state.grads, _unpack(state.micro_sq_norm, grads, layers))
            mean_grads, micro = divide(sums, state.weight)
            count = state.num_microbatches
            mean, all_moments = finish(
                micro, mean_grads, count, layers, grads, multipliers
            )
            updates, inner_state = tx.update(
                mean, state.inner_state, params, moments=all_moments, **extra_args
            )
            empty = jax.tree.map(jnp.zeros_like, state)
            return updates, empty._replace(
                inner_state=inner_state,
                updates=optax.safe_increment(state.updates),
                skipped=state.skipped,
            )

        def wait(state: AccumulateState) -> tuple[PyTree, AccumulateState]:
            updates, _ = jax.eval_shape(emit, state)
            return jax.tree.map(lambda u: jnp.zeros(u.shape, u.dtype), updates), state

        return jax.lax.cond(added.calls >= k, emit, wait, added)

    return optax.GradientTransformationExtraArgs(
        init_fn,  # pyrefly: ignore[bad-argument-type]
        update_fn,  # pyrefly: ignore[bad-argument-type]
    )


def _add(
    state: AccumulateState,
    grads: PyTree,
    micro_sq_norm: PyTree,
    count: int | jax.Array,
    weight: jax.Array,
) -> AccumulateState:
    micro = _pack(micro_sq_norm)
    finite = jnp.all(jnp.isfinite(micro))
    weight = jnp.where(finite, weight, 0)
    counted = (weight != 0).astype(jnp.int32)
    return state._replace(
        grads=jax.tree.map(lambda s, g: s + weigh(weight, g), state.grads, grads),
        micro_sq_norm=state.micro_sq_norm
        + weigh(weight, micro).astype(state.micro_sq_norm.dtype),
        weight=state.weight + weight,
        num_microbatches=state.num_microbatches + counted * count,
        calls=state.calls + finite,
        skipped=state.skipped + ~finite,
    )


class SuccessiveState(NamedTuple):
    """State of `from_successive_gradients`.

    Attributes:
      inner_state: the wrapped optimizer's state.
      grads: the last finite gradient.
      has_grads: `()` bool, whether there was one.
    """

    inner_state: optax.OptState
    grads: PyTree
    has_grads: jax.Array


def from_successive_gradients(
    tx: optax.GradientTransformation,
    *,
    layers: Layers = per_parameter,
    preconditioner: Preconditioner = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Estimates the moments from this gradient and the one before it.

    For loops that can give one gradient per update and nothing else. The two batches
    are taken for two microbatches of a batch twice as large (AdaptDL's differenced
    estimator); with $d = \frac14 \lVert g_t - g_{t-1} \rVert^2$ and
    $m = \frac12 (\lVert g_t \rVert^2 + \lVert g_{t-1} \rVert^2)$

    $$\sigma^2 / S = 2 d, \qquad \lVert\mu\rVert^2 = m - 2 d$$

    which is what two halves of *this* batch with `batch_sq_norm` $= m$ and
    `micro_sq_norm` $= m + 2d$ would have shown; those are the moments `tx` gets.

    It is biased: between the two gradients the parameters move, and the change of the
    true gradient, $\frac12 \lVert \mu_t - \mu_{t-1} \rVert^2$, counts as noise. The
    gain comes out too high where a step turns the gradient, at high rates or early.
    Prefer any other gatherer. Memory: one copy of the gradient.

    Args:
      tx: the optimizer that gets the moments; give it a `batch_scale`.
      layers: which parameters stack several layers (`optax_lena.stacked`).
      preconditioner: for Adam, `optax_lena.adam_preconditioner`; see `accumulate`.

    Returns:
      The optimizer, whose `update` needs no moments. The first update, and one whose
      gradient is not finite, measure nothing.

    Example:
      >>> import jax.numpy as jnp, optax_lena
      >>> tx = optax_lena.from_successive_gradients(optax_lena.lena(0.1, batch_scale=8))
      >>> state = tx.init(jnp.array(0.0))
      >>> for grad in (3.0, 1.0):
      ...     updates, state = tx.update(jnp.array(grad), state)
      >>> row = optax_lena.layer_report(state)["model"]
      >>> print(row["noise"], row["signal"])  # sigma^2 = 8 * 2, mu^2 = 5 - 2
      16.0 3.0

    References:
      Qiao et al., *Pollux*, OSDI 2021, and `gradient_noise_scale.py` of AdaptDL.
    """
    check_layers(layers)
    tx = optax.with_extra_args_support(tx)

    def init_fn(params: PyTree) -> SuccessiveState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return SuccessiveState(tx.init(params), zeros, jnp.zeros((), bool))

    def update_fn(
        grads: PyTree,
        state: SuccessiveState,
        params: PyTree | None = None,
        **extra_args: Any,
    ) -> tuple[PyTree, SuccessiveState]:
        def wide(g: jax.Array) -> jax.Array:
            return g.astype(accumulation_dtype(g))

        new, old = jax.tree.map(wide, (grads, state.grads))
        multipliers = _multipliers(preconditioner, state.inner_state, grads)
        moved = jax.tree.map(jnp.subtract, new, old)
        difference, *norms = (
            sq_norms(tree, layers, multipliers) for tree in (moved, new, old)
        )
        batch = jax.tree.map(lambda a, b: (a + b) / 2, *norms)
        micro = jax.tree.map(lambda m, d: m + d / 2, batch, difference)
        finite = jnp.all(jnp.isfinite(_pack(norms[0])))
        measured = state.has_grads & finite
        to_float32 = jax.tree.map(lambda x: x.astype(jnp.float32), (micro, batch))
        moments = GradMoments(to_float32[0], to_float32[1], jnp.where(measured, 2, 1))
        updates, inner_state = tx.update(
            grads, state.inner_state, params, moments=moments, **extra_args
        )
        kept = jax.tree.map(
            lambda g, s: jnp.where(finite, g, s).astype(s.dtype), grads, state.grads
        )
        return updates, SuccessiveState(inner_state, kept, state.has_grads | finite)

    return optax.GradientTransformationExtraArgs(
        init_fn,  # pyrefly: ignore[bad-argument-type]
        update_fn,  # pyrefly: ignore[bad-argument-type]
    )


def _multipliers(
    preconditioner: Preconditioner, inner_state: optax.OptState, grads: PyTree
) -> PyTree | None:
    if preconditioner is None:
        return None
    return check_preconditioner(preconditioner(inner_state, grads), grads)


def _zeros_in_accumulation_dtype(x: jax.Array) -> jax.Array:
    return jnp.zeros_like(x, dtype=accumulation_dtype(x))


def _pack(norms: PyTree) -> jax.Array:
    leaves = [jnp.ravel(x) for x in jax.tree.leaves(norms)]
    return jnp.concatenate(leaves) if leaves else jnp.zeros((0,), jnp.float32)


def _unpack(packed: jax.Array, grads: PyTree, layers: Layers) -> PyTree:
    like, treedef = jax.tree.flatten(
        jax.eval_shape(lambda g: sq_norms(g, layers), grads)
    )
    ends = [0]
    for leaf in like:
        ends.append(ends[-1] + leaf.size)
    parts = [packed[a:b] for a, b in zip(ends, ends[1:], strict=False)]
    return treedef.unflatten(
        [part.reshape(leaf.shape) for part, leaf in zip(parts, like, strict=True)]
    )
