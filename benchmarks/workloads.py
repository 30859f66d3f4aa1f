"""Workloads: a data set, a model, and the recipe tuned for it at the base batch.

`python -m benchmarks.tune [FOLDER]` prints the grids below again.
"""

import dataclasses
from collections.abc import Callable

import optax
from flax import nnx

from benchmarks.data import Dataset
from benchmarks.models import MLP, ConvNet

CONSTANT, COSINE = "constant", "cosine"
# The target is the base run's accuracy minus this share.
TARGET_DROP = 0.005


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a team tuned at its base batch, and keeps at every other.

    Attributes:
      base_batch: examples per base batch.
      learning_rate: at the base batch.
      schedule: `"constant"` or `"cosine"` (to zero at the base run's end).
      momentum: of SGD.
      weight_decay: added to the gradient.
      epochs: of the base run.
      warmup_share: length of a warm-up, as a share of the base run.
    """

    base_batch: int
    learning_rate: float
    schedule: str
    epochs: float
    momentum: float = 0.9
    weight_decay: float = 0.0
    warmup_share: float = 0.05

    def rate(self, base_steps: int) -> optax.ScalarOrSchedule:
        """The rate, or its schedule over the base run's steps."""
        if self.schedule == COSINE:
            return optax.cosine_decay_schedule(self.learning_rate, base_steps)
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
    """

    dataset: Dataset
    make_model: Callable[[nnx.Rngs], nnx.Module]
    recipe: Recipe
    batch_scales: tuple[int, ...] = (16, 64)
    eval_every: int = 64
    target_drop: float = TARGET_DROP

    @property
    def base_steps(self) -> int:
        """Updates of the base run, a multiple of `eval_every`."""
        examples = self.recipe.epochs * len(self.dataset.y_train)
        evaluations = examples / (self.recipe.base_batch * self.eval_every)
        return max(1, round(evaluations)) * self.eval_every


# Validation accuracy in percent, 5 folds of the training set, 3 seeds:
#   rate      0.00625  0.0125  0.025  0.05
#   constant    97.17   97.63  98.05  96.94
#   cosine      97.33   97.68  98.10  97.40
# A cosine gains nothing at the best rate, so the simpler recipe stands.
DIGITS = Recipe(base_batch=8, learning_rate=0.025, schedule=CONSTANT, epochs=80)
# Fashion-MNIST, 8,000 images, the first of 5 folds, 3 seeds:
#   rate      0.0015625  0.003125  0.00625  0.0125  0.025   0.05
#   constant       82.5      82.9     82.7    80.2   73.7   32.9
#   cosine         82.9      84.0     84.9    84.6   82.5   50.8
IMAGES = Recipe(base_batch=8, learning_rate=0.00625, schedule=COSINE, epochs=8)


def digits(dataset: Dataset) -> Workload:
    """A 64-64-64-10 perceptron on the digits."""
    sizes = (dataset.x_train.shape[1], 64, 64, dataset.num_classes)
    return Workload(dataset, lambda rngs: MLP(sizes, rngs=rngs), DIGITS)


def images(dataset: Dataset) -> Workload:
    """A small convolutional network on images."""
    shape = dataset.x_train.shape[1:]
    return Workload(
        dataset,
        lambda rngs: ConvNet(shape, dataset.num_classes, rngs=rngs),
        IMAGES,
        eval_every=128,
    )
