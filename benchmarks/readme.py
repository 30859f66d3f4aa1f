"""Writes the demo's table and figure into README.md, from the recorded runs.

`python -m benchmarks.readme` after `make demo`: keeps what the demo recorded, and makes
the table from it. A test compares the two.
"""

import shutil
from pathlib import Path

from benchmarks import markers, records, report, workloads
from benchmarks.report import Summary

ROOT = Path(__file__).parent.parent
LATEST, KEPT = ROOT / "results", ROOT / "docs"
RECORDS, FIGURE = KEPT / "demo/records.jsonl", KEPT / "demo/accuracy.png"


def main() -> None:
    """Keeps the latest demo and replaces the block between the two markers."""
    for kept in (RECORDS, FIGURE):
        shutil.copy(LATEST / kept.relative_to(KEPT), kept)
    path = ROOT / "README.md"
    made = block(records.read(RECORDS))
    path.write_text(markers.replace(path.read_text(), "demo", made))


def block(runs: list[records.Record]) -> str:
    """The table, the sentences and the figure, as Markdown."""
    target = report.target_accuracy(runs, workloads.TARGET_DROP)
    summaries = report.summarise(runs, target)
    header, *rows = report.cells(summaries, runs[0].recipe["base_batch"], target)
    lines = [header, ["---"] * 2 + ["---:"] * (len(header) - 2), *rows]
    environment = runs[0].environment
    parts = [
        _caption(runs, summaries),
        "\n".join(f"| {' | '.join(line)} |" for line in lines),
        "\n".join(f"- {sentence}" for sentence in report.conclusions(runs, summaries)),
        f"![Test accuracy against updates]({FIGURE.relative_to(ROOT)})",
        f"Recorded on {environment['cpus']} cores ({environment['device']}) with jax "
        f"{environment['jax']}, at commit {environment['commit']}.",
    ]
    return "\n" + "\n\n".join(parts) + "\n\n"


def _caption(runs: list[records.Record], summaries: list[Summary]) -> str:
    seeds = max(row.seeds for row in summaries)
    recipe = runs[0].recipe
    return (
        f"Test accuracy in percent on {runs[0].workload}, mean ± standard error of "
        f"{seeds} seeds. The recipe (rate {recipe['learning_rate']}, momentum "
        f"{recipe['momentum']}, batch {recipe['base_batch']}, {recipe['epochs']} "
        "epochs) was tuned at S = 1 and is used unchanged."
    )


if __name__ == "__main__":
    main()
