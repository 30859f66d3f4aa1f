"""The figure of a table of results: both measures against S."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benchmarks.methods.registry import METHODS
from benchmarks.pages.outcomes import Key, Outcome, outcomes, standard_error
from benchmarks.records.record import Record

# Of all methods: too many lines cannot be told apart.
SHOWN = (
    "linear",
    "adascale",
    "lena",
    "linear_state_aware",
    "lena_amplified",
    "amplified_first",
    "sgd_tuned",
    "adamw_square_root",
    "lena_adamw",
)
# Of methods that are grey in the demo, where they do not stand.
COLOURS = {
    "linear_state_aware": "#E69F00",
    "sgd_tuned": "#000000",
    "amplified_first": "#56B4E9",
}
# Points of accuracy below the base run: what failed to train would flatten the rest.
DEPTH = 18


def has_figure(runs: Sequence[Record]) -> bool:
    """Whether there is a curve over S to draw: more than one S beside 1."""
    return len({run.batch_scale for run in runs} - {1}) > 1


def figure(runs: Sequence[Record], target: float) -> Figure:
    """Both measures against S, with standard errors."""
    found = outcomes(runs, target)
    result = Figure(figsize=(10.5, 4.2), layout="constrained")
    left, right = result.subplots(1, 2)
    for method in SHOWN:
        scales = sorted(scale for name, scale in found if name == method)
        points = {scale: found[method, scale] for scale in scales}
        if points:
            _draw_accuracy(left, method, points)
            _draw_updates(right, method, points)
    _finish_accuracy(left, found)
    _finish_updates(right, target)
    for ax in (left, right):
        _finish(ax)
    left.legend(frameon=False, fontsize=8, loc="lower left")
    return result


def _style(method: str) -> dict[str, Any]:
    return dict(
        color=COLOURS.get(method, METHODS[method].colour),
        label=METHODS[method].label,
        linestyle="--" if METHODS[method].rates else "-",
        marker="o",
        capsize=2,
    )


def _draw_accuracy(ax: Axes, method: str, points: Mapping[int, Outcome]) -> None:
    group = points.values()
    means = [100 * one.accuracy.mean() for one in group]
    errors = [100 * standard_error(one.accuracy) for one in group]
    ax.errorbar(list(points), means, errors, **_style(method))


def _draw_updates(ax: Axes, method: str, points: Mapping[int, Outcome]) -> None:
    """Where all seeds reach the target."""
    points = {s: one for s, one in points.items() if one.reached == one.seeds}
    if points:
        means = [one.counted.mean() for one in points.values()]
        errors = [standard_error(one.counted) for one in points.values()]
        ax.errorbar(list(points), means, errors, **_style(method))


def _finish_accuracy(ax: Axes, found: Mapping[Key, Outcome]) -> None:
    base = 100 * found["base", 1].accuracy.mean()
    ax.axhline(base, linestyle=":", label="base run", color="#666666", linewidth=1)
    shown = [one for (method, _), one in found.items() if method in SHOWN]
    lowest = min(100 * one.accuracy.mean() for one in shown)
    ax.set_ylim(max(lowest, base - DEPTH) - 0.5, base + 1)
    ax.set_ylabel("accuracy after equal examples (%)")


def _finish_updates(ax: Axes, target: float) -> None:
    numbers = FuncFormatter(lambda value, _: f"{value:,.0f}")
    ax.set_ylabel(f"updates until {100 * target:.1f} %, all seeds")
    ax.set_yscale("log")
    ax.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    ax.yaxis.set_major_formatter(numbers)
    ax.yaxis.set_minor_formatter(numbers)


def _finish(ax: Axes) -> None:
    ax.set_xscale("log", base=2)
    ax.set_xlabel("S (batch over base batch)")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="#DDDDDD", linewidth=0.8)
