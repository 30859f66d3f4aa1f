"""The figure: the curve with its interval, and every layer's noise scale over time.

In: an `Advice`, with measured points if there are any. Out: a Matplotlib figure, made
without pyplot: nothing global changes, and no display is needed.
`optax_lena.plotting` has it, and says what to install if there is no Matplotlib.
"""

import math
import os.path
from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from optax_lena._advice.advice import Advice, relative_curve
from optax_lena._advice.curve import check_points
from optax_lena._advice.history import History
from optax_lena._advice.text import end_of
from optax_lena._checks import check_is

# Okabe and Ito's palette without its yellow: colour-blind readers can tell it apart.
PALETTE = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)
_BLUE, _ORANGE, *_ = PALETTE
_GREY = "#666666"
_MOST_COLUMNS, _MOST_NAMES, _MOST_LETTERS = 120, 30, 34
# In percent: a single layer without signal would leave one colour for all others.
_COLOURED = (1, 97)


def plot_advice(advice: Advice, points: Iterable[Sequence[float]] = ()) -> Figure:
    """Draws an advice: what a batch costs, and every layer's noise scale over time.

    Args:
      advice: from `optax_lena.advise`.
      points: measured (batch scale, examples over the base batch's) pairs.

    Returns:
      The figure. The heat map stands beside the curve if the log holds layers; its
      colours leave out the few most extreme values, and an arrow says so.

    Raises:
      TypeError: if `advice` is no `Advice`.
      ValueError: if a point is not a pair of positive numbers.

    Example:
      >>> import io, numpy as np, optax_lena
      >>> from optax_lena.plotting import plot_advice
      >>> history = {
      ...     "model/base_steps": 8.0 * np.arange(1, 21),
      ...     "noise/out": np.geomspace(10, 90, 20),
      ...     "signal/out": np.ones(20),
      ...     "model/noise_scale": np.geomspace(10, 90, 20),
      ... }
      >>> figure = plot_advice(optax_lena.advise(history), [(8, 1.1), (64, 2.3)])
      >>> [axes.get_title(loc="left") for axes in figure.axes[:2]]
      ['What a larger batch costs', 'Where the noise is']
      >>> figure.savefig(io.BytesIO())  # or a path
    """
    check_is("advice", advice, Advice, "optax_lena.advise")
    points = list(points)
    measured = check_points(points).tolist() if points else []
    layers = {k: v for k, v in advice.history.layers.items() if not np.isnan(v).all()}
    over_time = len(advice.history.base_steps) > 1
    height = min(max(4.2, 1.6 + 0.22 * min(len(layers), _MOST_NAMES)), 7)
    if layers and over_time:
        figure = Figure(figsize=(12.5, height), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[1, 1.15])
        _draw_layers(right, advice.history, layers)
    else:
        figure = Figure(figsize=(6.2, 4.2), layout="constrained")
        left = figure.subplots()
    _draw_curve(left, advice, measured)
    return figure


def _draw_curve(ax: Axes, advice: Advice, points: list[list[float]]) -> None:
    critical = advice.critical_scale
    most = max(8 * critical if 0 < critical < math.inf else 64.0, 16.0)
    most = max([most, *(1.3 * scale for scale, _ in points)])
    scales = np.geomspace(1, most, 200)
    _draw_interval(ax, advice, scales)
    ax.plot(
        scales,
        advice.curve.examples(scales),
        color=_BLUE,
        linewidth=2,
        label="predicted",
    )
    if points:
        ax.plot(
            *zip(*points, strict=True),
            "o",
            color=_ORANGE,
            markersize=6,
            markeredgecolor="white",
            label="measured",
            zorder=3,
        )
    if 1 <= critical < math.inf:
        _mark_critical(ax, advice, most)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    ax.set_xlim(1, most)
    top = max([advice.curve.examples(most), *(e for _, e in points)])
    ax.set_ylim(0.66 * min([1.0, *(e for _, e in points)]), 1.15 * top)
    ax.set_xlabel("S (batch over base batch)")
    ax.set_ylabel("examples to the target, times the base batch's")
    ax.set_title("What a larger batch costs", loc="left", fontsize=11)
    _tidy(ax)
    legend = ax.legend(loc="upper left", framealpha=0.85, edgecolor="none")
    legend.set_zorder(4)
    if advice.base_batch:
        _examples_axis(ax, advice.base_batch, most)


def _draw_interval(ax: Axes, advice: Advice, scales: np.ndarray) -> None:
    b_low, b_high = advice.noise_scale_interval
    if math.isfinite(b_high):
        low, high = (relative_curve(b).examples(scales) for b in (b_high, b_low))
        ax.fill_between(
            scales, low, high, color=_BLUE, alpha=0.18, linewidth=0, label="interval"
        )


def _mark_critical(ax: Axes, advice: Advice, most: float) -> None:
    """Draws a line at the critical scale, with its name and its interval."""
    critical, (low, high) = advice.critical_scale, advice.interval
    ax.axvline(critical, color=_GREY, linewidth=1, linestyle=(0, (3, 2)))
    more = 100 * (1 / advice.efficiency - 1)
    # On the side where there is room.
    is_left = critical < math.sqrt(most)
    between = f", {low:.3g} to {high:.3g}" if math.isfinite(high) else ""
    ax.annotate(
        f"critical S = {critical:.3g}{between}\n({more:.0f} % more examples)",
        (critical, 0.03),
        xycoords=("data", "axes fraction"),
        xytext=(5 if is_left else -5, 0),
        textcoords="offset points",
        horizontalalignment="left" if is_left else "right",
        color=_GREY,
        fontsize=9,
    )


def _draw_layers(ax: Axes, history: History, layers: dict[str, np.ndarray]) -> None:
    """Draws a heat map: a row per layer, base steps to the right."""
    edges, table = _binned(history, layers)
    seen = table[np.isfinite(table) & (table > 0)]
    low, high = np.percentile(seen if len(seen) else np.ones(1), _COLOURED)
    high = high if high > low else 2 * low
    norm = LogNorm(low, high)
    # Without signal the noise scale is infinite, and has the top colour.
    shown = np.ma.masked_invalid(np.where(np.isinf(table), 2 * high, table))
    colours = colormaps["cividis"].with_extremes(bad="#EEEEEE")
    rows = np.arange(len(layers) + 1) - 0.5
    shown = np.ma.maximum(shown, low / 2)  # zeros have no logarithm
    mesh = ax.pcolormesh(edges, rows, shown, norm=norm, cmap=colours, rasterized=True)
    names = list(layers)
    step = max(-(-len(names) // _MOST_NAMES), 1)
    shared = os.path.commonprefix(names).rpartition("/")[0] if len(names) > 1 else ""
    ends = [name.removeprefix(f"{shared}/") for name in names[::step]]
    labels = [end_of(name, _MOST_LETTERS) for name in ends]
    ax.set_yticks(range(0, len(names), step), labels=labels)
    ax.tick_params(axis="y", length=0, labelsize=8)
    ax.invert_yaxis()
    ax.set_xlabel("base-batch steps")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.set_title("Where the noise is", loc="left", fontsize=11)
    ax.spines[:].set_visible(False)
    figure = ax.get_figure()
    least, most = float(shown.min()), float(shown.max())
    sides = {(False, True): "max", (True, False): "min", (True, True): "both"}
    extend = sides.get((least < low, most > high), "neither")
    bar = figure.colorbar(mesh, ax=ax, pad=0.02, extend=extend)  # pyrefly: ignore
    bar.set_label("noise scale (base batches)")
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    bar.ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.outline.set_visible(False)  # pyrefly: ignore


def _binned(
    history: History, layers: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns edges `[columns + 1]` in base steps, and medians `[layers, columns]`."""
    table, steps = np.stack(list(layers.values())), history.base_steps
    columns = min(len(steps), _MOST_COLUMNS)
    groups = np.array_split(np.arange(len(steps)), columns)
    with np.errstate(invalid="ignore"):
        medians = [_median(table[:, group]) for group in groups]
    start = max(float(steps[0] - history.weights[0]), 0.0)
    edges = [start, *(float(steps[group[-1]]) for group in groups)]
    return np.array(edges), np.stack(medians, axis=1)


def _median(values: np.ndarray) -> np.ndarray:
    """The lower median of each row, which takes no mean of infinities."""
    order = np.sort(values, axis=1)
    count = np.sum(~np.isnan(values), axis=1)
    return order[np.arange(len(order)), np.maximum(count - 1, 0) // 2]


def _examples_axis(ax: Axes, base_batch: int, most: float) -> None:
    """Draws the batch in examples, above the plot."""
    above = ax.twiny()
    above.set_xscale("log", base=2)
    above.set_xlim(1, most)
    powers = np.arange(0, math.log2(most) + 1e-9, max(math.log2(most) // 6, 1))
    above.xaxis.set_major_locator(FixedLocator((2**powers).tolist()))
    above.xaxis.set_major_formatter(
        FuncFormatter(lambda scale, _: f"{scale * base_batch:,.0f}")
    )
    above.xaxis.set_minor_locator(NullLocator())
    above.set_xlabel("batch (examples)", fontsize=9)
    above.tick_params(labelsize=8)
    above.spines[["top", "right"]].set_visible(False)


def _tidy(ax: Axes) -> None:
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axis.set_minor_locator(NullLocator())
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    ax.set_axisbelow(True)
