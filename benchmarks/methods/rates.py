"""Rates: the library's parts as the methods put them together.

A rate holds everything but the learning rate and the warm-up's length, which the
recipe gives. Variants are `dataclasses.replace` of these.
"""

import dataclasses

import jax.numpy as jnp

import optax_lena
from benchmarks.methods.guards import ArithmeticLimit, LimitToBase, RememberedSpikes
from benchmarks.methods.loss_limits import FirstLossLimit
from optax_lena._optimizers.links import normalised_rate

LENA = optax_lena.LayerRate(
    clock="base_steps",
    estimator=optax_lena.Averages(),
    rule=optax_lena.capped_gain,
    warmup=optax_lena.StateAwareWarmup(0),
    guard=None,
)
AMPLIFIED = optax_lena.LayerRate(
    clock="base_steps",
    estimator=optax_lena.Averages(horizon=300.0, relative=True),
    rule=optax_lena.amplified_gain,
    warmup=optax_lena.FixedWarmup(0),
    guard=optax_lena.SpikeLimit(1.25),
    loss_limit=optax_lena.LossLimit(),
)
# `lena_amplified` was this until gradients were held back that grew on the way out of a
# plateau. Chained without the library's own buffer, the guard does not compare steps.
# What it was until a plateau was taken for a loss that rises:
FIRST_LOSS = dataclasses.replace(AMPLIFIED, loss_limit=FirstLossLimit())
# What it was until a denoiser was lost, whose gradient shrinks at once.
ARITHMETIC_LIMIT = dataclasses.replace(FIRST_LOSS, guard=ArithmeticLimit(1.25))
# What it was until point sets were lost, which start above chance.
LIMIT_OF_START = dataclasses.replace(
    ARITHMETIC_LIMIT, loss_limit=FirstLossLimit(rise=1.0)
)
# What it was until an attention model was lost with it.
CUT_TO_BASE = dataclasses.replace(LIMIT_OF_START, guard=LimitToBase(2.0))
# What all variants and ablations are made of: they were recorded before that, before
# there was a limit on the loss, and before the momentum counted examples.
NO_LOSS_LIMIT = dataclasses.replace(CUT_TO_BASE, loss_limit=None)


def noise_times(factor: float) -> optax_lena.Rule:
    """`amplified_gain` with another factor."""
    return optax_lena.Rule(
        lambda estimate, scale: estimate.amplified(factor).gain(scale)
    )


# A warm-up of so many updates was tried where the recipe's is shorter at S.
WARMUP_UPDATES = 20
# Tried on residual blocks with layer norm, and not taken.
REMEMBERED_AMPLIFIED = dataclasses.replace(NO_LOSS_LIMIT, guard=RememberedSpikes())
# What `lena_amplified` was until a deep regression was lost with it.
FIRST_AMPLIFIED = dataclasses.replace(
    NO_LOSS_LIMIT,
    clock="rate_steps",
    estimator=optax_lena.Averages(relative=True),
    rule=noise_times(8),
)
# What `lena_adamw` was until a denoiser was lost whose gradient and loss rise together.
NORMALISED = normalised_rate(1.0, 0, optax_lena.GrowthLimit(1.1))
# And before that, until its rate was seen to jump above the square root of S.
FIRST_NORMALISED = dataclasses.replace(
    NORMALISED,
    rule=optax_lena.Rule(
        lambda estimate, scale: (
            estimate.amplified(8).gain(scale) / jnp.sqrt(estimate.gain(scale))
        )
    ),
    guard=None,
    loss_limit=None,
)
# What multiplies no rate.
ONE = optax_lena.Rule(lambda estimate, scale: jnp.ones_like(estimate.noise))
# The square root of S.
ROOT_OF_SCALE = optax_lena.Rule(
    lambda estimate, scale: jnp.full_like(estimate.noise, jnp.sqrt(scale))
)
