"""Plans: how a run is cut into updates, evaluations and segments.

In: a workload and what to train on it. Out: counts, and which examples come when.
"""

import dataclasses

import numpy as np

from benchmarks.methods.registry import METHODS
from benchmarks.tasks.recipe import Workload
from benchmarks.tasks.stream import index_stream

# A run that goes on until its target or its own clock says so ends at so many times
# the base run's examples.
MAX_BUDGET = 2.5
# A run is compiled once, as one of so many equal segments.
SEGMENTS = 15


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained.

    Attributes:
      method: a key of `registry.METHODS`.
      batch_scale: S.
      seeds: of the initial parameters and the order of the data.
      num_microbatches: n, of the moments; None: S, the paper's setting.
      rate: in place of the recipe's; None: the recipe's.
    """

    method: str
    batch_scale: int
    seeds: tuple[int, ...]
    num_microbatches: int | None = None
    rate: float | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a run is cut.

    Attributes:
      num_examples: of the training set.
      batch: examples per update.
      num_microbatches: n, of the moments; None for a method that reads none.
      eval_updates: updates between two evaluations.
      num_evals: evaluations in the base run's examples.
      max_evals: evaluations at most.
      base_steps: updates of the base run.
      own_clock: whether a run is over when its gain steps reach `base_steps`.
      target: test accuracy at which a run is over, once it has seen the base run's
        examples; None: it is over then.
      seeds: of the runs.
    """

    num_examples: int
    batch: int
    num_microbatches: int | None
    eval_updates: int
    num_evals: int
    max_evals: int
    base_steps: int
    own_clock: bool
    target: float | None
    seeds: tuple[int, ...]

    def length(self, accuracy: np.ndarray, clock: np.ndarray | None) -> int | None:
        """After how many evaluations one seed's run is over; None if it goes on.

        Args:
          accuracy: at every evaluation so far.
          clock: gain steps, likewise, of methods that have them.
        """
        over = np.zeros(len(accuracy), bool)
        if self.own_clock:
            over = np.asarray(clock) >= self.base_steps
        elif self.target is not None:
            over = np.maximum.accumulate(accuracy) >= self.target
            over[: self.num_evals - 1] = False
            # What is not half as good as the target by then has failed to train.
            if len(accuracy) >= self.num_evals:
                over[self.num_evals - 1 :] |= (
                    accuracy[self.num_evals - 1] < self.target / 2
                )
        over[self.max_evals - 1 :] = True
        return int(np.argmax(over)) + 1 if over.any() else None

    @property
    def segment_evals(self) -> int:
        """Evaluations in a segment."""
        return -(-self.num_evals // SEGMENTS)

    @property
    def max_segments(self) -> int:
        """Segments at most; the last may run past `max_evals`."""
        return -(-self.max_evals // self.segment_evals)

    def indices(self, segment: int) -> np.ndarray:
        """Positions of a segment's examples, `(seeds, evals, updates, batch)`."""
        shape = (self.segment_evals, self.eval_updates, self.batch)
        size = int(np.prod(shape))
        bounds = segment * size, (segment + 1) * size
        streams = [index_stream(self.num_examples, s, *bounds) for s in self.seeds]
        return np.stack(streams).reshape(len(self.seeds), *shape)


def make_plan(workload: Workload, config: Config, target: float | None = None) -> Plan:
    """Returns the plan of a run.

    Args:
      workload: whose base run sets the length.
      config: method, S and seeds.
      target: the accuracy until which a run goes on, if it is late.

    Raises:
      ValueError: if S does not divide the base batches between two evaluations, or is
        not 1 for the base run.
    """
    _check_scale(config, workload.eval_every)
    scale, every = config.batch_scale, workload.eval_every
    method = METHODS[config.method]
    num_evals = workload.base_steps // every
    budget = 1 if target is None and not method.own_clock else MAX_BUDGET
    num_microbatches = config.num_microbatches or scale
    return Plan(
        num_examples=len(workload.dataset.y_train),
        batch=scale * workload.recipe.base_batch,
        num_microbatches=num_microbatches if method.needs_moments else None,
        eval_updates=every // scale,
        num_evals=num_evals,
        max_evals=round(budget * num_evals),
        base_steps=workload.base_steps,
        own_clock=method.own_clock,
        target=target,
        seeds=config.seeds,
    )


def _check_scale(config: Config, every: int) -> None:
    scale = config.batch_scale
    if every % scale:
        divisors = [d for d in range(1, every + 1) if every % d == 0]
        raise ValueError(
            f"S must divide the {every} base batches between two evaluations: one of "
            f"{', '.join(map(str, divisors))}, got {scale}."
        )
    if config.method == "base" and scale != 1:
        raise ValueError(f"S must be 1 for the base run, got {scale}.")


def check(workload: Workload, config: Config) -> None:
    """Refuses what cannot be trained, before anything is.

    Args:
      workload: on which it would be.
      config: what would be.

    Raises:
      ValueError: as `make_plan` does, or if the method does not take the recipe.
    """
    plan = make_plan(workload, config)
    recipe = workload.at_rate(config.rate).recipe
    METHODS[config.method].make(recipe, config.batch_scale, plan.base_steps)
