"""Figures of what LENA does with every layer. Needs `pip install 'optax_lena[plot]'`.

In: the history of `optax_lena.metrics`, as `lax.scan` stacks it, or the result of
`optax_lena.advise`. Out: Matplotlib axes or a figure, made without pyplot:
nothing global changes, and no display is needed.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

try:
    from matplotlib import colormaps
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter
except ImportError as error:
    raise ImportError(
        "`optax_lena.plotting` needs Matplotlib: pip install 'optax_lena[plot]'."
    ) from error

from optax_lena._advice.figure import PALETTE
from optax_lena._advice.figure import plot_advice as plot_advice
from optax_lena._checks import check_choice, check_is
from optax_lena._reports.report import LAYER_FIELDS

CLOCK_LABELS = {
    "base_steps": "base-batch steps",
    "gain_steps": "gain steps (sum of the whole model's gains)",
    "rate_steps": "rate steps (sum of what multiplied the whole model's rate)",
}
FIELD_LABELS = {
    "gain": "gain (base-batch steps per update)",
    "trust_ratio": "trust ratio (factor on the learning rate)",
    "learning_rate": "learning rate",
    "progress": "warm-up progress (base-batch steps)",
    "warmup_factor": "warm-up factor (on the learning rate)",
    "warmup_end": "end of the warm-up (base-batch step)",
    "noise": "noise σ² (squared gradient norm)",
    "signal": "signal ‖μ‖² (squared gradient norm)",
    "noise_scale": "noise scale (base batches)",
}
_LOG_FIELDS = ("gain", "trust_ratio", "noise", "noise_scale")


def plot_layers(
    history: Mapping[str, ArrayLike],
    field: str = "trust_ratio",
    *,
    clock: str = "base_steps",
    ax: Axes | None = None,
) -> Axes:
    """Draws one line per layer: a field of the reports over the course of training.

    Gains, trust ratios, noises and noise scales have a logarithmic axis.

    Args:
      history: what `optax_lena.metrics` returns, with one entry per time in every
        array: `[T]`.
      field: `"trust_ratio"`, `"gain"`, `"warmup_factor"` or another field of
        `optax_lena.layer_report`.
      clock: the horizontal axis: `"base_steps"`, `"gain_steps"` or
        `"rate_steps"`.
      ax: where to draw; None: on a new figure, which is `ax.figure`.

    Returns:
      The axes. Lines are labelled with their layers: up to seven in a legend, in the
      order in which the lines end; more in a colour bar, in the parameters' order.

    Raises:
      ValueError: if `field` or `clock` is unknown or `history` does not hold it, or
        holds no time.
      TypeError: if `ax` is not an `Axes`.

    Example:
      >>> import io, jax, jax.numpy as jnp, optax_lena
      >>> from optax_lena.plotting import plot_layers
      >>> tx = optax_lena.lena(0.1, batch_scale=2, warmup_steps=10)
      >>> params = {"calm": jnp.zeros(2), "noisy": jnp.zeros(2)}
      >>> def step(state, key):
      ...     noise = {"calm": 0.1, "noisy": 9.0}
      ...     stack = {
      ...         k: 1 + s * jax.random.normal(key, (2, 2)) for k, s in noise.items()
      ...     }
      ...     grads, moments = optax_lena.moments_from_stack(stack)
      ...     _, state = tx.update(grads, state, moments=moments)
      ...     return state, optax_lena.metrics(state)
      >>> keys = jax.random.split(jax.random.key(0), 20)
      >>> _, history = jax.lax.scan(step, tx.init(params), keys)
      >>> ax = plot_layers(history, "warmup_factor")
      >>> [line.get_label() for line in ax.lines]
      ['calm', 'noisy']
      >>> ax.figure.savefig(io.BytesIO())  # or a path
    """
    curves = _curves(history, field, clock)
    if ax is not None:
        check_is("ax", ax, Axes, "Figure().subplots()")
    if ax is None:
        ax = Figure(figsize=(8, 4.5), layout="constrained").subplots()
    few = len(curves) <= len(PALETTE)
    # The last tenth of the map is too light for a line on white.
    colours = PALETTE if few else colormaps["cividis"](np.linspace(0, 0.9, len(curves)))
    for (layer, (x, y)), colour in zip(curves.items(), colours, strict=False):
        marker = "o" if np.size(x) == 1 else None
        ax.plot(x, y, color=colour, linewidth=1.5, label=layer, marker=marker)
    _label(ax, field, clock)
    if few:
        _legend(ax)
    else:
        _colour_bar(ax, list(curves), colours)
    return ax


def _curves(
    history: Mapping[str, ArrayLike], field: str, clock: str
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns x and y of every layer, by its name and the label of its state."""
    check_choice("field", field, LAYER_FIELDS)
    check_choice("clock", clock, tuple(CLOCK_LABELS))
    if not isinstance(history, Mapping):
        raise ValueError(
            "`history` must be a mapping of names to arrays, as optax_lena.metrics "
            f"returns it, got {history!r}."
        )
    suffix = f"model/{clock}"
    labels = [key.removesuffix(suffix) for key in history if key.endswith(suffix)]
    curves = {}
    for label in labels:
        x = np.atleast_1d(np.asarray(history[label + suffix]))
        start = f"{label}{field}/"
        for key in (key for key in history if key.startswith(start)):
            y = np.atleast_1d(np.asarray(history[key]))
            if x.shape != y.shape or x.ndim != 1:
                raise ValueError(
                    f"`history` must hold arrays of one length, got {x.shape} for "
                    f"{label + suffix!r} and {y.shape} for {key!r}."
                )
            if not len(x):
                raise ValueError(
                    "`history` must hold one time or more, got empty arrays: make at "
                    "least one update."
                )
            curves[label + key.removeprefix(start)] = (x, y)
    if not curves:
        raise ValueError(
            f"`history` must hold {suffix!r} and '{field}/<layer>', as "
            f"optax_lena.metrics returns them, got {sorted(history)[:4]}."
        )
    return curves


def _label(ax: Axes, field: str, clock: str) -> None:
    ax.set_xlabel(CLOCK_LABELS[clock])
    ax.set_ylabel(FIELD_LABELS[field])
    if field in _LOG_FIELDS:
        ax.set_yscale("log", base=2)
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
    if field == "warmup_factor":
        ax.set_ylim(0, 1.03)
    ax.set_xlim(left=0)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    ax.set_axisbelow(True)


def _legend(ax: Axes) -> None:
    """Names the lines from top to bottom, as they end at the right."""
    last = [float(np.asarray(line.get_ydata())[-1]) for line in ax.lines]
    order = np.argsort([-value for value in last], kind="stable")
    handles = [ax.lines[i] for i in order]
    ax.legend(
        handles=handles, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False
    )


def _colour_bar(ax: Axes, layers: list[str], colours: Any) -> None:
    """Labels the lines by colour: every layer, or 16 of many."""
    count = len(layers)
    mappable = ScalarMappable(Normalize(-0.5, count - 0.5), ListedColormap(colours))
    named = np.unique(np.linspace(0, count - 1, min(count, 16)).round().astype(int))
    figure: Any = ax.get_figure()
    bar = figure.colorbar(mappable, ax=ax)
    bar.set_ticks(named, labels=[layers[i] for i in named])
    bar.ax.invert_yaxis()
    bar.ax.tick_params(length=0)
    bar.outline.set_visible(False)
