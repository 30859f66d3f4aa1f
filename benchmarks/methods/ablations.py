"""Ablations: what each part of `lena_amplified` does, and what was tried instead.

`python -m benchmarks.suite text_ablation` and the other ablations measure them, on
validation data. Each is a rate of `rates.py` with another part; most are the first
version with one change, which led to the present one.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import optax_lena
from benchmarks.methods.guards import LimitToBase
from benchmarks.methods.makers import at_scale, composed, momentum_at
from benchmarks.methods.method import Make, Method
from benchmarks.methods.rates import (
    CUT_TO_BASE,
    FIRST_AMPLIFIED,
    LENA,
    NO_LOSS_LIMIT,
    REMEMBERED_AMPLIFIED,
    WARMUP_UPDATES,
    noise_times,
)
from benchmarks.tasks.recipe import Recipe


def _amplified(label: str, **parts: Any) -> Method:
    """The first version of `lena_amplified` with these parts in place of its own."""
    rate = dataclasses.replace(FIRST_AMPLIFIED, **parts)
    return Method(label, composed(rate, enters_buffer=True))


def _on_base_steps(label: str, factor: float, horizon: float) -> Method:
    """`lena_amplified` with another factor on the noise, and another horizon."""
    averages = optax_lena.Averages(horizon, relative=True)
    rule = noise_times(factor)
    rate = dataclasses.replace(NO_LOSS_LIMIT, rule=rule, estimator=averages)
    return Method(label, composed(rate, enters_buffer=True))


def _present(label: str, **parts: Any) -> Method:
    """`lena_amplified` with these parts in place of its own."""
    rate = dataclasses.replace(NO_LOSS_LIMIT, **parts)
    return Method(f"amplified LENA, {label}", composed(rate, enters_buffer=True))


def _present_as(label: str, **options: Any) -> Method:
    """`lena_amplified`, chained otherwise."""
    return Method(f"amplified LENA, {label}", composed(NO_LOSS_LIMIT, **options))


def _longer_warmup(recipe: Recipe, batch_scale: int, base_steps: int) -> Recipe:
    """The recipe with a warm-up of so many updates at least."""
    share = WARMUP_UPDATES * batch_scale / base_steps
    return dataclasses.replace(recipe, warmup_share=max(recipe.warmup_share, share))


def _counting_momentum(recipe: Recipe, batch_scale: int, base_steps: int) -> Recipe:
    """The recipe with a momentum that counts examples, and as long a step in all."""
    momentum = momentum_at(recipe.momentum, batch_scale)
    rate = recipe.learning_rate * (1 - momentum) / (1 - recipe.momentum)
    return dataclasses.replace(recipe, momentum=momentum, learning_rate=rate)


def _with_recipe(change: Callable[[Recipe, int, int], Recipe], make_of: Make) -> Make:
    """An optimizer of another recipe.

    Args:
      change: makes it of the workload's.
      make_of: makes the optimizer of it.
    """

    def make(
        recipe: Recipe, batch_scale: int, base_steps: int
    ) -> optax.GradientTransformation:
        other = change(recipe, batch_scale, base_steps)
        return make_of(other, batch_scale, base_steps)

    return make


def _lena(label: str, **parts: Any) -> Method:
    """`lena` with these parts in place of its own."""
    return Method(label, composed(dataclasses.replace(LENA, **parts)))


def _shrunk(estimate: optax_lena.Estimate, scale: jax.Array) -> jax.Array:
    """The rule of gains halfway to their mean, on a logarithmic scale.

    The whole model, the last row, is no layer and keeps its own.
    """
    gain = estimate.gain(scale)
    mean = jnp.exp(jnp.mean(jnp.log(gain[:-1])))
    halfway = jnp.sqrt(gain * mean).at[-1].set(gain[-1])
    # The noise and the signal that have this gain, up to a common factor.
    shrunk = optax_lena.Estimate(halfway - 1, 1 - halfway / scale)
    return noise_times(8).trust_ratio(shrunk, scale)


# The gain itself times a factor, which overshoots where the gain is large.
_TIMES_EIGHT = optax_lena.Rule(
    lambda estimate, scale: jnp.minimum(8 * estimate.gain(scale), scale)
)
# Halfway, on a logarithmic scale, between LENA's rule and linear scaling.
_GEOMETRIC = optax_lena.Rule(
    lambda estimate, scale: jnp.sqrt(estimate.gain(scale) * scale)
)
_RELATIVE = optax_lena.Averages(relative=True)
_PRESENT = composed(NO_LOSS_LIMIT, enters_buffer=True)

ABLATIONS = {
    "amplified_first": _amplified("first amplified LENA"),
    # Without one part each.
    "amplified_by_1": _amplified("noise not amplified", rule=optax_lena.capped_gain),
    "amplified_no_limit": _amplified("no spike limit", guard=None),
    "amplified_behind": Method("rate behind the momentum", composed(FIRST_AMPLIFIED)),
    "amplified_no_warmup": Method(
        "no warm-up", composed(FIRST_AMPLIFIED, enters_buffer=True, warms_up=False)
    ),
    "amplified_state_aware": _amplified(
        "state-aware warm-up", warmup=optax_lena.StateAwareWarmup(0)
    ),
    "amplified_base_clock": _amplified("schedule on base steps", clock="base_steps"),
    "amplified_gain_clock": _amplified("schedule on gain steps", clock="gain_steps"),
    "amplified_absolute": _amplified(
        "absolute averages", estimator=optax_lena.Averages()
    ),
    "amplified_whole_model": Method(
        "one layer: the model",
        composed(FIRST_AMPLIFIED, layers=optax_lena.whole_model, enters_buffer=True),
    ),
    # Other settings.
    "amplified_by_4": _amplified("noise × 4", rule=noise_times(4)),
    "amplified_by_16": _amplified("noise × 16", rule=noise_times(16)),
    "amplified_by_32": _amplified("noise × 32", rule=noise_times(32)),
    "amplified_limit_1": _amplified("spike limit 1", guard=LimitToBase(1.0)),
    "amplified_limit_4": _amplified("spike limit 4", guard=LimitToBase(4.0)),
    "amplified_horizon_300": _amplified(
        "horizon 300", estimator=optax_lena.Averages(horizon=300.0, relative=True)
    ),
    # Between the first version and the present one.
    "amplified_by_4_1000": _on_base_steps("× 4, base steps, horizon 1,000", 4, 1000.0),
    "amplified_by_8_300": _on_base_steps("× 8, base steps, horizon 300", 8, 300.0),
    "amplified_by_8_100": _on_base_steps("× 8, base steps, horizon 100", 8, 100.0),
    # After the present one.
    "amplified_remembered": Method(
        "amplified LENA, spikes remembered",
        composed(REMEMBERED_AMPLIFIED, enters_buffer=True),
    ),
    "amplified_kept_momentum": Method(
        "amplified LENA, momentum as it is", composed(CUT_TO_BASE, enters_buffer=True)
    ),
    "amplified_cut_to_base": Method(
        "amplified LENA, spike limit 2",
        composed(CUT_TO_BASE, enters_buffer=True, counts_examples=True),
    ),
    "present_no_loss_limit": _present("no limit on the loss"),
    "present_by_2": _present("noise × 2", rule=noise_times(2)),
    "present_by_3": _present("noise × 3", rule=noise_times(3)),
    "present_no_limit": _present("no spike limit", guard=None),
    "present_absolute": _present(
        "absolute averages", estimator=optax_lena.Averages(horizon=300.0)
    ),
    "present_behind": _present_as("rate behind the momentum"),
    "present_no_warmup": _present_as("no warm-up", enters_buffer=True, warms_up=False),
    "present_whole_model": _present_as(
        "one layer: the model", layers=optax_lena.whole_model, enters_buffer=True
    ),
    "present_longer_warmup": Method(
        f"amplified LENA, warm-up of {WARMUP_UPDATES} updates or more",
        _with_recipe(_longer_warmup, _PRESENT),
    ),
    "present_counting_momentum": Method(
        "amplified LENA, momentum counts examples",
        _with_recipe(_counting_momentum, _PRESENT),
    ),
    "lena_counting_momentum": Method(
        "LENA, momentum counts examples",
        _with_recipe(_counting_momentum, at_scale(optax_lena.lena)),
    ),
    "adascale_counting_momentum": Method(
        "AdaScale, momentum counts examples",
        _with_recipe(_counting_momentum, at_scale(optax_lena.adascale, warms_up=False)),
        own_clock=True,
    ),
    # Other rules.
    "amplified_shrunk": _amplified(
        "gains halfway to their mean", rule=optax_lena.Rule(_shrunk)
    ),
    "gain_times_8": _amplified("min(8 · gain, S)", rule=_TIMES_EIGHT),
    "gain_geometric": _amplified("√(S · gain)", rule=_GEOMETRIC),
    "amplified_linear": _amplified("S", rule=optax_lena.linear),
    # One part each on top of LENA.
    "lena_amplified_rule": _lena("LENA, noise × 8", rule=noise_times(8)),
    "lena_spike_limit": _lena("LENA, spike limit 2", guard=LimitToBase(2.0)),
    "lena_fixed_warmup": _lena("LENA, fixed warm-up", warmup=optax_lena.FixedWarmup(0)),
    "lena_relative": _lena("LENA, relative averages", estimator=_RELATIVE),
    "lena_rate_clock": _lena("LENA, schedule on rate steps", clock="rate_steps"),
}
