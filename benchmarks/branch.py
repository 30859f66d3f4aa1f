"""Records branch tests beside what `advise` says of the same run, on one table's task.

`python -m benchmarks.branch TABLE` trains to a quarter of the base run at S = 8 with
amplified LENA, asks `optax_lena.advise` about its metrics so far, and goes on from
there for as many examples again with S = 1 to 128 (`optax_lena.branch_test`). One
line per seed goes to `results/branch.jsonl`, as far as it lacks it.

What counts as equal was fixed before it was run. The advice's critical scale is that at
which 20 % more examples are needed, so a branch is as good as the one at S = 1 if its
held-out loss is at most that of S = 1 after 1/1.2 of the window.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import optax
from rich.console import Console

import optax_lena
from benchmarks import command
from benchmarks.ramp.run import EVERY, Trainer
from benchmarks.ramp.ways import WAYS
from benchmarks.records import files
from benchmarks.records.environment import environment
from benchmarks.records.home import kept
from benchmarks.tasks.stream import index_stream
from benchmarks.training import options, tables
from benchmarks.training.segment import TrainState, make_update

TABLES = ("text", "bytecode")
SCALES = (1, 2, 4, 8, 16, 32, 64, 128)
SHARE = 4  # of the base run: where the checkpoint lies, and how long the window is


@dataclasses.dataclass(frozen=True)
class Branches:
    """The branch test of one seed.

    Attributes:
      workload: its title.
      seed: of the run.
      split: of what the losses are.
      checkpoint: base batches before it.
      window: base batches of every branch.
      scales: S of the branches.
      losses: held-out, at the window's end.
      earlier_loss: of the first branch after 1/1.2 of the window.
      critical_scale: what `advise` says at the checkpoint.
      interval: (low, high) of it.
      environment: versions, device and commit.
    """

    workload: str
    seed: int
    split: str
    checkpoint: int
    window: int
    scales: list[int]
    losses: list[float]
    earlier_loss: float
    critical_scale: float
    interval: list[float]
    environment: dict[str, str]


def to_checkpoint(
    trainer: Trainer, seed: int
) -> tuple[TrainState, list[dict[str, Any]]]:
    """Trains at S = 8 to the checkpoint; returns the state and the metrics so far."""
    way, scale, history = WAYS["constant_8"], 8, []
    state = trainer.start(way, scale, seed)
    count = trainer.workload.base_steps // SHARE // EVERY
    for _, batch in zip(range(count), trainer.batches(seed), strict=False):
        many = trainer.stretch(way, scale, state)
        batches = batch.reshape(EVERY // scale, -1)
        state, _, seen = many(state, trainer.train, batches)
        history.append(jax.device_get(seen))
    return state, history


class Brancher:
    """What `branch_test` needs, over the arrays of a trainer."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer

        @jax.jit
        def held_out(params: Any) -> jax.Array:
            x, y = trainer.test
            logits = trainer.network.predict(params, x, trainer.train[0])
            cross = optax.softmax_cross_entropy_with_integer_labels(logits, y)
            return cross.mean()

        self.evaluate: Callable[[TrainState], jax.Array] = lambda s: held_out(s.params)

    @functools.cache  # noqa: B019 - one object lives as long as the program
    def update(self, scale: int) -> Callable[..., Any]:
        """One update at this S, compiled."""
        tx = self.trainer.optimizer(WAYS["constant_8"], scale)
        # A single microbatch says nothing about noise: at S = 1 two halves do.
        microbatches = max(scale, 2)
        update = make_update(self.trainer.network.logits, tx, microbatches, False)

        @jax.jit
        def step(state: TrainState, train: Any, indices: jax.Array) -> Any:
            return update(state, (train[0][indices], train[1][indices]))

        return step

    def step(self, state: Any, batch: Any, scale: int) -> tuple[Any, Any]:
        """As `branch_test` calls it."""
        return self.update(scale)(state, self.trainer.train, batch)

    def batches(self, seed: int, start: int, stop: int, scale: int) -> Iterator[Any]:
        """The same examples in the same order at every S."""
        unit = self.trainer.workload.recipe.base_batch
        count = len(self.trainer.workload.dataset.y_train)
        stream = index_stream(count, seed, start * unit, stop * unit)
        yield from stream.reshape(-1, scale * unit)


def branches(trainer: Trainer, seed: int) -> Branches:
    """Trains to the checkpoint and on from it."""
    workload, brancher = trainer.workload, Brancher(trainer)
    state, history = to_checkpoint(trainer, seed)
    advice = optax_lena.advise(history, base_batch=workload.recipe.base_batch)
    start = window = workload.base_steps // SHARE
    earlier = 2 * round(window / 2.4)
    batches = functools.partial(brancher.batches, seed, start, start + window)
    test = functools.partial(
        optax_lena.branch_test,
        brancher.step,
        state,
        batches,
        evaluate=brancher.evaluate,
    )
    full = test(SCALES, window=window)
    # Of the second scale nothing is read: a test compares two.
    part = test(SCALES[:2], window=earlier)
    return Branches(
        workload=workload.title,
        seed=seed,
        split=workload.split,
        checkpoint=start,
        window=window,
        scales=list(SCALES),
        losses=[full.losses[scale] for scale in SCALES],
        earlier_loss=part.losses[SCALES[0]],
        critical_scale=advice.critical_scale,
        interval=list(advice.interval),
        environment=environment(),
    )


@command.program
def main(arguments: Sequence[str] | None = None) -> None:
    """Checks everything, then records the seeds that are missing."""
    chosen = _parser().parse_args(arguments)
    command.all_different("--seeds", chosen.seeds)
    path, console = chosen.out or kept("branch"), Console(stderr=True)
    workload = tables.loader(chosen.table, None)()
    trainer = Trainer(workload)
    for seed in chosen.seeds:
        there = files.read_if_there(path, Branches)
        if (workload.title, seed) in {(one.workload, one.seed) for one in there}:
            continue
        found = branches(trainer, seed)
        files.append([found], path)
        losses = dict(zip(found.scales, np.round(found.losses, 4), strict=True))
        console.print(f"seed {seed}: {losses}, {found.critical_scale:.1f}")


def _parser() -> command.Parser:
    parser = command.Parser(__doc__)
    table = command.one_of(TABLES)
    parser.add_argument("table", type=table, metavar="TABLE", help=", ".join(TABLES))
    parser.add_argument(
        "--seeds", nargs="+", type=options.seed, default=[0, 1, 2], metavar="SEED"
    )
    parser.add_argument("--out", type=command.new_file, help="the file of records")
    return parser


if __name__ == "__main__":
    main()
