"""Recipes and workloads: what a team tuned at its base batch, and on what."""

import dataclasses
from collections.abc import Callable

import optax
from flax import nnx

from benchmarks.tasks.dataset import Dataset

CONSTANT, COSINE, EXPONENTIAL = "constant", "cosine", "exponential"
SGD, ADAMW, MUON = "sgd", "adamw", "muon"
# What an exponential decay leaves of the rate at the base run's end, and then of that
# in as many steps again. LENA's paper decays so, and measures where 0.1 is left.
DECAY = 0.1
# The target is the base run's accuracy minus this share.
TARGET_DROP = 0.005


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a team tuned at its base batch, and keeps at every other.

    Attributes:
      base_batch: examples per base batch.
      learning_rate: at the base batch.
      schedule: `"constant"`, `"cosine"` (to zero at the base run's end) or
        `"exponential"` (to a tenth there, and on).
      epochs: of the base run.
      momentum: of SGD; β1 of AdamW; β of Muon, whose Adam has 0.9.
      weight_decay: added to SGD's gradient; in AdamW and Muon decoupled.
      warmup_share: length of a warm-up, as a share of the base run.
      optimizer: at the base batch, `"sgd"`, `"adamw"` or `"muon"`.
    """

    base_batch: int
    learning_rate: float
    schedule: str
    epochs: float
    momentum: float = 0.9
    weight_decay: float = 0.0
    warmup_share: float = 0.05
    optimizer: str = SGD

    def rate(self, base_steps: int) -> optax.ScalarOrSchedule:
        """The rate, or its schedule over the base run's steps."""
        if self.schedule == COSINE:
            return optax.cosine_decay_schedule(self.learning_rate, base_steps)
        if self.schedule == EXPONENTIAL:
            return optax.exponential_decay(self.learning_rate, base_steps, DECAY)
        return self.learning_rate

    def warmup_steps(self, base_steps: int) -> float:
        """The length of a warm-up, in base-batch steps."""
        return self.warmup_share * base_steps


@dataclasses.dataclass(frozen=True)
class Workload:
    """A task that methods are compared on.

    Attributes:
      dataset: the data.
      make_model: `make_model(rngs)` returns an nnx classifier.
      recipe: tuned at the base batch.
      batch_scales: S of the large batches; each divides `eval_every`.
      eval_every: base batches between two evaluations.
      target_drop: the target is the base run's accuracy minus this share.
      name: of the task; empty: the data set's.
      split: what the data set's test set is, `"test"` or `"validation"`.
      side_by_side: whether the seeds of a run train at once, which is faster where
        one of them does not fill the device.
    """

    dataset: Dataset
    make_model: Callable[[nnx.Rngs], nnx.Module]
    recipe: Recipe
    batch_scales: tuple[int, ...] = (16, 64)
    eval_every: int = 64
    target_drop: float = TARGET_DROP
    name: str = ""
    split: str = "test"
    side_by_side: bool = True

    @property
    def title(self) -> str:
        """Names it in records."""
        return self.name or self.dataset.name

    @property
    def base_steps(self) -> int:
        """Updates of the base run, a multiple of `eval_every`."""
        examples = self.recipe.epochs * len(self.dataset.y_train)
        evaluations = examples / (self.recipe.base_batch * self.eval_every)
        return max(1, round(evaluations)) * self.eval_every

    def at_rate(self, rate: float | None) -> "Workload":
        """The same workload with another learning rate; None: with its recipe's."""
        if rate is None:
            return self
        recipe = dataclasses.replace(self.recipe, learning_rate=rate)
        return dataclasses.replace(self, recipe=recipe)


def split_name(validation: bool) -> str:
    """The part of the data that a workload measures on."""
    return "validation" if validation else "test"
