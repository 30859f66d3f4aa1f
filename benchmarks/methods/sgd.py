"""Methods for recipes of momentum SGD."""

import dataclasses

import optax

import optax_lena
from benchmarks.methods.base import BASE, momentum_sgd
from benchmarks.methods.makers import at_scale, composed, fixed_warmup
from benchmarks.methods.method import Method
from benchmarks.methods.rates import LENA, ONE, ROOT_OF_SCALE
from benchmarks.tasks.recipe import Recipe

_SQUARE_ROOT = dataclasses.replace(
    LENA, rule=ROOT_OF_SCALE, warmup=optax_lena.FixedWarmup(0)
)
_STATE_AWARE = dataclasses.replace(LENA, rule=optax_lena.linear)
_FIXED_ADASCALE = dataclasses.replace(
    LENA, clock="gain_steps", warmup=optax_lena.FixedWarmup(0)
)
# For a rate that is tuned at every S: nothing but the warm-up is LENA's.
_AS_IT_IS = dataclasses.replace(LENA, rule=ONE)
# Momentum SGD is what all others are held against, so it is tuned with more seeds.
_RATES, _SEEDS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2), (100, 101, 102)
_MODEL = optax_lena.whole_model


def _long_warmup(
    recipe: Recipe, batch_scale: int, base_steps: int
) -> optax.GradientTransformation:
    longer = dataclasses.replace(recipe, warmup_share=0.2)
    return fixed_warmup(momentum_sgd, momentum=0.9)(longer, batch_scale, base_steps)


SGD_METHODS = {
    "base": BASE,
    "linear": Method(
        "linear scaling",
        at_scale(optax_lena.linear_scaling),
        "#D55E00",
        needs_moments=False,
    ),
    "square_root": Method("square-root scaling", composed(_SQUARE_ROOT)),
    "adascale": Method(
        "AdaScale",
        at_scale(optax_lena.adascale, warms_up=False),
        "#0072B2",
        own_clock=True,
    ),
    "adascale_fixed_warmup": Method(
        "AdaScale + fixed warm-up",
        composed(_FIXED_ADASCALE, layers=_MODEL),
        own_clock=True,
    ),
    "adascale_base_clock": Method(
        "AdaScale, base clock", composed(LENA, layers=_MODEL, warms_up=False)
    ),
    "adascale_warmup": Method(
        "AdaScale + state-aware warm-up", composed(LENA, layers=_MODEL)
    ),
    "lena": Method("LENA", at_scale(optax_lena.lena), "#009E73"),
    "lena_amplified": Method(
        "amplified LENA", at_scale(optax_lena.lena_amplified), "#CC79A7"
    ),
    "lena_no_warmup": Method(
        "LENA, no warm-up", at_scale(optax_lena.lena, warms_up=False)
    ),
    "linear_state_aware": Method(
        "linear + state-aware warm-up", composed(_STATE_AWARE, layers=_MODEL)
    ),
    "linear_layer_wise": Method("linear + layer-wise warm-up", composed(_STATE_AWARE)),
    "lena_lars": Method(
        "LENA + LARS", at_scale(optax_lena.lena_lars), tuned_as="lars_tuned"
    ),
    "sgd_tuned": Method(
        "momentum SGD, re-tuned",
        fixed_warmup(momentum_sgd, momentum=0.9),
        needs_moments=False,
        rates=_RATES,
        tuning_seeds=_SEEDS,
    ),
    "sgd_tuned_long_warmup": Method(
        "momentum SGD, re-tuned, 20 % warm-up",
        _long_warmup,
        needs_moments=False,
        rates=_RATES,
        tuning_seeds=_SEEDS,
    ),
    "sgd_tuned_state_aware": Method(
        "momentum SGD, re-tuned, state-aware warm-up",
        composed(_AS_IT_IS, layers=_MODEL),
        rates=_RATES,
        tuning_seeds=_SEEDS,
    ),
    "lars_tuned": Method(
        "LARS, re-tuned",
        fixed_warmup(optax.lars, momentum=0.9),
        needs_moments=False,
        rates=(0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0),
    ),
    "lamb_tuned": Method(
        "LAMB, re-tuned",
        fixed_warmup(optax.lamb),
        needs_moments=False,
        rates=(0.003, 0.01, 0.03, 0.06, 0.1, 0.2),
    ),
}
