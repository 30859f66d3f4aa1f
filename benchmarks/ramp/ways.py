"""Ways to choose the batch while a run goes on: constant, on a plan, or by the metrics.

In: a workload's recipe and length. Out: what says S at every base step, and the
optimizer at that S, whose state has the same structure for all S.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import optax

import optax_lena
from benchmarks.methods.rates import ROOT_OF_SCALE
from benchmarks.methods.registry import METHODS
from benchmarks.tasks.recipe import ADAMW, Recipe

# What every run starts with, and what one that grows ends with at most.
FIRST, MOST = 8, 64
# The method that knows its batch, by the recipe's optimizer.
# All runs that are kept were made with the first versions of both.
OURS = {"sgd": "amplified_first", "adamw": "adamw_root_gain"}
State = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Plan:
    """S is a function of the base step, known before the run.

    Attributes:
      schedule: of S over base steps.
    """

    schedule: optax_lena.BatchSchedule

    def init(self) -> State:
        """S at the start."""
        return {"batch_scale": self.schedule(0)}

    def update(self, state: State, metrics: dict[str, Any]) -> State:
        """S from here on, by the examples seen alone."""
        del state
        return {"batch_scale": self.schedule(float(metrics["model/base_steps"]))}


@dataclasses.dataclass(frozen=True)
class Spread:
    """A `BatchRamp` whose doublings are spread over what follows its start.

    Attributes:
      ramp: which may wait longer.
      base_steps: length of the run.
    """

    ramp: optax_lena.BatchRamp
    base_steps: int

    def init(self) -> State:
        """The ramp's."""
        return self.ramp.init()

    def update(self, state: State, metrics: dict[str, Any]) -> State:
        """As the ramp's, but not before the next doubling's time."""
        doubled_at, start = state["doubled_at"], self.ramp.start
        done = sum(step >= 0 for step in doubled_at)
        earliest = start + (self.base_steps - start) * done / len(doubled_at)
        is_time = float(metrics["model/base_steps"]) >= earliest
        return self.ramp.update(state, metrics) if is_time else state


# Their `init` and `update` are `Plan`'s.
Controller = Plan | Spread | optax_lena.BatchRamp
MakeController = Callable[[Recipe, int], Controller]
MakeOptimizer = Callable[[Recipe, int, int], optax.GradientTransformation]


@dataclasses.dataclass(frozen=True)
class Way:
    """One way to choose the batch.

    Attributes:
      label: for people.
      control: `control(recipe, base_steps)` returns what says S.
      optimizer: `optimizer(recipe, batch_scale, base_steps)`; None: ours.
    """

    label: str
    control: MakeController
    optimizer: MakeOptimizer | None = None

    def make(
        self, recipe: Recipe, batch_scale: int, base_steps: int
    ) -> optax.GradientTransformation:
        """The optimizer at this S."""
        make = self.optimizer or METHODS[OURS[recipe.optimizer]].make
        return make(recipe, batch_scale, base_steps)


def _constant(scale: int) -> Way:
    plan = Plan(optax_lena.BatchSchedule(((0, scale),)))
    return Way(f"constant S = {scale}", lambda recipe, base_steps: plan)


def _by_metrics(label: str, start: float = 0.0, **options: float) -> Way:
    """`BatchRamp`, from a share of the run on."""

    def control(recipe: Recipe, base_steps: int) -> optax_lena.BatchRamp:
        del recipe
        return optax_lena.BatchRamp(FIRST, MOST, start=start * base_steps, **options)

    return Way(label, control)


def _spread(label: str, start: float) -> Way:
    """The same, with its doublings spread over what follows."""

    def control(recipe: Recipe, base_steps: int) -> Spread:
        del recipe
        ramp = optax_lena.BatchRamp(FIRST, MOST, start=start * base_steps)
        return Spread(ramp, base_steps)

    return Way(label, control)


def _by_hand(recipe: Recipe, base_steps: int) -> Plan:
    """Doubles at a quarter, a half and three quarters of the run."""
    del recipe
    changes = [(base_steps * k // 4, FIRST * 2**k) for k in range(4)]
    return Plan(optax_lena.BatchSchedule(tuple(changes)))


def _seesaw(
    recipe: Recipe, base_steps: int
) -> tuple[Callable[[Any], Any], optax_lena.BatchSchedule]:
    """Seesaw's rate, and its batches in units of the first."""
    schedule = recipe.rate(base_steps)
    if not callable(schedule):
        raise ValueError(
            f"Seesaw turns a decay of the rate into growth, got {recipe.schedule!r}."
        )
    return optax_lena.seesaw(schedule, base_steps, max_scale=MOST // FIRST)


def _seesaw_plan(recipe: Recipe, base_steps: int) -> Plan:
    _, batches = _seesaw(recipe, base_steps)
    changes = tuple((step, FIRST * scale) for step, scale in batches.changes)
    return Plan(optax_lena.BatchSchedule(changes))


def _seesaw_optimizer(
    recipe: Recipe, batch_scale: int, base_steps: int
) -> optax.GradientTransformation:
    """The recipe's own optimizer, scaled once to S = 8, then with Seesaw's rate.

    SGD's rate is scaled linearly, Adam's by the square root, as the tables do. The
    parts would follow the batch; dividing the schedule by as much undoes it.
    """
    rate, _ = _seesaw(recipe, base_steps)
    power = 0.5 if recipe.optimizer == ADAMW else 1.0
    undone = (FIRST / batch_scale) ** power
    part = optax_lena.LayerRate(
        lambda base_step: undone * rate(base_step),
        clock="base_steps",
        rule=ROOT_OF_SCALE if recipe.optimizer == ADAMW else optax_lena.linear,
        warmup=optax_lena.FixedWarmup(recipe.warmup_steps(base_steps)),
    )
    scale = optax_lena.scale_by_layer_rate(part, batch_scale)
    if recipe.optimizer == ADAMW:
        direction = optax.scale_by_adam(b1=recipe.momentum)
        decay = optax.add_decayed_weights(recipe.weight_decay)
        return optax.chain(direction, decay, scale, optax.scale(-1.0))
    decay = optax.add_decayed_weights(recipe.weight_decay)
    buffer = optax.trace(recipe.momentum)
    return optax.chain(decay, buffer, scale, optax.scale(-1.0))


WAYS = {
    **{f"constant_{s}": _constant(s) for s in (8, 16, 32, 64)},
    # All but the first were candidates on the validation splits.
    "ramp": _by_metrics("BatchRamp"),
    "ramp_calm": _by_metrics("BatchRamp, θ = 1.2", theta=1.2),
    "ramp_calmer": _by_metrics("BatchRamp, θ = 1.5", theta=1.5),
    "ramp_late": _by_metrics("BatchRamp, start at half", start=0.5),
    "ramp_from_40": _by_metrics("BatchRamp, start at 0.4", start=0.4),
    "ramp_from_40_calm": _by_metrics(
        "BatchRamp, start at 0.4, θ = 1", start=0.4, theta=1.0
    ),
    "ramp_from_30_calm": _by_metrics(
        "BatchRamp, start at 0.3, θ = 1.2", start=0.3, theta=1.2
    ),
    "ramp_spread": _spread("BatchRamp, spread from 1/4 on", start=1 / 4),
    "ramp_spread_third": _spread("BatchRamp, spread from 1/3 on", start=1 / 3),
    "ramp_spread_late": _spread("BatchRamp, spread from 2/5 on", start=2 / 5),
    "by_hand": Way("doubled at 1/4, 1/2, 3/4", _by_hand),
    "seesaw_batches": Way("Seesaw's batches", _seesaw_plan),
    "seesaw": Way(
        "Seesaw, the recipe's own optimizer", _seesaw_plan, _seesaw_optimizer
    ),
}
