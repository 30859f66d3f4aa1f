"""The history: noise scales over a run.

In: columns of metrics. Out: the noise scale of the model and of every layer at each
time, in base batches.
"""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from optax_lena._advice.sources import columns_of, label_of
from optax_lena._checks import FLOAT32_MAX

# `metrics` logs infinity as the largest float32, and loggers round.
_INFINITE = 0.99 * FLOAT32_MAX


@dataclasses.dataclass(frozen=True, eq=False)
class History:
    """Noise scales over the course of a run.

    Attributes:
      base_steps: `[T]`, base batches seen, rising; entry numbers if none were logged.
      weights: `[T]`, the share of the run's base batches that an entry stands for.
      noise_scale: `[T]`, of the whole model, in base batches; infinite without signal.
      layers: the same for every layer; NaN where it was not logged.
    """

    base_steps: np.ndarray
    weights: np.ndarray
    noise_scale: np.ndarray
    layers: dict[str, np.ndarray]

    def part(self, start: float, end: float) -> "History":
        """Returns the entries with `start` < base step <= `end`."""
        return self._only((self.base_steps > start) & (self.base_steps <= end))

    def _only(self, keep: np.ndarray) -> "History":
        return History(
            self.base_steps[keep],
            self.weights[keep],
            self.noise_scale[keep],
            {name: values[keep] for name, values in self.layers.items()},
        )


def read_history(source: Any) -> History:
    """Reads noise scales from a state, a history of metrics or a log's path.

    Args:
      source: an optax state with a LENA state inside; a mapping of the metrics' names
        to numbers or to arrays, read in C order; a list of mappings; or the path of a
        file, JSON lines or CSV. Lines without the metrics are skipped, dictionaries in
        a line are flattened with `/`.

    Returns:
      The entries that measured anything, in order of time. Where a run went back to a
      checkpoint, the steps that it repeated replace the first ones.

    Raises:
      ValueError: if there are no such metrics, or none that measured anything.
      OSError: if the file cannot be read.

    Warns:
      RuntimeWarning: if broken lines of a log were skipped, or time goes back in it
        more often than a run that was restarted explains.
    """
    history, _ = _read(source, "state_or_history")
    steps, measured = history.base_steps, ~np.isnan(history.noise_scale)
    # Only entries after which all base steps are larger.
    last = np.minimum.accumulate(np.append(steps[1:], np.inf)[::-1])[::-1] > steps
    _warn_of_disorder(steps, int((measured & last).sum()))
    if not (measured & last).any():
        raise ValueError(
            "`state_or_history` must have measured noise or signal, got none in "
            f"{len(steps)} entries: make at least one update, with moments."
        )
    kept = history._only(measured & last)
    return dataclasses.replace(kept, weights=_weights(kept.base_steps))


def _warn_of_disorder(steps: np.ndarray, count: int) -> None:
    falls = int(np.sum(np.diff(steps) < 0))
    if falls > max(1, len(steps) / 10):
        warnings.warn(
            f"`model/base_steps` falls {falls} times in {len(steps)} entries, so that "
            f"{count} of them count: what a run repeats after it went back to a "
            "checkpoint replaces what it did before. Give the entries of one run, in "
            "the order of time.",
            RuntimeWarning,
            stacklevel=4,  # the call of `advise`
        )


def read_last(source: Any, name: str) -> tuple[float, float, float]:
    """Reads what a controller needs from the last entry of any source.

    Args:
      source: as for `read_history`.
      name: the argument's name, for errors.

    Returns:
      The noise scale (NaN if nothing was measured), the base steps, and the share of
      layers that are still warming up (0 if it was not logged).

    Raises:
      ValueError: if there are no such metrics, or no base steps among them.
    """
    history, warming_up = _read(source, name, timed=True)
    return float(history.noise_scale[-1]), float(history.base_steps[-1]), warming_up


def _read(source: Any, name: str, *, timed: bool = False) -> tuple[History, float]:
    """Reads every entry, measured or not, and the last share of layers warming up.

    If `timed`, base steps must be in it: numbers of entries do not stand for them.
    """
    columns = columns_of(source, name)
    labels = sorted({m[1] for key in columns if (m := label_of(key))})
    if not labels:
        raise ValueError(
            f"`{name}` must hold 'model/noise' and 'model/signal' as "
            f"optax_lena.metrics returns them, got {sorted(columns)[:6]}."
        )
    # Several states: noises add up over the parameters, as they do over layers.
    noise, signal = np.sum([_model(columns, label, name) for label in labels], axis=0)
    clock = f"{labels[0]}model/base_steps"
    steps = columns.get(clock, np.full(len(noise), np.nan))
    if not len(steps):
        raise ValueError(f"`{name}` must hold one entry or more, got empty arrays.")
    # An entry without a time cannot be weighed against those that have one.
    is_known = np.isfinite(steps)
    if timed and not is_known.any():
        got = steps[-3:] if clock in columns else sorted(columns)[:6]
        raise ValueError(
            f"`{name}` must hold a finite '{clock}' as optax_lena.metrics returns it, "
            f"got {got}: the base step of every doubling is recorded."
        )
    if not is_known.any():
        steps, is_known = np.arange(1.0, len(noise) + 1), ~is_known
    steps = steps[is_known]
    layers = {
        label + layer: noise_scale(*pair)[is_known]
        for label in labels
        for layer, pair in _layers(columns, label).items()
    }
    warming_up = [
        columns.get(f"{label}model/warming_up", np.zeros(1)) for label in labels
    ]
    model = noise_scale(noise, signal)[is_known]
    history = History(steps, _weights(steps), model, layers)
    return history, max(float(share[-1]) for share in warming_up)


def noise_scale(noise: np.ndarray, signal: np.ndarray) -> np.ndarray:
    """Returns noise over signal; infinite without signal, NaN without both."""
    measured = np.isfinite(noise) & np.isfinite(signal)
    noise, signal = np.maximum(noise, 0), np.maximum(signal, 0)
    measured &= (noise > 0) | (signal > 0)
    infinite = np.full_like(noise, np.inf)
    with np.errstate(over="ignore"):  # to infinity
        ratio = np.divide(noise, signal, where=signal > 0, out=infinite)
    return np.where(measured, ratio, np.nan)


def _model(columns: Mapping[str, np.ndarray], label: str, name: str) -> np.ndarray:
    """Returns noise and signal of one state, `[2, T]`, or numbers of the same ratio."""

    def get(*fields: str) -> list[np.ndarray]:
        found = [columns.get(f"{label}model/{field}") for field in fields]
        return [] if any(x is None for x in found) else found  # pyrefly: ignore

    if pair := get("noise", "signal"):
        return np.stack(pair)
    if layers := _layers(columns, label):
        return np.sum(list(layers.values()), axis=0)
    if ratio := get("noise_scale"):
        signal = np.where(ratio[0] >= _INFINITE, 0, 1 / (1 + ratio[0]))
        return np.stack([1 - signal, signal])
    if pair := get("gain", "batch_scale"):
        gain, batch_scale = pair
        # gain = (b + 1) / (b / S + 1), solved for b = noise / signal.
        share = np.stack([gain - 1, 1 - gain / batch_scale])
        return np.maximum(share, 0)
    raise ValueError(
        f"`{name}` must hold '{label}model/noise' and "
        f"'{label}model/signal', or '{label}model/gain' and "
        f"'{label}model/batch_scale', got only one of each pair."
    )


def _layers(
    columns: Mapping[str, np.ndarray], label: str
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns noise and signal of every layer of one state."""
    start = f"{label}noise/"
    names = [key.removeprefix(start) for key in columns if key.startswith(start)]
    return {
        name: (columns[start + name], columns[f"{label}signal/{name}"])
        for name in names
        if f"{label}signal/{name}" in columns
    }


def _weights(steps: np.ndarray) -> np.ndarray:
    """Returns base batches since the entry before; the first counts as the second."""
    if len(steps) < 2:
        return np.ones(len(steps))
    weights = np.diff(steps)
    return np.append(weights[0], weights)
