"""The demo's block: table, sentences and figure, as Markdown."""

from collections.abc import Iterable, Sequence

from benchmarks.pages import conclusions, demo_table, layout
from benchmarks.pages.outcomes import Outcome, outcomes
from benchmarks.records.record import Record, target_accuracy
from benchmarks.tasks.recipe import TARGET_DROP

# From where the page stands, which is docs/.
FIGURE = "demo/accuracy.png"


def block(runs: Sequence[Record]) -> str:
    """What docs/benchmarks.md shows of the kept demo.

    Args:
      runs: of the demo.
    """
    target = target_accuracy(runs, TARGET_DROP)
    found, where = outcomes(runs, target), runs[0].environment
    cells = demo_table.cells(found, runs[0].recipe["base_batch"], target)
    return layout.block(
        [
            _caption(runs, found.values()),
            layout.markdown(cells, left=2),
            layout.bullets(conclusions.sentences(runs, found)),
            f"![Test accuracy against updates]({FIGURE})",
            layout.recorded_on(where, f"commit {where['commit']}"),
        ]
    )


def _caption(runs: Sequence[Record], found: Iterable[Outcome]) -> str:
    seeds = max(row.seeds for row in found)
    recipe = runs[0].recipe
    return (
        f"Test accuracy in percent on {runs[0].workload}, mean ± standard error of "
        f"{seeds} seeds. The recipe (rate {recipe['learning_rate']}, momentum "
        f"{recipe['momentum']}, batch {recipe['base_batch']}, {recipe['epochs']} "
        "epochs) was tuned at S = 1 and is used unchanged."
    )
