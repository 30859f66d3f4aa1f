"""Methods: the ways to train at a larger batch with a recipe tuned at a small one.

In: a recipe, S and the base run's length. Out: an optax optimizer.
"""

import dataclasses
from collections.abc import Callable

import optax

import optax_lena
from benchmarks.workloads import Recipe

Make = Callable[[Recipe, int, int], optax.GradientTransformation]


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to train.

    Attributes:
      label: for people.
      colour: in figures; Okabe and Ito's palette, which colour-blind readers can tell
        apart.
      make: `make(recipe, batch_scale, base_steps)` returns the optimizer.
      needs_moments: whether its update reads the gradient's moments.
      own_clock: whether it trains until its `gain_steps` reach the base run's steps,
        and not for the base run's examples.
    """

    label: str
    colour: str
    make: Make
    needs_moments: bool = True
    own_clock: bool = False


def _base(
    recipe: Recipe, batch_scale: int, base_steps: int
) -> optax.GradientTransformation:
    del batch_scale
    return optax.chain(
        optax.add_decayed_weights(recipe.weight_decay),
        optax.sgd(recipe.rate(base_steps), recipe.momentum),
    )


def _linear(
    recipe: Recipe, batch_scale: int, base_steps: int
) -> optax.GradientTransformation:
    return optax_lena.linear_scaling(
        recipe.rate(base_steps),
        batch_scale,
        warmup_steps=recipe.warmup_steps(base_steps),
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
    )


def _adascale(
    recipe: Recipe, batch_scale: int, base_steps: int
) -> optax.GradientTransformation:
    return optax_lena.adascale(
        recipe.rate(base_steps),
        batch_scale,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
    )


def _lena(
    recipe: Recipe, batch_scale: int, base_steps: int
) -> optax.GradientTransformation:
    return optax_lena.lena(
        recipe.rate(base_steps),
        batch_scale,
        warmup_steps=recipe.warmup_steps(base_steps),
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
    )


METHODS = {
    "base": Method("base recipe", "#666666", _base, needs_moments=False),
    "linear": Method("linear scaling", "#D55E00", _linear, needs_moments=False),
    "adascale": Method("AdaScale", "#0072B2", _adascale, own_clock=True),
    "lena": Method("LENA", "#009E73", _lena),
}
