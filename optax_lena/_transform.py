"""LENA as one optax transformation: moments in, scaled updates out.

Three choices are independent of each other: what one layer is (`layers`), how its gain
becomes a trust ratio (`rule`), and what its warm-up counts (`warmup`). LENA, AdaScale
and linear scaling are three settings of them, see `_alias.py`.
"""

import math
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optax_lena import _noise, _spikes, _warmup
from optax_lena._layers import (
    LayerMap,
    Layers,
    check_layers,
    layer_map,
    per_parameter,
    stack_size,
)
from optax_lena._moments import (
    GradMoments,
    PyTree,
    accumulation_dtype,
    check_num_microbatches,
)
from optax_lena._state import (
    Applied,
    ScaleByLenaState,
    initial_state,
    register_with_flax,
    to_float32,
)

BASE_STEPS, GAIN_STEPS, RATE_STEPS = "base_steps", "gain_steps", "rate_steps"
CLOCKS = (BASE_STEPS, GAIN_STEPS, RATE_STEPS)
ABSOLUTE, RELATIVE = "absolute", "relative"
AVERAGES = (ABSOLUTE, RELATIVE)


def scale_by_lena(
    batch_scale: jax.typing.ArrayLike | None = None,
    *,
    warmup_steps: jax.typing.ArrayLike = 0,
    layers: Layers = per_parameter,
    rule: _noise.Rule = _noise.capped_gain,
    warmup: str = _warmup.STATE_AWARE,
    schedule: optax.Schedule | None = None,
    clock: str = BASE_STEPS,
    averages: str = ABSOLUTE,
    horizon: float = 1000.0,
    spike_limit: float | None = None,
    reference: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Scales every layer's update by its trust ratio and its warm-up factor.

    $$u_k \leftarrow \text{rule}(\text{gain}_k(S), S) \cdot
      \min(1, \text{progress}_k / \theta) \cdot u_k$$

    The paper has it after the momentum buffer and before the learning rate, where the
    buffer holds gradients, and a change of the rate is felt at once. Before the buffer
    (as in `lena_amplified`) every gradient keeps the rate that it was taken at.

    The update needs the moments of the gradient, as a keyword argument:
    `update(updates, state, params, moments=moments)`. `optax_lena.value_and_grad`
    returns them with the gradients.

    Args:
      batch_scale: S, the global batch over the base batch that the recipe was tuned
        at; a number of at least 1, or a scalar array, which may change between updates
        (`optax.inject_hyperparams`). None: the number of microbatches.
      warmup_steps: θ, the length of the warm-up in base-batch steps. The paper takes
        5 % of the base run's steps. 0: no warm-up.
      layers: what one layer is: `per_parameter`, `per_module`, `whole_model`,
        `by_regex(...)`, `stacked(...)`.
      rule: how the gain becomes a trust ratio: `capped_gain`, `amplified_gain`,
        `square_root_gain`, `linear`, or a `Rule` of your own.
      warmup: what the warm-up counts: `"state_aware"`, a layer's own gain, or
        `"fixed"`, base-batch steps.
      schedule: also multiplies by `schedule(clock)`, so that a schedule written for
        the small batch needs no change. It is evaluated before the update is counted.
      clock: what `schedule` runs on: `"base_steps"`, the base batches seen;
        `"gain_steps"`, the sum of the whole model's gains (AdaScale); or
        `"rate_steps"`, the sum of what multiplied the whole model's rate.
      averages: what is averaged: `"absolute"`, noise and signal as they are (the
        paper), or `"relative"`, as shares of the model's squared norm at each update.
      horizon: of the moving averages, in base batches: their weight per update is
        min(1, S / horizon).
      spike_limit: cuts the trust ratios, though not below 1, when the gradient's
        squared norm is more than so many times what the last updates had: to what
        brings it back there. At least 1; None: no limit. For a place before the
        momentum buffer, which else would keep the spike.
      reference: follow the authors' code where it differs from their paper: progress
        counts after it is used, a layer at its cap progresses by the whole model's
        gain, and 1e-6 is added to both moving averages, which then are not scale-free.

    Returns:
      The transformation, whose `update` takes the keyword argument `moments`. A layer
      whose moments are not finite keeps its averages and its progress.

    Raises:
      ValueError: where an argument is out of its range.

    Example:
      >>> import jax.numpy as jnp, optax, optax_lena
      >>> params = {"w": jnp.zeros(2)}
      >>> stack = {"w": jnp.array([[1.0, 0.0], [0.0, 1.0]])}  # two microbatches
      >>> grads, moments = optax_lena.moments_from_stack(stack)
      >>> tx = optax.chain(
      ...     optax.trace(0.9), optax_lena.scale_by_lena(2), optax.scale(-0.1)
      ... )
      >>> updates, _ = tx.update(grads, tx.init(params), params, moments=moments)
      >>> print(grads["w"], updates["w"])  # only noise: a gain of 2
      [0.5 0.5] [-0.1 -0.1]

    References:
      Ko, Lee, Kim, *Not All Layers Are Equal*, WWW 2022, Eq. 4 and Algorithm 1.
    """
    check_layers(layers)
    if batch_scale is not None:
        meaning = "the global batch over the base batch"
        _check_number("batch_scale", batch_scale, 1, meaning)
    _check_number("warmup_steps", warmup_steps, 0, "a number of base-batch steps")
    _check_number("horizon", horizon, 1, "a number of base batches")
    if spike_limit is not None:
        meaning = "a squared norm over the usual one"
        _check_number("spike_limit", spike_limit, 1, meaning)
    _check_choice("warmup", warmup, _warmup.KINDS)
    _check_choice("clock", clock, CLOCKS)
    _check_choice("averages", averages, AVERAGES)
    if not isinstance(rule, _noise.Rule):
        raise ValueError(
            "`rule` must be optax_lena.capped_gain, amplified_gain, square_root_gain, "
            f"linear or a Rule(function), got {rule!r}."
        )
    if reference and isinstance(batch_scale, numbers.Real) and batch_scale > 1000:
        raise ValueError(
            "`reference=True` needs a `batch_scale` of at most 1000, got "
            f"{batch_scale}: the authors' moving averages have weight S / 1000 and "
            "diverge beyond. The default mode has no such limit."
        )
    register_with_flax()
    has_warmup = not _is_zero(warmup_steps)
    needs_moments = (
        batch_scale is None
        or rule.needs_gain
        or (has_warmup and warmup == _warmup.STATE_AWARE)
        or clock != BASE_STEPS
        or spike_limit is not None
    )

    def init_fn(params: PyTree) -> ScaleByLenaState:
        state = initial_state(layer_map(layers, params).names)
        factor = _warmup.factor(state.progress, warmup_steps)
        applied = state.applied._replace(warmup_factor=factor)
        return to_float32(state._replace(applied=applied))

    def update_fn(
        updates: PyTree,
        state: ScaleByLenaState,
        params: PyTree | None = None,
        *,
        moments: GradMoments | None = None,
        **extra_args: Any,
    ) -> tuple[PyTree, ScaleByLenaState]:
        del params, extra_args
        if needs_moments or moments is not None:
            _check_moments(moments)
        layout = layer_map(layers, updates)
        _check_layout(layout, state.layer_names())
        default = None if moments is None else moments.num_microbatches
        scale = default if batch_scale is None else batch_scale
        scale = jnp.asarray(scale, jnp.float32)

        new_averages, recent, cut = state.averages, state.recent, jnp.ones(())
        finite = jnp.ones(len(layout.names), bool)
        if moments is not None:
            noise, signal, finite = _measure(moments, updates, layout, scale)
            measured = jnp.asarray(moments.num_microbatches) >= 2
            new_averages = _average(
                state.averages, noise, signal, scale, finite & measured
            )
            recent, cut = _limit_spikes(
                state.recent,
                jnp.sum(noise, where=finite),
                jnp.sum(signal, where=finite),
                scale,
                jnp.all(finite) & measured,
            )
        gain, model_gain = _gains(new_averages, scale)
        trust_ratio, model_ratio = (
            _spikes.cut_ratio(rule.trust_ratio(x, scale), cut)
            for x in (gain, model_gain)
        )
        step = _warmup.increment(warmup, gain, scale)
        if reference and warmup == _warmup.STATE_AWARE:
            step = jnp.where(trust_ratio >= scale, model_gain, gain)
        progress = state.progress + jnp.where(finite, step, 0)
        base_steps = state.base_steps + scale
        warmup_factor = _warmup.factor(
            state.progress if reference else progress, warmup_steps
        )

        rate = trust_ratio * warmup_factor
        gain_steps = state.gain_steps + jnp.where(jnp.all(finite), model_gain, 0)
        model_progress = base_steps if warmup == _warmup.FIXED else gain_steps
        model_rate = model_ratio * _warmup.factor(model_progress, warmup_steps)
        if schedule is not None:
            rate = rate * schedule(getattr(state, clock))
        new_state = ScaleByLenaState(
            averages=new_averages,
            recent=recent,
            progress=progress,
            warmup_end=_warmup.end(
                state.warmup_end, progress, warmup_steps, base_steps
            ),
            base_steps=base_steps,
            gain_steps=gain_steps,
            rate_steps=state.rate_steps + jnp.where(jnp.all(finite), model_rate, 0),
            applied=Applied(gain, trust_ratio, warmup_factor, model_gain, cut, scale),
            layer_names=state.layer_names,
        )
        scaled = scale_leaves(updates, layout.scatter(rate), layout)
        return scaled, to_float32(new_state)

    def _measure(
        moments: GradMoments, updates: PyTree, layout: LayerMap, scale: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        micro, batch = (
            layout.gather(_align(norms, name, updates, layout))
            for name, norms in zip(moments._fields[:2], moments[:2], strict=True)
        )
        count = moments.num_microbatches
        if isinstance(count, int):
            check_num_microbatches(count)
        noise, signal = _noise.noise_and_signal(
            micro, batch, jnp.maximum(count, 2), scale
        )
        # Not finite if a norm is not, and also where S times a large norm overflows.
        return noise, signal, jnp.isfinite(noise) & jnp.isfinite(signal)

    def _average(
        old: _noise.Averages,
        noise: jax.Array,
        signal: jax.Array,
        scale: jax.Array,
        measured: jax.Array,
    ) -> _noise.Averages:
        if averages == RELATIVE:
            noise, signal = _noise.relative_to_model(noise, signal)
        return old.update(noise, signal, jnp.minimum(scale / horizon, 1), measured)

    def _limit_spikes(
        recent: _noise.Averages,
        noise: jax.Array,
        signal: jax.Array,
        scale: jax.Array,
        measured: jax.Array,
    ) -> tuple[_noise.Averages, jax.Array]:
        cut = jnp.ones(())
        if spike_limit is not None:
            cut = _spikes.factor(recent, noise, signal, scale, spike_limit)
        # The sum of finite layers may overflow.
        measured &= jnp.isfinite(noise) & jnp.isfinite(signal)
        return _spikes.remember(recent, noise, signal, cut, measured), cut

    def _gains(of: _noise.Averages, scale: jax.Array) -> tuple[jax.Array, jax.Array]:
        if reference:
            ratio, (noise, signal) = _noise.reference_gain_ratio, of[:2]
        else:
            ratio, (noise, signal) = _noise.gain_ratio, of.unbiased()
        return ratio(noise, signal, scale), ratio(noise.sum(), signal.sum(), scale)

    # optax types every update as free of keyword arguments that it names.
    return optax.GradientTransformationExtraArgs(
        init_fn,  # pyrefly: ignore[bad-argument-type]
        update_fn,  # pyrefly: ignore[bad-argument-type]
    )


def _check_moments(moments: Any) -> None:
    if not isinstance(moments, GradMoments):
        got = "none" if moments is None else type(moments).__name__
        raise TypeError(
            "LENA's update needs the keyword argument `moments`, an "
            f"optax_lena.GradMoments, got {got}. Take gradients and moments together "
            "from optax_lena.value_and_grad (or moments_from_stack, "
            "moments_over_axis), then call tx.update(grads, state, params, "
            "moments=moments)."
        )


def scale_leaves(updates: PyTree, factors: list[jax.Array], layout: LayerMap) -> PyTree:
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


def _align(
    norms: PyTree, field: str, updates: PyTree, layout: LayerMap
) -> list[jax.Array]:
    """Returns the leaves of `norms` that belong to the unmasked leaves of `updates`."""
    nodes, treedef = jax.tree.flatten(updates, is_leaf=_is_masked)
    try:
        entries = treedef.flatten_up_to(norms)
    except ValueError as error:
        raise ValueError(
            f"`moments.{field}` must be a pytree like the updates, with one norm per "
            f"parameter: {error} Take moments and gradients from the same call."
        ) from error
    pairs = [
        (node, entry)
        for node, entry in zip(nodes, entries, strict=True)
        if not _is_masked(node)
    ]
    for parameter, axis, (node, entry) in zip(
        layout.parameters, layout.axes, pairs, strict=True
    ):
        expected = () if axis is None else (stack_size(parameter, node, axis),)
        if not hasattr(entry, "shape") or entry.shape != expected:
            got = getattr(entry, "shape", jax.tree.structure(entry))
            raise ValueError(
                f"`moments.{field}` must have shape {expected} at parameter "
                f"{parameter!r}, got {got}: give the gatherer and the transformation "
                "the same `layers`, and moments of the same parameters."
            )
    return [entry for _, entry in pairs]


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def _check_layout(layout: LayerMap, names: tuple[str, ...]) -> None:
    if layout.names != names:
        differing = sorted(set(layout.names) ^ set(names)) or list(layout.names)
        raise ValueError(
            "`state` was made for other layers than `updates` has; they differ in "
            f"{differing[:4]}. Call `init` on the parameters that you train."
        )


def _is_zero(value: Any) -> bool:
    return isinstance(value, numbers.Real) and value == 0


def _check_number(name: str, value: Any, at_least: float, meaning: str) -> None:
    """Checks plain numbers only: arrays may be tracers, and may change later."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        is_valid = math.isfinite(value) and float(value) >= at_least
    else:
        is_valid = hasattr(value, "dtype")
    if not is_valid:
        raise ValueError(
            f"`{name}` must be a finite number of at least {at_least}, got {value!r}: "
            f"it is {meaning}."
        )


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {choices}, got {value!r}.")
