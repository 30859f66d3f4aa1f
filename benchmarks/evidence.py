"""Evidence: the records of a table in; Markdown, verdicts and a figure out.

`python -m benchmarks.evidence` fills docs/benchmarks.md and README from `results/`.
What counts as better was fixed in benchmarks/README.md before the tables were recorded.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benchmarks import markers, records, report
from benchmarks.ablations import EVERY
from benchmarks.plan import MAX_BUDGET
from benchmarks.records import Record
from benchmarks.report import standard_error
from benchmarks.suite import RESULTS
from benchmarks.tables import TABLES, Table
from benchmarks.workloads import TARGET_DROP

ROOT = RESULTS.parent
PAGE, README = ROOT / "docs/benchmarks.md", ROOT / "README.md"
FIGURES = ROOT / "docs/benchmarks"
# AdaScale as its authors run it, and as LENA's paper does.
PEERS = {
    "adascale": "AdaScale",
    "adascale_base_clock": "AdaScale on the base clock",
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One method at one S.

    Attributes:
      accuracy: at equal examples, one per seed.
      updates: to the target, one per seed; for a seed that never reaches it, all that
        it was allowed.
      reached: how many seeds do.
    """

    accuracy: np.ndarray
    updates: np.ndarray
    reached: int


Cells = dict[tuple[str, int], Cell]


def cells(runs: Sequence[Record], target: float) -> Cells:
    """By method and S.

    Args:
      runs: of one table, without those that tuned a rate.
      target: the accuracy to reach.
    """
    return {key: _cell(group, target) for key, group in report.group(runs).items()}


def _cell(runs: Sequence[Record], target: float) -> Cell:
    reached = [run.updates_to(target) for run in runs]
    allowed = round(MAX_BUDGET * runs[0].base_updates)
    updates = [allowed if value is None else value for value in reached]
    return Cell(
        accuracy=np.array([run.accuracy_at_equal_examples for run in runs]),
        updates=np.array(updates, float),
        reached=sum(value is not None for value in reached),
    )


def best(table: Cells, scale: int, measure: Callable[[Cell], np.ndarray]) -> str | None:
    """The method without re-tuning that is best at one S, by a measure to maximise."""
    rows = {
        method: measure(cell)
        for (method, of), cell in table.items()
        if of == scale and method != "base" and not EVERY[method].rates
    }
    return max(rows, key=lambda method: rows[method].mean()) if rows else None


def _is_level(one: np.ndarray, best: np.ndarray) -> bool:
    return report.is_level(_gap(one, best), standard_error(one), standard_error(best))


def _gap(one: np.ndarray, best: np.ndarray) -> float:
    return best.mean() - one.mean()


def accuracy(cell: Cell) -> np.ndarray:
    """The first measure, in percent."""
    return 100 * cell.accuracy


def speed(cell: Cell) -> np.ndarray:
    """The second measure, in updates, to be maximised as the first is."""
    return -cell.updates


def markdown(
    name: str,
    runs: Sequence[Record],
    target: float,
    *,
    recommended: str = Table.recommended,
    methods: Sequence[str] = tuple(EVERY),
    images: str = "benchmarks",
    judge: bool = True,
) -> str:
    """Tables of both measures, what they say, and where they were recorded.

    Args:
      name: of the table.
      runs: of the table.
      target: the accuracy to reach.
      recommended: the method whose verdicts are written.
      methods: those to show; the best is marked if it is among them, and is the best
        of all.
      images: the folder of the figure, from where the text stands.
      judge: whether verdicts follow the tables.
    """
    table = cells(runs, target)
    scales = sorted({scale for _, scale in table} - {1})
    base = table["base", 1]
    first = runs[0]
    recipe, where = first.recipe, first.environment
    commits = sorted({run.environment["commit"] for run in runs})
    kind = "Test" if first.split == "test" else "Validation"
    intro = (
        f"{first.workload}: base batch {recipe['base_batch']}, "
        f"{first.base_steps:,} base steps, rate {recipe['learning_rate']:g} "
        f"({recipe['schedule']} decay), momentum {recipe['momentum']:g}. "
        f"{kind} accuracy of the base run {_percent(base.accuracy)} % "
        f"({len(base.accuracy)} seeds), target {100 * target:.1f} %."
    )
    heads = [f"S = {scale} ({scale * recipe['base_batch']:,})" for scale in scales]
    parts = [
        intro,
        f"**{kind} accuracy after equal examples (%)**",
        _matrix(table, methods, scales, heads, accuracy, _percent_cell),
        f"**Updates until {100 * target:.1f} %**",
        _matrix(table, methods, scales, heads, speed, _updates_cell),
        "Bold: the best method without re-tuning, and those level with it. (2/3): so "
        "many seeds reach the target within 2.5 times the base run's examples; those "
        "that do not count with all the updates they were allowed. Re-tuned methods: "
        "the rate is tuned again at every S, on validation data.",
        *(["\n".join(verdicts(table, recommended))] if judge else []),
        *([f"![{name}]({images}/{name}.png)"] if has_figure(runs) else []),
        f"Recorded on {where['cpus']} cores ({where['device']}) with jax "
        f"{where['jax']}, at {', '.join(commits)}, by `python -m benchmarks.suite "
        f"{name}`.",
    ]
    return "\n" + "\n\n".join(parts) + "\n\n"


def _matrix(
    table: Cells,
    methods: Sequence[str],
    scales: Sequence[int],
    heads: Sequence[str],
    measure: Callable[[Cell], np.ndarray],
    show: Callable[[Cell], str],
) -> str:
    lines = [["method", *heads], ["---"] + ["---:"] * len(heads)]
    leaders = {scale: best(table, scale, measure) for scale in scales}
    shown = {method for method, scale in table if scale in scales}
    for method in (each for each in methods if each in shown):
        line = [EVERY[method].label]
        for scale in scales:
            cell = table.get((method, scale))
            text = "" if cell is None else show(cell)
            leader = leaders[scale]
            if cell and leader and not EVERY[method].rates:
                top = measure(table[leader, scale])
                counts = measure is accuracy or cell.reached
                if counts and (method == leader or _is_level(measure(cell), top)):
                    text = f"**{text}**"
            line.append(text)
        lines.append(line)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _percent(values: np.ndarray) -> str:
    return f"{100 * values.mean():.1f} ± {100 * standard_error(values):.1f}"


def _percent_cell(cell: Cell) -> str:
    return _percent(cell.accuracy)


def _updates_cell(cell: Cell) -> str:
    if not cell.reached:
        return "never"
    text = f"{cell.updates.mean():,.0f}"
    if cell.reached < len(cell.updates):
        text += f" ({cell.reached}/{len(cell.updates)})"
    return text


def verdicts(table: Cells, recommended: str) -> list[str]:
    """What the two measures say of the recommended optimizer, a bullet for each S."""
    sentences = []
    label = EVERY[recommended].label
    for scale in sorted(scale for method, scale in table if method == recommended):
        own, key = table[recommended, scale], (recommended, scale)
        texts = [
            _verdict(table, key, accuracy, "accuracy after equal examples"),
            _verdict(table, key, speed, "updates to the target"),
        ]
        gap = 100 * (table["base", 1].accuracy.mean() - own.accuracy.mean())
        texts.append(f"it ends {gap:.1f} points below the base run")
        texts += [
            _fewer(own, table[peer, scale], name)
            for peer, name in PEERS.items()
            if own.reached and (peer, scale) in table
        ]
        sentences.append(f"- S = {scale}, {label}: " + "; ".join(texts) + ".")
    return sentences


def _fewer(own: Cell, peer: Cell, name: str) -> str:
    """Compares updates to the target; seeds that never reach it make a bound of it."""
    fewer = 100 * (1 - own.updates.mean() / peer.updates.mean())
    censored = own.reached == len(own.updates) and peer.reached < len(peer.updates)
    if round(fewer) == 0:
        return f"takes as many updates as {name}"
    share = f"{'at least ' if censored else ''}{abs(fewer):.0f} %"
    return f"takes {share} {'fewer' if fewer >= 0 else 'more'} updates than {name}"


def _verdict(
    table: Cells,
    key: tuple[str, int],
    measure: Callable[[Cell], np.ndarray],
    name: str,
) -> str:
    method, scale = key
    leader = best(table, scale, measure)
    assert leader is not None
    own, top = measure(table[key]), measure(table[leader, scale])
    if measure is speed and not table[leader, scale].reached:
        return f"{name}: no method without re-tuning gets there"
    if leader == method:
        return f"best without re-tuning in {name}"
    rival = EVERY[leader].label
    if _is_level(own, top):
        return f"level with the best in {name} ({rival})"
    error = math.hypot(standard_error(own), standard_error(top))
    digits, unit = (".2f", "points") if measure is accuracy else (",.0f", "updates")
    gap = f"{_gap(own, top):{digits}} ± {error:{digits}}"
    return f"{gap} {unit} behind {rival} in {name}"


# In README and the figures: too many lines cannot be told apart.
SHOWN = (
    "linear",
    "adascale",
    "lena",
    "linear_state_aware",
    "lena_amplified",
    "sgd_tuned",
    "adamw_square_root",
    "lena_adamw",
)
COLOURS = {"linear_state_aware": "#E69F00", "sgd_tuned": "#000000"}


def has_figure(runs: Sequence[Record]) -> bool:
    """Whether there is a curve over S to draw: more than one S beside 1."""
    return len({run.batch_scale for run in runs} - {1}) > 1


def figure(runs: Sequence[Record], target: float) -> Figure:
    """Both measures against S, with standard errors."""
    table = cells(runs, target)
    result = Figure(figsize=(10.5, 4.2), layout="constrained")
    left, right = result.subplots(1, 2)
    for method in SHOWN:
        points = {s: cell for (m, s), cell in sorted(table.items()) if m == method}
        if not points:
            continue
        style = dict(
            color=COLOURS.get(method, EVERY[method].colour),
            label=EVERY[method].label,
            linestyle="--" if EVERY[method].rates else "-",
            marker="o",
            capsize=2,
        )
        scales, group = list(points), list(points.values())
        means = [100 * cell.accuracy.mean() for cell in group]
        left.errorbar(
            scales, means, [100 * standard_error(c.accuracy) for c in group], **style
        )
        reached = [(s, c) for s, c in points.items() if c.reached == len(c.updates)]
        if reached:
            right.errorbar(
                [s for s, _ in reached],
                [c.updates.mean() for _, c in reached],
                [standard_error(c.updates) for _, c in reached],
                **style,
            )
    base = 100 * table["base", 1].accuracy.mean()
    grey = dict(color="#666666", linewidth=1)
    left.axhline(base, linestyle=":", label="base run", **grey)
    # What failed to train would flatten the rest.
    lowest = min(100 * table[key].accuracy.mean() for key in table if key[0] in SHOWN)
    left.set_ylim(max(lowest, base - 18) - 0.5, base + 1)
    left.set_ylabel("accuracy after equal examples (%)")
    right.set_ylabel(f"updates until {100 * target:.1f} %, all seeds")
    right.set_yscale("log")
    numbers = FuncFormatter(lambda value, _: f"{value:,.0f}")
    right.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    right.yaxis.set_major_formatter(numbers)
    right.yaxis.set_minor_formatter(numbers)
    for ax in (left, right):
        ax.set_xscale("log", base=2)
        ax.set_xlabel("S (batch over base batch)")
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    left.legend(frameon=False, fontsize=8, loc="lower left")
    return result


def load(path: Path) -> tuple[list[Record], float]:
    """The runs of a table, without those that tuned a rate, and its target."""
    runs = records.read(path)
    seeds = {run.seed for run in runs if run.method == "base"}
    kept = records.one_per_seed(run for run in runs if run.seed in seeds)
    return kept, report.target_accuracy(kept, TARGET_DROP)


def filled(page: str, readme: str) -> tuple[str, str]:
    """Both texts, with the block of every table that has records made from them."""
    for path in sorted(RESULTS.glob("*.jsonl")):
        runs, target = load(path)
        name = path.stem
        tell = functools.partial(
            markdown, name, runs, target, recommended=TABLES[name].recommended
        )
        page = markers.replace(page, name, tell())
        short = tell(methods=SHOWN, images="docs/benchmarks", judge=False)
        readme = markers.replace(readme, name, short)
    return page, readme


def main() -> None:
    """Fills the two pages and draws every table's figure."""
    page, readme = filled(PAGE.read_text(), README.read_text())
    PAGE.write_text(page)
    README.write_text(readme)
    FIGURES.mkdir(exist_ok=True)
    for path in RESULTS.glob("*.jsonl"):
        runs, target = load(path)
        if has_figure(runs):
            figure(runs, target).savefig(FIGURES / f"{path.stem}.png", dpi=150)


if __name__ == "__main__":
    main()
