"""Methods: the ways to train at a larger batch with a recipe tuned at a small one.

In: a recipe, S and the base run's length. Out: an optax optimizer.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax.numpy as jnp
import optax

import optax_lena
from benchmarks.workloads import ADAMW, SGD, Recipe

Factory = Callable[..., optax.GradientTransformation]
Make = Callable[[Recipe, int, int], optax.GradientTransformation]


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to train.

    Attributes:
      label: for people.
      colour: in figures; Okabe and Ito's palette, which colour-blind readers can tell
        apart, and grey for what is not of the demo.
      make: `make(recipe, batch_scale, base_steps)` returns the optimizer.
      needs_moments: whether its update reads the gradient's moments.
      own_clock: whether it trains until its `gain_steps` reach the base run's steps,
        and not for the base run's examples.
      rates: the grid over which the rate is tuned again at every S; none: the rate
        stays the recipe's.
      tuned_as: the method with whose rate, tuned once at S = 1, it trains at every S;
        empty: the recipe's rate.
      preconditioned: whether the moments are those of the gradient as Adam divides it.
    """

    label: str
    colour: str
    make: Make
    needs_moments: bool = True
    own_clock: bool = False
    rates: tuple[float, ...] = ()
    tuned_as: str = ""
    preconditioned: bool = False


def _momentum_sgd(
    learning_rate: optax.ScalarOrSchedule, weight_decay: float, momentum: float
) -> optax.GradientTransformation:
    return optax.chain(
        optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate, momentum)
    )


def _base(
    recipe: Recipe, batch_scale: int, base_steps: int
) -> optax.GradientTransformation:
    del batch_scale
    if recipe.optimizer == ADAMW:
        return optax.adamw(
            recipe.rate(base_steps),
            b1=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
    return _momentum_sgd(recipe.rate(base_steps), recipe.weight_decay, recipe.momentum)


def at_scale(factory: Factory, *, warms_up: bool, optimizer: str = SGD) -> Make:
    """The recipe, unchanged but for S, given to an optimizer of the library.

    Args:
      factory: of the library's optimizer.
      warms_up: whether it gets the recipe's warm-up.
      optimizer: whose recipes it scales.

    Returns:
      `Method.make`, which raises ValueError for a recipe of another optimizer.
    """

    def make(
        recipe: Recipe, batch_scale: int, base_steps: int
    ) -> optax.GradientTransformation:
        if recipe.optimizer != optimizer:
            raise ValueError(
                f"The method scales recipes of {optimizer!r}, got one of "
                f"{recipe.optimizer!r}: take one of the table's own methods."
            )
        return factory(
            recipe.rate(base_steps),
            batch_scale,
            warmup_steps=recipe.warmup_steps(base_steps) if warms_up else 0,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )

    return make


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

        def schedule(updates: jnp.ndarray) -> jnp.ndarray:
            steps = batch_scale * updates
            factor = jnp.minimum((steps + batch_scale) / length, 1)
            return (
                gain(batch_scale) * factor * (rate(steps) if callable(rate) else rate)
            )

        return factory(schedule, weight_decay=recipe.weight_decay, **options)

    return make


_square_root = functools.partial(
    optax_lena.lena,
    rule=optax_lena.Rule(lambda gain, scale: jnp.full_like(gain, jnp.sqrt(scale))),
    warmup="fixed",
)
_adascale_base_clock = functools.partial(optax_lena.adascale, clock="base_steps")
_linear_state_aware = functools.partial(optax_lena.linear_scaling, warmup="state_aware")
_linear_layer_wise = functools.partial(
    _linear_state_aware, layers=optax_lena.per_parameter
)

LINEAR = at_scale(optax_lena.linear_scaling, warms_up=True)
ADASCALE = at_scale(optax_lena.adascale, warms_up=False)
LENA = at_scale(optax_lena.lena, warms_up=True)

GREY = "#999999"
METHODS = {
    "base": Method("base recipe", "#666666", _base, needs_moments=False),
    "linear": Method("linear scaling", "#D55E00", LINEAR, needs_moments=False),
    "square_root": Method(
        "square-root scaling", GREY, at_scale(_square_root, warms_up=True)
    ),
    "adascale": Method("AdaScale", "#0072B2", ADASCALE, own_clock=True),
    "adascale_base_clock": Method(
        "AdaScale, base clock", GREY, at_scale(_adascale_base_clock, warms_up=False)
    ),
    "adascale_warmup": Method(
        "AdaScale + state-aware warm-up",
        GREY,
        at_scale(_adascale_base_clock, warms_up=True),
    ),
    "lena": Method("LENA", "#009E73", LENA),
    "lena_amplified": Method(
        "amplified LENA",
        "#CC79A7",
        at_scale(optax_lena.lena_amplified, warms_up=True),
    ),
    "lena_no_warmup": Method(
        "LENA, no warm-up", GREY, at_scale(optax_lena.lena, warms_up=False)
    ),
    "linear_state_aware": Method(
        "linear + state-aware warm-up",
        GREY,
        at_scale(_linear_state_aware, warms_up=True),
    ),
    "linear_layer_wise": Method(
        "linear + layer-wise warm-up",
        GREY,
        at_scale(_linear_layer_wise, warms_up=True),
    ),
    "lena_lars": Method(
        "LENA + LARS",
        GREY,
        at_scale(optax_lena.lena_lars, warms_up=True),
        tuned_as="lars_tuned",
    ),
    "sgd_tuned": Method(
        "momentum SGD, re-tuned",
        GREY,
        fixed_warmup(_momentum_sgd, momentum=0.9),
        needs_moments=False,
        rates=(0.1, 0.2, 0.4, 0.8, 1.6, 3.2),
    ),
    "lars_tuned": Method(
        "LARS, re-tuned",
        GREY,
        fixed_warmup(optax.lars, momentum=0.9),
        needs_moments=False,
        rates=(0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0),
    ),
    "lamb_tuned": Method(
        "LAMB, re-tuned",
        GREY,
        fixed_warmup(optax.lamb),
        needs_moments=False,
        rates=(0.003, 0.01, 0.03, 0.06, 0.1, 0.2),
    ),
}
# What a newcomer's demo compares.
DEMO = ("linear", "adascale", "lena", "lena_amplified")
