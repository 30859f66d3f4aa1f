"""Records the noise and the signal of every layer over one run of a table's task.

`python -m benchmarks.watch TABLE` trains seed 0 for the base run's examples at S = 8
with the method that knows its batch, and writes `optax_lena.metrics` every 128 base
batches to `results/watch.jsonl`. docs/batch_size.md draws them as `advise` does.
"""

import dataclasses
from collections.abc import Sequence

import jax
from rich.console import Console

from benchmarks import command
from benchmarks.ramp.run import Trainer
from benchmarks.ramp.ways import FIRST, WAYS
from benchmarks.records import files
from benchmarks.records.environment import environment
from benchmarks.records.home import kept
from benchmarks.training import options, tables

SEEN = ("model/noise", "model/signal", "model/base_steps", "noise/", "signal/")


@dataclasses.dataclass(frozen=True)
class Watched:
    """One run's metrics.

    Attributes:
      table: a key of `tables.TABLES`.
      workload: its title.
      batch_scale: S.
      seed: of the run.
      base_batch: examples.
      metrics: by name, over the run.
      environment: versions, device and commit.
    """

    table: str
    workload: str
    batch_scale: int
    seed: int
    base_batch: int
    metrics: dict[str, list[float]]
    environment: dict[str, str]


def watch(table: str, trainer: Trainer, seed: int) -> Watched:
    """Trains and looks.

    Args:
      table: the task's.
      trainer: of it.
      seed: of the run.
    """
    workload, way = trainer.workload, WAYS[f"constant_{FIRST}"]
    state, rows = trainer.start(way, FIRST, seed), []
    many, base_batch = trainer.stretch(way, FIRST, state), workload.recipe.base_batch
    for batch in trainer.batches(seed):
        indices = batch.reshape(-1, FIRST * base_batch)
        state, _, seen = many(state, trainer.train, indices)
        rows.append(jax.device_get(seen))
    metrics = {k: [float(f"{row[k]:.4g}") for row in rows] for k in rows[0]}
    row = (table, workload.title, FIRST, seed, base_batch, metrics)
    return Watched(*row, environment())


@command.program
def main(arguments: Sequence[str] | None = None) -> None:
    """Checks everything, then records the run in place of an earlier one."""
    parser = command.Parser(__doc__)
    options.add_table(parser)
    parser.add_argument("--out", type=command.new_file, help="the file of records")
    chosen = parser.parse_args(arguments)
    path = chosen.out or kept("watch")
    with command.checking("argument --data"):
        workload = tables.loader(chosen.table, chosen.data)()
    found = watch(chosen.table, Trainer(workload, SEEN), seed=0)
    others = files.read_if_there(path, Watched)
    files.rewrite([one for one in others if one.table != chosen.table] + [found], path)
    Console(stderr=True).print(f"{len(found.metrics)} metrics in {path}")


if __name__ == "__main__":
    main()
