"""The files: the rows of a log in JSON lines, CSV or TSV.

In: a path. Out: its rows, and what is wrong with the lines that hold none. Broken lines
are skipped here; `sources` decides whether the rest is a log.
"""

import contextlib
import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
Row = Mapping[str, Any]


def read_rows(path: Path) -> tuple[list[Row], list[str]]:
    """Reads a log's rows.

    Args:
      path: a file of JSON lines or, if its name ends in .csv or .tsv, a table.

    Returns:
      The rows, and a message for every line that is no row. There is none for a last
      line that is cut off: logs often are while they are written.

    Raises:
      ValueError: if it is a directory, or a TensorBoard log.
      OSError: if it cannot be read.
    """
    _check_no_events(path)
    data, errors = path.read_bytes(), []
    try:
        text = data.decode("utf-8-sig")  # some tools write a BOM
    except UnicodeDecodeError as error:
        text = data.decode("utf-8-sig", "replace")
        errors.append(f"it is no text in UTF-8, is it compressed? ({error})")
    delimiter = _DELIMITERS.get(path.suffix.lower())
    rows, broken = _table_rows(text, delimiter) if delimiter else _json_rows(text)
    last = len(io.StringIO(text, newline=None).readlines())
    if rows and not text.endswith(("\n", "\r")):
        broken.pop(last, None)
    return rows, errors + list(broken.values())


def _table_rows(text: str, delimiter: str) -> tuple[list[Row], dict[int, str]]:
    """Returns the rows, with text cells, and errors by line."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    head: list[str] = []
    rows: list[Row] = []
    broken: dict[int, str] = {}
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return rows, broken
        except csv.Error as error:  # such as a cell that is too long for the module
            broken[reader.line_num] = f"line {reader.line_num} is no row ({error})"
            continue
        if not head:
            head = cells
        elif len(cells) < len(head) or any(cells[len(head) :]):
            if cells:
                got = f"{len(cells)} cells, the first line {len(head)}"
                broken[reader.line_num] = f"line {reader.line_num} has {got}"
        else:
            rows.append(dict(zip(head, cells, strict=False)))


def _json_rows(text: str) -> tuple[list[Row], dict[int, str]]:
    """Returns the objects, flattened, and errors by line."""
    rows: list[Row] = []
    broken: dict[int, str] = {}
    if text.lstrip().startswith("["):  # one list, perhaps over many lines
        with contextlib.suppress(ValueError, RecursionError):
            return _objects(text), {}
    # Not `splitlines`, which splits at characters that a JSON string may hold.
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        try:
            rows += _objects(line.rstrip("\n")) if line.strip() else [{}]
        except (ValueError, RecursionError) as error:
            broken[number] = f"line {number} is not JSON ({error})"
    return rows, broken


def _objects(text: str) -> list[Row]:
    """Returns the object that a text holds, or those of its list, flattened."""
    found = json.loads(text)
    many = found if isinstance(found, list) else [found]
    return [dict(_flat(row)) for row in many if isinstance(row, dict)]


def _flat(row: Row, prefix: str = "") -> list[tuple[str, Any]]:
    pairs = []
    for key, value in row.items():
        nested = isinstance(value, Mapping)
        pairs += _flat(value, f"{prefix}{key}/") if nested else [(prefix + key, value)]
    return pairs


def _check_no_events(path: Path) -> None:
    """Raises a `ValueError` for a directory, or a log of TensorBoard.

    Only TensorBoard reads its logs, and it is no dependency.
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
