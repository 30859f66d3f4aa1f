"""Plans: how a run is cut into updates, evaluations and segments.

In: a workload and what to train on it. Out: counts, and which examples come when.
"""

import dataclasses

import numpy as np

from benchmarks.ablations import EVERY
from benchmarks.data import index_stream
from benchmarks.workloads import Workload

# A run that goes on until its target or its own clock says so ends at so many times
# the base run's examples.
MAX_BUDGET = 2.5
# A run is compiled once, as one of so many equal segments.
SEGMENTS = 15


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained.

    Attributes:
      method: a key of `EVERY`.
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
      ValueError: if S does not divide the base batches between two evaluations.
    """
    scale, every = config.batch_scale, workload.eval_every
    if every % scale:
        raise ValueError(
            f"`batch_scale` must divide the {every} base batches between two "
            f"evaluations, got {scale}."
        )
    method = EVERY[config.method]
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
