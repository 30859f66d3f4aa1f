"""Ablations: what each part of `lena_amplified` does, and what was tried instead.

In: `methods.METHODS`. Out: further methods, for `python -m benchmarks.suite
text_ablation`, which measures them on validation data.
"""

import functools

import jax.numpy as jnp

import optax_lena
from benchmarks.adam_methods import ADAM_METHODS
from benchmarks.methods import GREY, METHODS, Factory, Method, at_scale


def _amplified_by(factor: float) -> optax_lena.Rule:
    return optax_lena.Rule(
        lambda gain, scale: jnp.minimum(factor * gain, scale),
        warm_up=optax_lena.amplified_gain.warm_up,
    )


# The warm-up multiplies what the rule gives, as in `lena`.
_MULTIPLIED = optax_lena.Rule(optax_lena.amplified_gain.trust_ratio)
# The rate is never below the base rate, but may start below square-root scaling.
_FROM_ONE = optax_lena.Rule(
    optax_lena.amplified_gain.trust_ratio,
    warm_up=lambda ratio, factor, scale: jnp.minimum(
        ratio, jnp.maximum(scale * factor, 1)
    ),
)
# Halfway, on a logarithmic scale, between LENA's rule and linear scaling.
_GEOMETRIC = optax_lena.Rule(lambda gain, scale: jnp.sqrt(gain * scale))


def _variant(
    label: str, factory: Factory, *, warms_up: bool = True, **options
) -> Method:
    make = at_scale(functools.partial(factory, **options), warms_up=warms_up)
    return Method(label, GREY, make)


_lena, _amplified = optax_lena.lena, optax_lena.lena_amplified
ABLATIONS = {
    # Without one part each.
    "amplified_absolute": _variant(
        "absolute averages", _amplified, averages="absolute"
    ),
    "amplified_by_1": _variant("not amplified", _amplified, rule=_amplified_by(1)),
    "amplified_multiplied": _variant(
        "warm-up multiplies the rate", _amplified, rule=_MULTIPLIED
    ),
    "amplified_from_one": _variant(
        "limit starts at 1, not √S", _amplified, rule=_FROM_ONE
    ),
    "amplified_layer_warmup": _variant(
        "layer-wise warm-up", _amplified, warmup="state_aware"
    ),
    "amplified_base_clock": _variant(
        "schedule on base steps", _amplified, clock="base_steps"
    ),
    "amplified_gain_clock": _variant(
        "schedule on gain steps", _amplified, clock="gain_steps"
    ),
    "amplified_whole_model": _variant(
        "one layer: the model", _amplified, layers=optax_lena.whole_model
    ),
    "amplified_no_warmup": _variant("no warm-up", _amplified, warms_up=False),
    # Other settings.
    "amplified_by_2": _variant("amplified by 2", _amplified, rule=_amplified_by(2)),
    "amplified_by_8": _variant("amplified by 8", _amplified, rule=_amplified_by(8)),
    "amplified_horizon_300": _variant("horizon 300", _amplified, horizon=300),
    # One part each on top of LENA.
    "lena_relative": _variant("LENA, relative averages", _lena, averages="relative"),
    "lena_rate_clock": _variant(
        "LENA, schedule on rate steps", _lena, clock="rate_steps"
    ),
    "lena_geometric": _variant(
        "LENA, √(S · gain), no warm-up", _lena, warms_up=False, rule=_GEOMETRIC
    ),
    "linear_rate_clock": _variant(
        "linear + state-aware warm-up, rate steps",
        _lena,
        rule=optax_lena.linear,
        warmup="model_aware",
        clock="rate_steps",
    ),
}
COMPARED = (
    "lena_amplified",
    "lena",
    "lena_no_warmup",
    "linear_state_aware",
    "adascale",
)
EVERY = METHODS | ADAM_METHODS | ABLATIONS
