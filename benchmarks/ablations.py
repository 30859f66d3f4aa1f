"""Ablations: what each part of `lena_amplified` does, and what was tried instead.

In: `methods.METHODS`. Out: further methods, for `python -m benchmarks.suite
text_ablation` and the other ablations, which measure on validation data.
"""

import functools
from typing import Any

import jax.numpy as jnp
import optax

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
_TIMES_FOUR = optax_lena.Rule(lambda gain, scale: jnp.minimum(4 * gain, scale))
# Halfway, on a logarithmic scale, between LENA's rule and linear scaling.
_GEOMETRIC = optax_lena.Rule(lambda gain, scale: jnp.sqrt(gain * scale))


def _shrunk(gain: jnp.ndarray, scale: jnp.ndarray) -> jnp.ndarray:
    """`amplified_gain` of gains halfway to their mean, on a logarithmic scale."""
    halfway = jnp.sqrt(gain * jnp.exp(jnp.mean(jnp.log(gain))))
    return optax_lena.amplified_gain.trust_ratio(halfway, scale)


def _buffer_behind(
    learning_rate: optax.ScalarOrSchedule,
    batch_scale: int,
    *,
    momentum: float,
    **options: Any,
) -> optax.GradientTransformation:
    """`lena_amplified` whose rate and trust ratio enter the momentum buffer."""
    plain = optax_lena.lena_amplified(
        learning_rate, batch_scale, momentum=None, **options
    )
    return optax.chain(plain, optax.trace(momentum))


def _variant(
    label: str, factory: Factory, *, warms_up: bool = False, **options
) -> Method:
    make = at_scale(functools.partial(factory, **options), warms_up=warms_up)
    return Method(label, GREY, make)


_lena, _amplified = optax_lena.lena, optax_lena.lena_amplified
ABLATIONS = {
    # Without one part each.
    "amplified_by_1": _variant(
        "noise not amplified", _amplified, rule=optax_lena.capped_gain
    ),
    "amplified_warmup": _variant("with a warm-up", _amplified, warms_up=True),
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
    "amplified_buffer_behind": _variant("ratio inside the momentum", _buffer_behind),
    # Other settings.
    "amplified_by_2": _variant("noise × 2", _amplified, rule=_at_noise_times(2)),
    "amplified_by_8": _variant("noise × 8", _amplified, rule=_at_noise_times(8)),
    "amplified_by_16": _variant("noise × 16", _amplified, rule=_at_noise_times(16)),
    "amplified_horizon_300": _variant("horizon 300", _amplified, horizon=300),
    # Other rules.
    "amplified_shrunk": _variant(
        "gains halfway to their mean", _amplified, rule=optax_lena.Rule(_shrunk)
    ),
    "gain_times_4": _variant("min(4 · gain, S)", _amplified, rule=_TIMES_FOUR),
    "gain_geometric": _variant("√(S · gain)", _amplified, rule=_GEOMETRIC),
    "linear_rate_clock": _variant(
        "linear + state-aware warm-up, rate steps",
        _lena,
        warms_up=True,
        rule=optax_lena.linear,
        layers=optax_lena.whole_model,
        clock="rate_steps",
    ),
    # One part each on top of LENA.
    "lena_amplified_rule": _variant(
        "LENA, noise × 4", _lena, warms_up=True, rule=optax_lena.amplified_gain
    ),
    "lena_relative": _variant(
        "LENA, relative averages", _lena, warms_up=True, averages="relative"
    ),
    "lena_rate_clock": _variant(
        "LENA, schedule on rate steps", _lena, warms_up=True, clock="rate_steps"
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
    "amplified_warmup",
    "amplified_base_clock",
    "amplified_absolute",
    "amplified_whole_model",
    "gain_times_4",
)
EVERY = METHODS | ADAM_METHODS | ABLATIONS
