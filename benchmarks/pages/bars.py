"""Bars: limits on what LENA costs, and whether the measurements meet them."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

from benchmarks.cost.measure import Measurement

Group = dict[str, Measurement]


def by_setting(measured: Iterable[Measurement]) -> dict[tuple[str, str], Group]:
    """By part and setting, then by method."""
    result: dict[tuple[str, str], Group] = {}
    for one in measured:
        result.setdefault((one.part, one.setting), {})[one.method] = one
    return result


@dataclasses.dataclass(frozen=True)
class Bar:
    """A limit on one method's number, wherever the number was measured.

    Attributes:
      part: of the benchmark.
      method: that it limits.
      name: of the number.
      value: takes it from the methods of one setting; None where the bar is not meant.
      limit: the most that is allowed.
    """

    part: str
    method: str
    name: str
    value: Callable[[Group], float | None]
    limit: float


def _time_over(method: str, other: str) -> Callable[[Group], float | None]:
    def value(group: Group) -> float | None:
        one, base = group[method].ratio, group[other].ratio if other in group else None
        return one[0] / base[0] if one and base else None

    return value


def _compile_at_2000(group: Group) -> float | None:
    one, adam = group["LENA"], group.get("Adam")
    if one.tensors < 2000 or adam is None:
        return None
    assert one.compile_cpu_seconds and adam.compile_cpu_seconds
    return one.compile_cpu_seconds / adam.compile_cpu_seconds


def _on_gpu(group: Group) -> float | None:
    is_gpu = group["LENA"].environment.get("platform") == "gpu"
    return _time_over("LENA", "SGD")(group) if is_gpu else None


def _words_over(name: str) -> Callable[[Group], float]:
    """Words of the optimizer behind the monitor beyond those of itself."""

    def value(group: Group) -> float:
        return (group[f"{name}, monitored"].words or 0) - (group[name].words or 0)

    return value


def _reduces_over(method: str) -> Callable[[Group], float]:
    def value(group: Group) -> float:
        own, base = group[method], group["SGD, data parallel"]
        return (own.all_reduces or 0) - (base.all_reduces or 0)

    return value


def _bars_of_an_update(method: str) -> tuple[Bar, ...]:
    return (
        Bar("update", method, "words", lambda group: group[method].words, 7.02),
        Bar(
            "update",
            method,
            "temporary MB",
            lambda group: (group[method].temp_bytes or 0) / 1e6,
            1,
        ),
        Bar("update", method, "time over SGD", _time_over(method, "SGD"), 1.25),
    )


BARS = (
    *_bars_of_an_update("LENA"),
    *_bars_of_an_update("amplified LENA"),
    Bar(
        "update",
        "LENA, decay",
        "time over LARS",
        _time_over("LENA, decay", "LARS, decay"),
        0.25,
    ),
    Bar("step", "LENA", "time over SGD on a GPU", _on_gpu, 1.02),
    *(
        Bar(
            "monitor",
            f"{name}, monitored",
            "words beyond its own",
            _words_over(name),
            1,
        )
        for name in ("SGD", "AdamW")
    ),
    Bar(
        "monitor",
        "SGD, monitored, data parallel",
        "all-reduces beyond SGD's",
        _reduces_over("SGD, monitored, data parallel"),
        0,
    ),
    Bar("growth", "LENA", "compile time over Adam", _compile_at_2000, 1.0),
    Bar(
        "step",
        "LENA, data parallel",
        "all-reduces beyond SGD's",
        _reduces_over("LENA, data parallel"),
        0,
    ),
)


def sentences(measured: Sequence[Measurement]) -> list[str]:
    """Says of every bar whether it is met, wherever it was measured."""
    result = []
    for bar in BARS:
        for (part, setting), group in by_setting(measured).items():
            if part != bar.part or bar.method not in group:
                continue
            value = bar.value(group)
            if value is not None:
                verdict = "met" if value <= bar.limit else "MISSED"
                result.append(
                    f"{setting}, {bar.method}: {bar.name} {value:.3g}, "
                    f"at most {bar.limit:g} allowed: {verdict}."
                )
    return result
