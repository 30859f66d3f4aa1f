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


def _at_scale(
    factory: Callable[..., optax.GradientTransformation], *, warms_up: bool
) -> Make:
    """The recipe, unchanged but for S, given to an optimizer of the library."""

    def make(
        recipe: Recipe, batch_scale: int, base_steps: int
    ) -> optax.GradientTransformation:
        return factory(
            recipe.rate(base_steps),
            batch_scale,
            warmup_steps=recipe.warmup_steps(base_steps) if warms_up else 0,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )

    return make


LINEAR = _at_scale(optax_lena.linear_scaling, warms_up=True)
ADASCALE = _at_scale(optax_lena.adascale, warms_up=False)
LENA = _at_scale(optax_lena.lena, warms_up=True)

METHODS = {
    "base": Method("base recipe", "#666666", _base, needs_moments=False),
    "linear": Method("linear scaling", "#D55E00", LINEAR, needs_moments=False),
    "adascale": Method("AdaScale", "#0072B2", ADASCALE, own_clock=True),
    "lena": Method("LENA", "#009E73", LENA),
}
