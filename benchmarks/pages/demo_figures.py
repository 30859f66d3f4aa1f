"""The demo's figures: records in, PNG files out."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmarks.methods.registry import METHODS
from benchmarks.pages.conclusions import SHOWN_BY_LAYER
from benchmarks.records.record import Record, by_method
from optax_lena.plotting import plot_layers

TICKS = (0.01, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
DPI = 150


def write(records: Sequence[Record], target: float, folder: Path) -> list[Path]:
    """Writes accuracy.png, and trust_ratio.png and warmup_factor.png of LENA's layers.

    Args:
      records: of one workload.
      target: the accuracy to reach.
      folder: where to.

    Returns:
      The paths written.
    """
    figures = {"accuracy.png": accuracy(records, target)}
    lena = [record for record in records if record.method == SHOWN_BY_LAYER]
    if lena:
        largest = max(lena, key=lambda record: (record.batch_scale, -record.seed))
        figures["trust_ratio.png"] = layers(largest, "trust_ratio")
        figures["warmup_factor.png"] = warmup(largest)
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=DPI)
    return [folder / name for name in figures]


def accuracy(records: Sequence[Record], target: float) -> Figure:
    """Test accuracy against updates, one panel per S, every seed a thin line."""
    groups = by_method(records)
    scales = sorted({scale for method, scale in groups if method != "base"})
    figure = Figure(figsize=(5 * len(scales) + 0.5, 4.2), layout="constrained")
    axes = figure.subplots(1, len(scales), sharey=True, squeeze=False)[0]
    for ax, scale in zip(axes, scales, strict=True):
        for (method, of), runs in groups.items():
            if method == "base" or of == scale:
                _draw(ax, method, runs)
        ax.axhline(target, color="#666666", linewidth=1, linestyle=(0, (2, 2)))
        ax.annotate(
            f"target {100 * target:.1f} %",
            (0.01, target),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            color="#666666",
            fontsize=8,
        )
        ax.set_title(f"S = {scale}", loc="left", fontsize=11)
        ax.set_xlabel("updates")
    _accuracy_axes(axes, [r.test_accuracy for r in records])
    handles, labels = axes[-1].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper center", ncols=len(labels), frameon=False
    )
    return figure


def layers(record: Record, field: str) -> Figure:
    """A field of every layer over base-batch steps, for one run."""
    ax = plot_layers(record.layers, field)
    label = METHODS[record.method].label
    ax.set_title(
        f"{label} on {record.workload}, S = {record.batch_scale}, seed {record.seed}",
        loc="left",
        fontsize=11,
    )
    figure = ax.get_figure()
    assert isinstance(figure, Figure)
    return figure


def warmup(record: Record) -> Figure:
    """The warm-up of every layer, up to its end, and the fixed one to compare."""
    figure = layers(record, "warmup_factor")
    ax = figure.axes[0]
    length = record.recipe["warmup_share"] * record.base_steps
    ax.plot([0, length], [0, 1], color="#666666", linewidth=1, linestyle=(0, (2, 2)))
    ax.set_title("dashed: fixed warm-up", loc="right", fontsize=9, color="#666666")
    curves = [v for k, v in record.layers.items() if k.startswith("warmup_factor/")]
    steps = record.layers["model/base_steps"]
    ends = [x for x, *factors in zip(steps, *curves, strict=True) if min(factors) >= 1]
    if ends:
        ax.set_xlim(0, 1.25 * ends[0])
    return figure


def _draw(ax: Axes, method: str, runs: Sequence[Record]) -> None:
    style = METHODS[method]
    for run in runs:
        ax.plot(
            run.updates, run.test_accuracy, color=style.colour, linewidth=0.6, alpha=0.4
        )
    shortest = min(runs, key=lambda run: len(run.updates)).updates
    mean = np.mean([run.test_accuracy[: len(shortest)] for run in runs], axis=0)
    ax.plot(shortest, mean, color=style.colour, linewidth=2, label=style.label)


def _accuracy_axes(axes: Sequence[Axes], curves: Sequence[Sequence[float]]) -> None:
    """Spreads the axis toward 100 %, where good runs differ."""
    ax = axes[0]
    ax.set_yscale("logit", nonpositive="clip")
    ax.yaxis.set_major_locator(FixedLocator(TICKS))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
    values = np.concatenate([np.asarray(curve) for curve in curves])
    ax.set_ylim(max(values.min() * 0.8, 0.005), min(values.max() + 0.005, 0.998))
    ax.set_ylabel("test accuracy (%)")
    for each in axes:
        each.set_xscale("log")
        each.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        each.spines[["top", "right"]].set_visible(False)
        each.grid(axis="y", color="#DDDDDD", linewidth=0.8)
