"""Recipes of AdamW."""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

import optax_lena
from benchmarks.methods.adamw import memories
from benchmarks.methods.rates import FIRST_NORMALISED
from benchmarks.unseen.family import WARMUP, Family, Method

# At the base batch, by seeds 100 and 101, the same for both families.
GRID = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032)
WEIGHT_DECAY = 0.01
Recipe = Callable[[optax.Schedule, int], optax.GradientTransformation]


def at_rate(gain: Callable[[int], float], recipe: Recipe) -> Recipe:
    """A recipe whose rate is a multiple of the base recipe's, after a fixed warm-up."""

    def make(
        schedule: optax.Schedule, batch_scale: int
    ) -> optax.GradientTransformation:
        def rate(updates: jax.typing.ArrayLike) -> jax.Array:
            steps = batch_scale * jnp.asarray(updates)
            factor = jnp.minimum((steps + batch_scale) / WARMUP, 1)
            return gain(batch_scale) * factor * schedule(steps)

        return recipe(rate, batch_scale)

    return make


_adamw = functools.partial(optax.adamw, weight_decay=WEIGHT_DECAY)
_lena_adamw = functools.partial(optax_lena.lena_adamw, weight_decay=WEIGHT_DECAY)


def _by_updates(
    schedule: optax.Schedule, batch_scale: int
) -> optax.GradientTransformation:
    del batch_scale
    return _adamw(schedule)


def _by_examples(
    schedule: optax.Schedule, batch_scale: int
) -> optax.GradientTransformation:
    return _adamw(schedule, **memories(0.9, batch_scale))


def _first(layers: optax_lena.Layers) -> Recipe:
    """`lena_adamw` without limits on its ratios."""

    def make(
        schedule: optax.Schedule, batch_scale: int
    ) -> optax.GradientTransformation:
        rate = dataclasses.replace(FIRST_NORMALISED, learning_rate=schedule)
        return optax.chain(
            optax_lena.scale_by_adam(batch_scale),
            optax.add_decayed_weights(WEIGHT_DECAY),
            optax_lena.scale_by_layer_rate(rate, batch_scale, layers=layers),
            optax.scale(-1.0),
        )

    return make


ADAMW = Family(
    label="AdamW (decay 0.01)",
    records="unseen_adamw",
    rate=lambda task: task.adamw_rate,
    grid=lambda task: GRID,
    base=_adamw,
    methods={
        "constant": Method(
            "rate as it is", at_rate(lambda scale: 1.0, _by_updates), False
        ),
        "square_root": Method(
            "square-root scaling", at_rate(math.sqrt, _by_updates), False
        ),
        "linear": Method("linear scaling", at_rate(float, _by_updates), False),
        "square_root_memories": Method(
            "square-root scaling, memories by examples",
            at_rate(math.sqrt, _by_examples),
            False,
        ),
        "lena_adamw_model": Method(
            "LENA + AdamW, one layer: the model",
            functools.partial(_lena_adamw, layers=optax_lena.whole_model),
        ),
        "lena_adamw": Method("LENA + AdamW", _lena_adamw),
        "lena_adamw_first_model": Method(
            "first LENA + AdamW, one layer: the model", _first(optax_lena.whole_model)
        ),
        "lena_adamw_first": Method(
            "first LENA + AdamW, ratios not limited", _first(optax_lena.per_parameter)
        ),
    },
    recommended="lena_adamw",
    own=(
        "lena_adamw",
        "lena_adamw_model",
        "lena_adamw_first",
        "lena_adamw_first_model",
    ),
    pairs={
        "LENA + AdamW": ("lena_adamw", "lena_adamw_model"),
        "first": ("lena_adamw_first", "lena_adamw_first_model"),
    },
)
