"""The site: which block stands in which page, and from which records it is made."""

import functools
from pathlib import Path

from benchmarks.cost.measure import Measurement
from benchmarks.pages import costs, demo, markers, results
from benchmarks.pages.result_figure import SHOWN, figure, has_figure
from benchmarks.records import files, run
from benchmarks.records.environment import ROOT
from benchmarks.training.tables import TABLES

RESULTS = ROOT / "results"
README, RESULT_PAGE, COST_PAGE = (
    ROOT / "README.md",
    ROOT / "docs/benchmarks.md",
    ROOT / "docs/cost.md",
)
FIGURES = ROOT / "docs/benchmarks"
DEMO, COST = RESULTS / "demo.jsonl", RESULTS / "cost.jsonl"


def recorded_tables() -> dict[str, Path]:
    """By name, the files of the tables that have records."""
    paths = {name: RESULTS / f"{name}.jsonl" for name in sorted(TABLES)}
    return {name: path for name, path in paths.items() if path.exists()}


def filled() -> dict[Path, str]:
    """Every page, with its blocks made from the records."""
    pages = {page: page.read_text() for page in (README, RESULT_PAGE, COST_PAGE)}
    measured = files.read(COST, Measurement)
    pages[README] = markers.fill(pages[README], "demo", demo.block(run.read(DEMO)))
    pages[COST_PAGE] = markers.fill(pages[COST_PAGE], "cost", costs.block(measured))
    for name, path in recorded_tables().items():
        runs, target = results.load(path)
        tell = functools.partial(
            results.block, name, runs, target, recommended=TABLES[name].recommended
        )
        short = tell(methods=SHOWN, images="docs/benchmarks", judge=False)
        pages[README] = markers.fill(pages[README], name, short)
        pages[RESULT_PAGE] = markers.fill(pages[RESULT_PAGE], name, tell())
    return pages


def draw() -> list[Path]:
    """Draws the figure of every table that has curves; returns the paths."""
    FIGURES.mkdir(exist_ok=True)
    drawn = []
    for name, path in recorded_tables().items():
        runs, target = results.load(path)
        if has_figure(runs):
            drawn.append(FIGURES / f"{name}.png")
            figure(runs, target).savefig(drawn[-1], dpi=150)
    return drawn
