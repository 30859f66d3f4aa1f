"""The site: which block stands in which page, and from which records it is made."""

from pathlib import Path

from benchmarks.branch import Branches
from benchmarks.cost.measure import Measurement
from benchmarks.curve import Scored
from benchmarks.pages import (
    advice_block,
    again_block,
    branch_block,
    cost_block,
    demo_block,
    markers,
    ramp_block,
    ramp_figure,
    rates_block,
    recipes_block,
    result_block,
    summary_block,
    tasks_block,
    transfer_block,
    unseen_block,
)
from benchmarks.pages.result_figure import figure, has_figure
from benchmarks.ramp.run import Run
from benchmarks.records import files
from benchmarks.records.home import ROOT, kept
from benchmarks.records.record import Record, one_per_seed
from benchmarks.training.tables import TABLES
from benchmarks.unseen import recipes
from benchmarks.unseen.__main__ import FAMILIES, rates_file
from benchmarks.unseen.run import Score
from benchmarks.watch import Watched

README = ROOT / "README.md"
RESULT_PAGE, SMALL_PAGE = ROOT / "docs/benchmarks.md", ROOT / "docs/small_tasks.md"
ADAMW_PAGE, CHOICES_PAGE = ROOT / "docs/adamw_results.md", ROOT / "docs/choices.md"
BATCH_PAGE, COST_PAGE = ROOT / "docs/batch_size.md", ROOT / "docs/cost.md"
RECIPES_PAGE = ROOT / "docs/recipes.md"
PAGES = (
    README,
    RESULT_PAGE,
    SMALL_PAGE,
    ADAMW_PAGE,
    CHOICES_PAGE,
    BATCH_PAGE,
    COST_PAGE,
    RECIPES_PAGE,
)
FIGURES = ROOT / "docs/benchmarks"
# Files of records and the table they belong to: runs that end where the base run does.
TRANSFERRED = {
    "gpt_transfer": ("gpt", transfer_block.ADAMW),
    "molecules": ("molecules", transfer_block.ADAMW),
    "gpt_muon": ("gpt_muon", transfer_block.MUON),
    "gpt_muon_twice": ("gpt_muon_twice", transfer_block.MUON),
}
# Tables whose base rate has records of its grid.
WITH_RATES = ("text", "fashion_batchnorm")
RECIPES = {"recipes": recipes.OF_SGD, "recipes_adamw": recipes.OF_ADAMW}
UNSEEN_PAGES = {"sgd": SMALL_PAGE, "adamw": ADAMW_PAGE, "muon": ADAMW_PAGE}


def recorded_tables() -> dict[str, Path]:
    """By name, the files of the tables that have records."""
    names = sorted(set(TABLES) - set(TRANSFERRED))
    return {name: kept(name) for name in names if kept(name).exists()}


def _transferred(name: str, table: str) -> list[Record]:
    """The runs of a file, and of its table, whose base run and opponents are its.

    None where only rates were tuned so far.
    """
    kinds = dict.fromkeys((table, name))
    runs = [run for one in kinds for run in files.read_if_there(kept(one), Record)]
    is_begun = any((run.method, run.split) == ("base", "test") for run in runs)
    return runs if is_begun else []


def filled() -> dict[Path, str]:
    """Every page, with its blocks made from the records."""
    pages = {page: page.read_text() for page in PAGES}

    def fill(page: Path, name: str, block: str) -> None:
        pages[page] = markers.fill(pages[page], name, block)

    loaded = {name: result_block.load(path) for name, path in recorded_tables().items()}
    for name, (runs, target) in loaded.items():
        recommended = TABLES[name].recommended
        block = result_block.block(name, runs, target, recommended=recommended)
        fill(CHOICES_PAGE if name.endswith("_ablation") else RESULT_PAGE, name, block)
    demo = result_block.load(kept("demo"))
    fill(RESULT_PAGE, "demo", demo_block.block(demo[0]))
    small = {recipe: _small(recipe) for recipe in UNSEEN_PAGES}
    others = {
        name: {recipe: _small(recipe) for recipe in families}
        for name, families in RECIPES.items()
    }
    summary = summary_block.block(
        loaded | {"demo": demo}, _gpt(), small["sgd"], *others.values()
    )
    fill(README, "results", summary)
    for name in WITH_RATES:
        if rates := files.read_if_there(kept(f"{name}_rates"), Record):
            block = rates_block.block(name, loaded[name][0], rates)
            fill(RESULT_PAGE, f"{name}_rates", block)
    fill(SMALL_PAGE, "unseen_tasks", tasks_block.block(small))
    for name, by_recipe in others.items():
        fill(RECIPES_PAGE, name, recipes_block.block(by_recipe))
        for recipe, runs in by_recipe.items():
            if runs:
                block = unseen_block.block(runs, recipe)
                fill(RECIPES_PAGE, FAMILIES[recipe].records, block)
    for recipe, page in UNSEEN_PAGES.items():
        if scores := small[recipe]:
            name = FAMILIES[recipe].records
            fill(page, name, unseen_block.block(scores, recipe))
            fill(page, f"{name}_scales", unseen_block.at_other_scales(scores, recipe))
            fill(page, f"{name}_again", again_block.block(scores, recipe))
        at_rates = rates_file(FAMILIES[recipe])
        if others := files.read_if_there(kept(at_rates), Score):
            block = unseen_block.at_other_rates(others, scores, recipe)
            fill(page, at_rates, block)
    for name, (table, kind) in TRANSFERRED.items():
        if runs := _transferred(name, table):
            fill(ADAMW_PAGE, name, transfer_block.block(table, runs, kind))
    measured = files.read(kept("cost"), Measurement)
    fill(COST_PAGE, "cost", cost_block.block(measured))
    grown = files.read(kept("ramp"), Run)
    scored = files.read_if_there(kept("curve"), Scored)
    fill(BATCH_PAGE, "advice", advice_block.block(loaded, grown, scored))
    fill(BATCH_PAGE, "ramp", ramp_block.block(grown))
    fill(
        BATCH_PAGE,
        "branch",
        branch_block.block(files.read(kept("branch"), Branches), grown),
    )
    return pages


def _small(recipe: str) -> list[Score]:
    """The runs of the small tasks; none where nothing was recorded."""
    return files.read_if_there(kept(FAMILIES[recipe].records), Score)


def _gpt() -> list[Record]:
    """The test runs with AdamW, one for each method, S and seed."""
    runs = files.read_if_there(kept("gpt_transfer"), Record)
    return one_per_seed(run for run in runs if run.split == "test")


def draw() -> list[Path]:
    """Draws the figure of every table that has curves; returns the paths."""
    FIGURES.mkdir(exist_ok=True)
    drawn = []
    for name, path in recorded_tables().items():
        runs, target = result_block.load(path)
        if has_figure(runs):
            drawn.append(FIGURES / f"{name}.png")
            figure(runs, target).savefig(drawn[-1], dpi=150)
    runs, target = result_block.load(kept(advice_block.SHOWN))
    for watched in files.read_if_there(kept("watch"), Watched):
        if watched.table == advice_block.SHOWN:
            drawn.append(BATCH_PAGE.parent / advice_block.FIGURE)
            advice_block.figure(watched, runs, target).savefig(drawn[-1], dpi=120)
    (key, group), *_ = ramp_block.by_workload(files.read(kept("ramp"), Run)).items()
    drawn.append(BATCH_PAGE.parent / ramp_block.FIGURE)
    drawn[-1].parent.mkdir(exist_ok=True)
    ramp_figure.figure(group, key[1]).savefig(drawn[-1], dpi=150)
    return drawn
