"""What a method is: from a recipe, S and the base run's length to an optimizer."""

import dataclasses
from collections.abc import Callable

import optax

from benchmarks.tasks.recipe import Recipe

Factory = Callable[..., optax.GradientTransformation]
Make = Callable[[Recipe, int, int], optax.GradientTransformation]
# For methods that have no colour of their own.
GREY = "#999999"


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to train.

    Attributes:
      label: for people.
      make: `make(recipe, batch_scale, base_steps)` returns the optimizer.
      colour: in figures; Okabe and Ito's palette, which colour-blind readers can tell
        apart, and grey for methods that no figure names.
      needs_moments: whether its update reads the gradient's moments.
      own_clock: whether it trains until its `gain_steps` reach the base run's steps,
        and not for the base run's examples.
      rates: the grid over which the rate is tuned again at every S; none: the rate
        stays the recipe's.
      tuning_seeds: of the runs that tune it; no table has them.
      tuned_as: the method with whose rate, tuned once at S = 1, it trains at every S;
        empty: the recipe's rate.
      preconditioned: whether the moments are those of the gradient as Adam divides it.
    """

    label: str
    make: Make
    colour: str = GREY
    needs_moments: bool = True
    own_clock: bool = False
    rates: tuple[float, ...] = ()
    tuning_seeds: tuple[int, ...] = (100,)
    tuned_as: str = ""
    preconditioned: bool = False
