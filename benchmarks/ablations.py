"""Ablations: what each part of `lena_amplified` does, and what was tried instead.

In: `methods.METHODS`. Out: further methods, for `python -m benchmarks.suite
text_ablation` and the other ablations, which measure on validation data.
"""

import functools

import jax.numpy as jnp

import optax_lena
from benchmarks.adam_methods import ADAM_METHODS
from benchmarks.methods import GREY, METHODS, Factory, Method, at_scale


def _at_noise_times(factor: float) -> optax_lena.Rule:
    """`amplified_gain` with another factor: the noise scale b from the gain, and back.

    Args:
      factor: by which b is multiplied, in gain = (1 + b) / (1 + b/S).
    """

    def trust_ratio(gain: jnp.ndarray, scale: jnp.ndarray) -> jnp.ndarray:
        noise, signal = factor * (gain - 1), 1 - gain / scale
        return (noise + signal) / jnp.maximum(noise / scale + signal, 1e-6)

    return optax_lena.Rule(trust_ratio)


# The gain itself times a factor, which overshoots where the gain is large.
_TIMES_EIGHT = optax_lena.Rule(lambda gain, scale: jnp.minimum(8 * gain, scale))
# Halfway, on a logarithmic scale, between LENA's rule and linear scaling.
_GEOMETRIC = optax_lena.Rule(lambda gain, scale: jnp.sqrt(gain * scale))


def _shrunk(gain: jnp.ndarray, scale: jnp.ndarray) -> jnp.ndarray:
    """`amplified_gain` of gains halfway to their mean, on a logarithmic scale."""
    halfway = jnp.sqrt(gain * jnp.exp(jnp.mean(jnp.log(gain))))
    return optax_lena.amplified_gain.trust_ratio(halfway, scale)


def _variant(
    label: str, factory: Factory, *, warms_up: bool = True, **options
) -> Method:
    make = at_scale(functools.partial(factory, **options), warms_up=warms_up)
    return Method(label, GREY, make)


_lena, _amplified = optax_lena.lena, optax_lena.lena_amplified
ABLATIONS = {
    # Without one part each.
    "amplified_by_1": _variant(
        "noise not amplified", _amplified, rule=optax_lena.capped_gain
    ),
    "amplified_no_limit": _variant("no spike limit", _amplified, spike_limit=None),
    "amplified_behind": _variant(
        "rate behind the momentum",
        _lena,
        rule=optax_lena.amplified_gain,
        warmup="fixed",
        clock="rate_steps",
        averages="relative",
        spike_limit=2.0,
    ),
    "amplified_no_warmup": _variant("no warm-up", _amplified, warms_up=False),
    "amplified_state_aware": _variant(
        "state-aware warm-up", _amplified, warmup="state_aware"
    ),
    "amplified_base_clock": _variant(
        "schedule on base steps", _amplified, clock="base_steps"
    ),
    "amplified_gain_clock": _variant(
        "schedule on gain steps", _amplified, clock="gain_steps"
    ),
    "amplified_absolute": _variant(
        "absolute averages", _amplified, averages="absolute"
    ),
    "amplified_whole_model": _variant(
        "one layer: the model", _amplified, layers=optax_lena.whole_model
    ),
    # Other settings.
    "amplified_by_4": _variant("noise × 4", _amplified, rule=_at_noise_times(4)),
    "amplified_by_16": _variant("noise × 16", _amplified, rule=_at_noise_times(16)),
    "amplified_by_32": _variant("noise × 32", _amplified, rule=_at_noise_times(32)),
    "amplified_limit_1": _variant("spike limit 1", _amplified, spike_limit=1.0),
    "amplified_limit_4": _variant("spike limit 4", _amplified, spike_limit=4.0),
    "amplified_horizon_300": _variant("horizon 300", _amplified, horizon=300),
    # Other rules.
    "amplified_shrunk": _variant(
        "gains halfway to their mean", _amplified, rule=optax_lena.Rule(_shrunk)
    ),
    "gain_times_8": _variant("min(8 · gain, S)", _amplified, rule=_TIMES_EIGHT),
    "gain_geometric": _variant("√(S · gain)", _amplified, rule=_GEOMETRIC),
    "amplified_linear": _variant("S", _amplified, rule=optax_lena.linear),
    # One part each on top of LENA.
    "lena_amplified_rule": _variant(
        "LENA, noise × 8", _lena, rule=optax_lena.amplified_gain
    ),
    "lena_spike_limit": _variant("LENA, spike limit 2", _lena, spike_limit=2.0),
    "lena_fixed_warmup": _variant("LENA, fixed warm-up", _lena, warmup="fixed"),
    "lena_relative": _variant("LENA, relative averages", _lena, averages="relative"),
    "lena_rate_clock": _variant(
        "LENA, schedule on rate steps", _lena, clock="rate_steps"
    ),
}
# The rows of an ablation; where a row takes minutes, only those that matter most.
EVERY_PART = (
    "lena_amplified",
    "lena",
    "lena_no_warmup",
    "linear_state_aware",
    "adascale",
    *ABLATIONS,
)
MAIN_PARTS = (
    "lena_amplified",
    "lena",
    "amplified_by_1",
    "amplified_no_limit",
    "amplified_behind",
    "amplified_no_warmup",
    "amplified_state_aware",
    "amplified_base_clock",
    "amplified_absolute",
    "amplified_whole_model",
    "amplified_by_4",
    "amplified_by_16",
    "amplified_linear",
)
EVERY = METHODS | ADAM_METHODS | ABLATIONS
