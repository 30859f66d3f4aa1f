"""The site: which block stands in which page, and from which records it is made."""

import functools
from pathlib import Path

from benchmarks.cost.measure import Measurement
from benchmarks.pages import cost_block, demo_block, markers, result_block
from benchmarks.pages.result_figure import SHOWN, figure, has_figure
from benchmarks.records import files
from benchmarks.records.home import ROOT, kept
from benchmarks.records.record import read_records
from benchmarks.training.tables import TABLES

README = ROOT / "README.md"
RESULT_PAGE, COST_PAGE = ROOT / "docs/benchmarks.md", ROOT / "docs/cost.md"
FIGURES = ROOT / "docs/benchmarks"


def recorded_tables() -> dict[str, Path]:
    """By name, the files of the tables that have records."""
    return {name: kept(name) for name in sorted(TABLES) if kept(name).exists()}


def filled() -> dict[Path, str]:
    """Every page, with its blocks made from the records."""
    pages = {page: page.read_text() for page in (README, RESULT_PAGE, COST_PAGE)}
    demo = demo_block.block(read_records(kept("demo")))
    pages[README] = markers.fill(pages[README], "demo", demo)
    cost = cost_block.block(files.read(kept("cost"), Measurement))
    pages[COST_PAGE] = markers.fill(pages[COST_PAGE], "cost", cost)
    for name, path in recorded_tables().items():
        runs, target = result_block.load(path)
        tell = functools.partial(
            result_block.block,
            name,
            runs,
            target,
            recommended=TABLES[name].recommended,
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
        runs, target = result_block.load(path)
        if has_figure(runs):
            drawn.append(FIGURES / f"{name}.png")
            figure(runs, target).savefig(drawn[-1], dpi=150)
    return drawn
