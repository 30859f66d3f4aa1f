"""Lines: records as lines of JSON, and back, each line checked as it is read.

In: dataclasses. Out: text, four digits per fractional number, null for what is not
finite; and the dataclasses again.
"""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Iterable
from typing import Any, TypeVar

T = TypeVar("T")


def to_lines(records: Iterable[Any]) -> list[str]:
    """One line of JSON per record.

    Args:
      records: dataclasses; numbers that are not finite become null.
    """
    return [json.dumps(_plain(dataclasses.asdict(record))) for record in records]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else four_digits(value)
    return value


def four_digits(value: float) -> float:
    """The number as records keep it."""
    return float(f"{value:.4g}")


def from_line(line: str, kind: type[T]) -> T:
    """The record of one line.

    Args:
      line: of JSON.
      kind: the dataclass; it may refuse its fields with a ValueError.

    Raises:
      ValueError: if the line is none of that kind.
    """
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"a line that is no JSON ({error})") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{type(fields).__name__} in place of an object")
    known = dataclasses.fields(kind)  # type: ignore[arg-type]
    unknown = sorted(set(fields) - {field.name for field in known})
    missing = [f.name for f in known if _is_needed(f) and f.name not in fields]
    if unknown or missing:
        parts = [f"no field {name!r}" for name in missing]
        raise ValueError(", ".join(parts + [f"a field {name!r}" for name in unknown]))
    for name, hint in typing.get_type_hints(kind).items():
        if name in fields and not isinstance(fields[name], _classes(hint)):
            raise ValueError(f"{type(fields[name]).__name__} as field {name!r}")
    return kind(**fields)


def _is_needed(field: dataclasses.Field[Any]) -> bool:
    nothing = dataclasses.MISSING
    return field.default is nothing and field.default_factory is nothing


def _classes(hint: Any) -> tuple[type, ...]:
    """The classes of a field's value, without those of what it contains."""
    if isinstance(hint, types.UnionType):
        return tuple(c for part in typing.get_args(hint) for c in _classes(part))
    # A whole number of JSON may stand for a fractional one.
    return (int, float) if hint is float else (typing.get_origin(hint) or hint,)
