"""The sources: a run's metrics, from wherever they were kept, as columns.

In: an optax state, stacked metrics, a list of metrics, or a log in JSON lines, CSV or
TSV. Out: an array `[T]` for every metric that an advice reads; not a number where an
entry lacks it.
"""

import csv
import json
import os
import re
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from optax_lena._reports.report import LAYER_FIELDS, metrics

# What comes before it is the label of one of several LENA states, or a logger's prefix.
_MODEL = re.compile(r"^(|.+/)model/(?:noise|noise_scale|gain)$")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
Columns = dict[str, np.ndarray]
Row = Mapping[str, Any]


def columns_of(source: Any, name: str) -> Columns:
    """Brings every source into the form of stacked metrics.

    Args:
      source: as for `optax_lena.advise`.
      name: the argument's name, for errors.

    Returns:
      By the metric's name, its values over time.

    Raises:
      ValueError: if there are no metrics in it, or arrays of several lengths.
      OSError: if it is a file that cannot be read.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        _check_no_events(path)
        delimiter = _DELIMITERS.get(path.suffix)
        rows = _table_rows(path, delimiter) if delimiter else _json_rows(path)
        return _stacked(rows, str(path))
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
    """The label before a model's metric, but not the field before a layer "model"."""
    match = _MODEL.match(key) if isinstance(key, str) else None
    # Behind a logger's prefix and a state's label the field does not stand first.
    before = set(match[1].split("/")) if match else set()
    return None if before.intersection(LAYER_FIELDS) else match


def _are_rows(source: Any) -> bool:
    """Whether it is a list of metrics; an optax state may be a tuple of mappings."""
    if not isinstance(source, list | tuple):
        return False
    if not all(isinstance(row, Mapping) for row in source):
        return False
    return isinstance(source, list) or any(label_of(k) for row in source for k in row)


def _kept(key: object) -> bool:
    """Whether a metric is read here: others may be anything, texts too."""
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
    """The rows, and in the place of a stacked chunk of them the rows of the chunk."""
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
    """One number or many, `[T]`; an error for texts."""
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


def _check_no_events(path: Path) -> None:
    """Raises a `ValueError` for a directory, such as TensorBoard's, or one of its logs.

    Only TensorBoard reads them, and it is no dependency.
    """
    if path.is_dir() or ".tfevents." in path.name:
        got = "a directory" if path.is_dir() else "events of TensorBoard"
        raise ValueError(
            f"{path} must be a log in JSON lines, or a table (.csv, .tsv), got {got}. "
            "Of TensorBoard's logs read the scalars, events = "
            "tensorboard.backend.event_processing.event_accumulator.EventAccumulator("
            "directory).Reload(), and give optax_lena.advise the dictionary "
            "{tag: [x.value for x in events.Scalars(tag)]} of their tags."
        )


def _table_rows(path: Path, delimiter: str) -> list[Row]:
    # Cells are texts; those of columns that are not read stay so.
    return list(csv.DictReader(_text(path).splitlines(), delimiter=delimiter))


def _json_rows(path: Path) -> list[Row]:
    rows: list[Row] = []
    lines = _text(path).splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            found = json.loads(line) if line.strip() else {}
        except json.JSONDecodeError as error:
            if number == len(lines) > 1:  # cut off while it was written
                break
            raise ValueError(
                f"{path}: line {number} is not JSON ({error}): a log must hold one "
                "JSON object per line, or be a table whose name ends in .csv or .tsv."
            ) from error
        for row in found if isinstance(found, list) else [found]:
            if isinstance(row, dict):
                rows.append(dict(_flat(row)))
    return rows


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # some tools begin with a mark
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} must be a text in UTF-8, got {error}: decompress it first."
        ) from error


def _flat(row: Row, prefix: str = "") -> list[tuple[str, Any]]:
    pairs = []
    for key, value in row.items():
        nested = isinstance(value, Mapping)
        pairs += _flat(value, f"{prefix}{key}/") if nested else [(prefix + key, value)]
    return pairs


def _brief(source: Any) -> str:
    """A state or a table may print for pages."""
    return reprlib.repr(source)
