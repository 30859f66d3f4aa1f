"""Where the pod program's time goes: the share of it that is the compiled step.

`python -m benchmarks.pod.share`. The program trains the benchmarks' small residual
network at a batch of 1,024, with everything that it does otherwise: input from grain,
rows of metrics, evaluations and checkpoints. First some steps are waited for one by
one, to time a step by itself; then the loop runs as usual, and the share is the time
that its steps would take by themselves over the time that it took. What a run does
once, compiling and drawing, is not counted.
"""

import dataclasses
import functools
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

import optax_lena
from benchmarks import command
from benchmarks.records import files
from benchmarks.records.environment import environment
from benchmarks.records.home import kept
from benchmarks.tasks.resnet import ResNet, group_norm
from examples.pod_training.config import Config, parse
from examples.pod_training.loop import Job
from examples.pod_training.task import Task

SHAPE, CLASSES, EXAMPLES = (28, 28, 1), 10, 16_384
WARM_UP, ALONE = 3, 30  # updates: not counted, since the first one compiles; waited for


@dataclasses.dataclass(frozen=True)
class Share:
    """Where the time of one run went.

    Attributes:
      batch: examples of an update.
      updates: that were counted.
      seconds: of them all, with metrics, evaluations and checkpoints.
      step_seconds: of one compiled step by itself, the median.
      in_step: the share of the time that so many such steps take.
      load: processes that wanted a core when the run began (1 minute's average).
      environment: versions, device and commit.
    """

    batch: int
    updates: int
    seconds: float
    step_seconds: float
    in_step: float
    load: float
    environment: dict[str, str]


class Images:
    """Made-up images: how long they take does not depend on what they show."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.pixels = rng.integers(0, 256, (EXAMPLES, *SHAPE), np.uint8)
        self.labels = rng.integers(0, CLASSES, EXAMPLES, np.int32)

    def __len__(self) -> int:
        return EXAMPLES

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        return {"x": self.pixels[rows].astype(np.float32) / 255, "y": self.labels[rows]}


def residual_network() -> Task:
    """The benchmarks' small residual network on made-up images."""

    def loss_fn(model: Any, batch: Any, key: jax.Array, train: bool) -> jax.Array:
        logits = model(batch["x"])
        found = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
        return found.mean()

    images = Images()
    return Task(
        make_model=functools.partial(ResNet, SHAPE, CLASSES, norm=group_norm),
        loss_fn=loss_fn,
        layers=optax_lena.per_parameter,
        specs={},
        train=images,
        test=images,
        digest="made up",
    )


class TimedJob(Job):
    """A job that knows how long a step takes by itself, and how long all took."""

    def __init__(self, config: Config, task: Task):
        super().__init__(config, task)
        self.alone: list[float] = []
        self.start = self.end = 0.0
        step = self.program.step
        self.program = self.program._replace(step=lambda *a: self._step(step, *a))

    def _train_until(self, stop: Any) -> bool:
        self._evaluate()  # compiles, which a run does once
        is_done = super()._train_until(stop)
        self._save()
        self.checkpoints.wait()
        self.end = time.perf_counter()
        return is_done

    def _step(self, step: Any, *arguments: Any) -> Any:
        if len(self.alone) == WARM_UP + ALONE:
            return step(*arguments)
        start = time.perf_counter()
        result = jax.block_until_ready(step(*arguments))
        self.start = time.perf_counter()
        self.alone.append(self.start - start)
        return result


def measure(folder: Path, *, batch: int, updates: int) -> Share:
    """Trains in a folder and tells where the time went.

    Args:
      folder: for checkpoints and metrics.
      batch: examples of an update.
      updates: to count.
    """
    load = float(Path("/proc/loadavg").read_text().split()[0])
    base_steps = (updates + WARM_UP + ALONE) * 16
    words = f"--batch {batch} --recipe.base-batch {batch // 16} --save-every 50"
    words += f" --recipe.base-steps {base_steps} --recipe.optimizer lena_amplified"
    words += " --processes.join never --eval-every 50 --eval-batches 1"
    job = TimedJob(parse([*words.split(), "--out", str(folder)]), residual_network())
    job.train()
    seconds = job.end - job.start
    alone = statistics.median(job.alone[WARM_UP:])
    return Share(
        batch=batch,
        updates=updates,
        seconds=seconds,
        step_seconds=alone,
        in_step=alone * updates / seconds,
        load=load,
        environment=environment(),
    )


@command.program
def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, tells and keeps it."""
    parser = command.Parser(__doc__)
    parser.add_argument("--batch", type=command.whole(16, 10**6), default=1024)
    parser.add_argument("--updates", type=command.whole(1, 10**6), default=200)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), **vars(options))
    print(found)
    files.append([found], kept("pod_share"))


if __name__ == "__main__":
    main()
