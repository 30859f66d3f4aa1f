"""Pages: keeps the latest demo and costs, and fills their blocks from the records.

`python -m benchmarks.pages` after `make demo` or `python -m benchmarks.cost`: keeps in
docs/ what they recorded, and fills README and docs/cost.md. `benchmarks.evidence` does
the same for the tables.
"""

import shutil
from pathlib import Path

from benchmarks import cost_report, markers, measure, records, report, workloads
from benchmarks.report import Summary

ROOT = Path(__file__).parent.parent
LATEST, KEPT = ROOT / "results", ROOT / "docs"
README, COST_PAGE = ROOT / "README.md", KEPT / "cost.md"
RUNS, FIGURE = Path("demo/records.jsonl"), Path("demo/accuracy.png")
COSTS = Path("cost/records.jsonl")


def main() -> None:
    """Keeps what is new, and writes the pages."""
    for kept in (RUNS, FIGURE, COSTS):
        if (LATEST / kept).exists():
            (KEPT / kept).parent.mkdir(exist_ok=True)
            shutil.copy(LATEST / kept, KEPT / kept)
    for page, text in filled().items():
        page.write_text(text)


def filled() -> dict[Path, str]:
    """The pages, each with its block made from what is kept."""
    demo, cost = records.read(KEPT / RUNS), measure.read(KEPT / COSTS)
    return {
        README: markers.replace(README.read_text(), "demo", block(demo)),
        COST_PAGE: markers.replace(
            COST_PAGE.read_text(), "cost", cost_report.markdown(cost)
        ),
    }


def block(runs: list[records.Record]) -> str:
    """The demo's table, sentences and figure, as Markdown."""
    target = report.target_accuracy(runs, workloads.TARGET_DROP)
    summaries = report.summarise(runs, target)
    header, *rows = report.cells(summaries, runs[0].recipe["base_batch"], target)
    lines = [header, ["---"] * 2 + ["---:"] * (len(header) - 2), *rows]
    environment = runs[0].environment
    parts = [
        _caption(runs, summaries),
        "\n".join(f"| {' | '.join(line)} |" for line in lines),
        "\n".join(f"- {sentence}" for sentence in report.conclusions(runs, summaries)),
        f"![Test accuracy against updates]({KEPT.name}/{FIGURE})",
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
