"""The sources: a run's metrics, from wherever they were kept, as columns.

In: an optax state, stacked metrics, a list of metrics, or a log in JSON lines, CSV or
TSV. Out: an array `[T]` for every metric that an advice reads; NaN where an entry lacks
it.
"""

import itertools
import os
import re
import reprlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from optax_lena._advice.files import Row, read_rows
from optax_lena._reports.report import LAYER_FIELDS, metrics

# In front of it is the label of one of several LENA states, or a logger's prefix.
_MODEL = re.compile(r"^(|.+/)model/(?:noise|noise_scale|gain)$")
Columns = dict[str, np.ndarray]


def columns_of(source: Any, name: str) -> Columns:
    """Converts every source to stacked metrics.

    Args:
      source: as for `optax_lena.advise`.
      name: the argument's name, for errors.

    Returns:
      The values of each metric over time, by its name.

    Raises:
      ValueError: if there are no metrics in it, or arrays of several lengths.
      OSError: if it is a file that cannot be read.

    Warns:
      RuntimeWarning: if broken lines of a log were skipped.
    """
    if isinstance(source, str | os.PathLike):
        rows, broken = read_rows(Path(source))
        if broken:
            _tell(broken, rows, source)
        return _stacked(rows, str(source))
    if _are_rows(source):
        return _stacked(source, f"`{name}`")
    is_history = isinstance(source, Mapping) and any(map(label_of, source))
    try:
        found = jax.device_get(dict(source) if is_history else metrics(source))
        columns = {k: _numbers(v) for k, v in found.items() if _kept(k)}
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`{name}` must be an optax state with a LENA state inside, a history of "
            "optax_lena.metrics, or the path of a log, got "
            f"{_brief(source)}: {str(error).rstrip('.')}."
        ) from error
    _check_lengths(columns, f"`{name}`")
    return columns


def label_of(key: object) -> re.Match[str] | None:
    """Matches the label before a model's metric, not a field before a layer "model"."""
    match = _MODEL.match(key) if isinstance(key, str) else None
    # The field does not come first if there is a logger's prefix or a state's label.
    before = set(match[1].split("/")) if match else set()
    return None if before.intersection(LAYER_FIELDS) else match


def _are_rows(source: Any) -> bool:
    """Says whether it is a list of metrics; a state may be a tuple of mappings."""
    if not isinstance(source, list | tuple):
        return False
    if not all(isinstance(row, Mapping) for row in source):
        return False
    return isinstance(source, list) or any(label_of(k) for row in source for k in row)


def _tell(broken: Sequence[str], rows: Sequence[Row], path: str | os.PathLike) -> None:
    """Warns of broken lines in a log; raises if the file is no log.

    A job that is killed leaves half a line, and appends to it after its restart.
    """
    if not any(map(label_of, itertools.chain.from_iterable(rows))):
        raise ValueError(
            f"{path}: {broken[0]}: a log must hold one JSON object per line, or be a "
            "table whose name ends in .csv or .tsv."
        )
    more = f", and {len(broken) - 1} more" if len(broken) > 1 else ""
    warnings.warn(
        f"{path}: {broken[0]}{more}. What cannot be read was passed over: half a line, "
        "perhaps, of a job that was killed.",
        RuntimeWarning,
        stacklevel=6,  # the call of `advise`, or of `BatchRamp.update`
    )


def _kept(key: object) -> bool:
    """Says whether a metric is read here: others may be anything, also text."""
    is_name = isinstance(key, str)
    return is_name and re.search(r"(^|/)(model|noise|signal)/", key) is not None


def _stacked(rows: Sequence[Row], source: str) -> Columns:
    own = [row for row in rows if any(map(label_of, row))]
    if not own:
        names = list(dict.fromkeys(key for row in rows for key in row))
        raise ValueError(
            f"{source} must hold 'model/noise' and 'model/signal', as "
            f"optax_lena.metrics returns them, got {names[:6]} in {len(rows)} entries: "
            "log optax_lena.metrics(opt_state) of a LENA optimizer, or of one behind "
            "optax_lena.monitor."
        )
    entries = _entries(own, source)
    keys = dict.fromkeys(key for row in own for key in row if _kept(key))
    return {key: np.array([_number(row.get(key)) for row in entries]) for key in keys}


def _entries(rows: Sequence[Row], source: str) -> list[Row]:
    """Returns the rows, with stacked chunks split into their rows."""
    names = dict.fromkeys(key for row in rows for key in row if label_of(key))
    entries: list[Row] = []
    for number, row in enumerate(rows, start=1):
        if not any(_is_many(row.get(name)) for name in names):
            entries.append(row)
            continue
        columns = {key: _numbers_or_none(row[key]) for key in row if _kept(key)}
        chunk = {key: column for key, column in columns.items() if column is not None}
        _check_lengths(chunk, f"{source}, entry {number} with metrics,")
        times = zip(*chunk.values(), strict=True)
        entries += [dict(zip(chunk, time, strict=True)) for time in times]
    return entries


def _is_many(value: Any) -> bool:
    return isinstance(value, list | tuple) or getattr(value, "ndim", 0) > 0


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return np.nan
    except OverflowError:  # an integer beyond all floats
        return np.inf if value > 0 else -np.inf


def _numbers(value: Any) -> np.ndarray:
    """Returns one number or many, `[T]`; raises for text."""
    try:
        return np.asarray(value, float).reshape(-1)
    except OverflowError:
        many = np.asarray(value, object).reshape(-1)
        return np.array([_number(x) for x in many])


def _numbers_or_none(value: Any) -> np.ndarray | None:
    try:
        return None if value is None else _numbers(value)
    except (TypeError, ValueError):
        return None


def _check_lengths(columns: Columns, source: str) -> None:
    if len({len(column) for column in columns.values()}) > 1:
        raise ValueError(
            f"{source} must hold arrays of one length, got "
            f"{ ({k: len(v) for k, v in list(columns.items())[:6]}) }."
        )


def _brief(source: Any) -> str:
    """Shortens a `repr`: a state or a table may print for pages."""
    return reprlib.repr(source)
