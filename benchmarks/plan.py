"""Plans: how a run is cut into updates, evaluations and segments.

In: a workload and what to train on it. Out: counts, and which examples come when.
"""

import dataclasses

import numpy as np

from benchmarks.data import index_stream
from benchmarks.methods import METHODS
from benchmarks.workloads import Workload

# A method on its own clock is cut off at so many times the base run's examples.
MAX_BUDGET = 2.5
# A run is compiled once, as one of so many equal segments.
SEGMENTS = 15


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained.

    Attributes:
      method: a key of `METHODS`.
      batch_scale: S.
      seeds: of the initial parameters and the order of the data.
      num_microbatches: n, of the moments; None: S, the paper's setting.
    """

    method: str
    batch_scale: int
    seeds: tuple[int, ...]
    num_microbatches: int | None = None


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
    seeds: tuple[int, ...]

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


def make_plan(workload: Workload, config: Config) -> Plan:
    """Returns the plan of a run.

    Args:
      workload: whose base run sets the length.
      config: method, S and seeds.

    Raises:
      ValueError: if S does not divide the base batches between two evaluations.
    """
    scale, every = config.batch_scale, workload.eval_every
    if every % scale:
        raise ValueError(
            f"`batch_scale` must divide the {every} base batches between two "
            f"evaluations, got {scale}."
        )
    method = METHODS[config.method]
    num_evals = workload.base_steps // every
    budget = MAX_BUDGET if method.own_clock else 1
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
        seeds=config.seeds,
    )
