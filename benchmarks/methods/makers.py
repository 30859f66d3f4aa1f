"""Makers: three ways to turn an optimizer into `Method.make`.

`at_scale` gives the recipe and S to an optimizer of the library; `composed` chains one
from the library's parts, one level below; `fixed_warmup` gives an optimizer of optax
the rate that it is to have at S.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

import optax_lena
from benchmarks.methods.method import Factory, Make
from benchmarks.tasks.recipe import SGD, Recipe
from optax_lena._transform.momentum import trace_of_examples


def at_scale(factory: Factory, *, warms_up: bool = True, optimizer: str = SGD) -> Make:
    """The recipe, unchanged but for S, given to an optimizer of the library.

    Args:
      factory: of the library's optimizer.
      warms_up: whether it gets the recipe's warm-up.
      optimizer: whose recipes it scales.
    """

    def make(
        recipe: Recipe, batch_scale: int, base_steps: int
    ) -> optax.GradientTransformation:
        _check_optimizer(recipe, optimizer)
        return factory(
            recipe.rate(base_steps),
            batch_scale,
            warmup_steps=recipe.warmup_steps(base_steps) if warms_up else 0,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )

    return make


def composed(
    rate: optax_lena.LayerRate,
    *,
    layers: optax_lena.Layers = optax_lena.per_parameter,
    enters_buffer: bool = False,
    counts_examples: bool = False,
    warms_up: bool = True,
) -> Make:
    """Momentum SGD with a rate per layer, chained as the library's optimizers are.

    Args:
      rate: its parts; the recipe gives the learning rate, and the warm-up its length.
      layers: what one layer is.
      enters_buffer: whether the rate stands before the momentum, or behind it.
      counts_examples: whether the momentum follows S.
      warms_up: whether the warm-up has the recipe's length, or none.
    """

    def make(
        recipe: Recipe, batch_scale: int, base_steps: int
    ) -> optax.GradientTransformation:
        _check_optimizer(recipe, SGD)
        length = recipe.warmup_steps(base_steps) if warms_up else 0
        own = dataclasses.replace(
            rate,
            learning_rate=recipe.rate(base_steps),
            warmup=type(rate.warmup)(length),
        )
        scale = optax_lena.scale_by_layer_rate(own, batch_scale, layers=layers)
        buffer = buffer_of(recipe.momentum, batch_scale if counts_examples else None)
        return optax.chain(
            optax.add_decayed_weights(recipe.weight_decay),
            *((scale, buffer) if enters_buffer else (buffer, scale)),
            optax.scale(-1.0),
        )

    return make


def momentum_at(momentum: float, batch_scale: int) -> float:
    """The momentum that counts examples, down to the floor of `lena_amplified`."""
    return float(optax_lena.decay_at(momentum, batch_scale, 0.8))


def buffer_of(momentum: float, batch_scale: int | None) -> optax.GradientTransformation:
    """A momentum buffer.

    Args:
      momentum: at the base batch.
      batch_scale: S, whose examples it counts, as in `lena_amplified`; None: it is as
        it is.
    """
    if batch_scale is None:
        return optax.trace(momentum)
    return trace_of_examples(batch_scale, momentum, False, None)


def _check_optimizer(recipe: Recipe, optimizer: str) -> None:
    if recipe.optimizer != optimizer:
        raise ValueError(
            f"The method scales recipes of {optimizer!r}, got one of "
            f"{recipe.optimizer!r}: take one of the table's own methods."
        )


def fixed_warmup(
    factory: Factory,
    gain: Callable[[int], float] = lambda batch_scale: 1.0,
    **options: float,
) -> Make:
    """An optax optimizer with the recipe's schedule and a fixed warm-up of its rate.

    Args:
      factory: of the optimizer, of a schedule and `weight_decay`.
      gain: by which the rate is multiplied at S; 1 for a rate tuned at that S.
      **options: of the optimizer.
    """

    def make(
        recipe: Recipe, batch_scale: int, base_steps: int
    ) -> optax.GradientTransformation:
        rate, length = recipe.rate(base_steps), recipe.warmup_steps(base_steps)
        schedule = warmed_up(rate, batch_scale, gain(batch_scale), length)
        return factory(schedule, weight_decay=recipe.weight_decay, **options)

    return make


def warmed_up(
    rate: optax.ScalarOrSchedule, batch_scale: int, multiple: float, length: float
) -> optax.Schedule:
    """A multiple of a rate, over updates at S, after a fixed warm-up.

    Args:
      rate: at the base batch, or its schedule over base batches.
      batch_scale: S.
      multiple: of the rate.
      length: of the warm-up, in base batches.
    """

    def schedule(updates: jax.typing.ArrayLike) -> jax.Array:
        steps = batch_scale * jnp.asarray(updates)
        factor = jnp.minimum((steps + batch_scale) / length, 1)
        return multiple * factor * (rate(steps) if callable(rate) else rate)

    return schedule
