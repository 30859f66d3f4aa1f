"""The figure of batches that grow: accuracy and S over examples, and what both cost."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from benchmarks.pages.outcomes import standard_error
from benchmarks.pages.ramp_block import CHOSEN, final, mean_updates
from benchmarks.ramp.run import Run
from benchmarks.ramp.ways import WAYS

# Okabe and Ito's palette, and a brown; constant batches are black or grey.
COLOURS = {
    "ramp": "#E69F00",
    "ramp_calm": "#8C510A",
    "ramp_calmer": "#CC79A7",
    "ramp_late": "#56B4E9",
    "ramp_spread": "#882255",
    "ramp_spread_third": "#44AA99",
    "ramp_spread_late": "#332288",
    "by_hand": "#0072B2",
    "seesaw_batches": "#009E73",
    "seesaw": "#D55E00",
}
CURVES = ("constant_8", "constant_64", *CHOSEN, "by_hand", "seesaw_batches")
GREY = {"constant_8": "#222222", "constant_64": "#999999"}
# Points of accuracy below the best that the curves show: the start hides the end.
DEPTH = 15


def figure(group: Mapping[str, Sequence[Run]], split: str) -> Figure:
    """Curves on the left, final accuracy against updates on the right.

    Args:
      group: the runs of one workload by way.
      split: that the accuracy is measured on.
    """
    result = Figure(figsize=(10.5, 5), layout="constrained")
    axes = result.subplot_mosaic([["curves", "cost"], ["batch", "cost"]])
    for way in (way for way in CURVES if way in group):
        _draw(axes["curves"], axes["batch"], way, group[way])
    _finish(axes["curves"], axes["batch"], group, split)
    _draw_cost(axes["cost"], group, split)
    return result


def _draw(top: Axes, bottom: Axes, way: str, runs: Sequence[Run]) -> None:
    colour = COLOURS.get(way) or GREY[way]
    steps = runs[0].evaluated_at
    mean = 100 * np.mean([run.accuracy for run in runs], axis=0)
    top.plot(steps, mean, color=colour, label=WAYS[way].label)
    for run in runs:
        at, scales = zip(
            *run.changes, [run.base_steps, run.changes[-1][1]], strict=True
        )
        bottom.step(at, scales, where="post", color=colour, alpha=0.7)


def _finish(
    top: Axes, bottom: Axes, group: Mapping[str, Sequence[Run]], split: str
) -> None:
    best = 100 * max(final(runs).mean() for runs in group.values())
    top.set_ylim(best - DEPTH, best + 0.5)
    top.set_ylabel(f"{split} accuracy (%)")
    top.tick_params(labelbottom=False)
    top.set_xlim(bottom.get_xlim())
    top.legend(frameon=False, fontsize=8, loc="lower right")
    bottom.set_yscale("log", base=2)
    bottom.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    bottom.set_ylabel("S")
    bottom.set_xlabel("base batches seen")
    bottom.xaxis.set_major_locator(MaxNLocator(5))
    bottom.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    for ax in (top, bottom):
        ax.spines[["top", "right"]].set_visible(False)


def _draw_cost(ax: Axes, group: Mapping[str, Sequence[Run]], split: str) -> None:
    constant = sorted(
        (way for way in group if way.startswith("constant_")),
        key=lambda way: mean_updates(group[way]),
    )
    updates = [mean_updates(group[way]) for way in constant]
    means = [100 * final(group[way]).mean() for way in constant]
    ax.plot(updates, means, color="#bbbbbb", zorder=0)
    for way, runs in group.items():
        x, values = mean_updates(runs), 100 * final(runs)
        colour, label = COLOURS.get(way, "#555555"), WAYS[way].label
        error, grows = standard_error(values), way in COLOURS
        ax.errorbar(
            [x], [values.mean()], [error], color=colour, marker="o", capsize=2,
            linestyle="", label=label if grows else None,
        )  # fmt: skip
        if not grows:
            name, place = label.removeprefix("constant "), (x, values.mean() - error)
            below = {"xytext": (0, -12), "textcoords": "offset points", "ha": "center"}
            ax.annotate(name, place, fontsize=8, **below)
    ax.legend(frameon=False, fontsize=8, loc="lower right")
    ax.set_xscale("log", base=2)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    ax.set_xlabel("updates of the whole run")
    ax.set_ylabel(f"final {split} accuracy (%)")
    ax.margins(x=0.25)
    ax.spines[["top", "right"]].set_visible(False)
