"""Cost report: measurements in; a table, Markdown and sentences about bars out."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks.measure import Measurement

Group = dict[str, Measurement]
TITLES = {
    "update": "One update of the parameters",
    "step": "A whole training step",
    "growth": "Growth",
    "peer": "The peer: what each method adds to its own library's SGD",
}
INDENT = "  "


def groups(measured: Iterable[Measurement]) -> dict[tuple[str, str], Group]:
    """By part and setting, then by method."""
    result: dict[tuple[str, str], Group] = {}
    for one in measured:
        result.setdefault((one.part, one.setting), {})[one.method] = one
    return result


def cells(measured: Sequence[Measurement]) -> list[list[str]]:
    """Header and rows of one part's table, a row for each setting above its methods.

    Columns that nothing fills are left out.
    """
    header = [
        "method",
        "words",
        "temp. MB",
        "reduces",
        "compile s",
        "×",
        "time ms",
        "× (range)",
    ]
    rows = []
    for (_, setting), group in groups(measured).items():
        rows.append([setting, *[""] * (len(header) - 1)])
        for method, one in group.items():
            rows.append([INDENT + method, *_cells(one, group[one.baseline])])
    filled = [any(row[i] for row in rows) for i in range(len(header))]
    return [
        [cell for cell, keep in zip(line, filled, strict=True) if keep]
        for line in (header, *rows)
    ]


def _cells(one: Measurement, base: Measurement) -> list[str]:
    result = []
    # Words and temporary memory of a whole step are the model's, not the optimizer's.
    alone = one.microbatches is None
    result.append(f"{one.words:.2f}" if alone and one.words is not None else "")
    temp = one.temp_bytes
    result.append("" if temp is None else f"{temp / 1e6:.2f}")
    several = one.devices > 1 and one.all_reduces is not None
    result.append(str(one.all_reduces) if several else "")
    result += ["", ""]
    if one.compile_cpu_seconds is not None and base.compile_cpu_seconds is not None:
        ratio = one.compile_cpu_seconds / base.compile_cpu_seconds
        result[-2:] = [f"{one.compile_cpu_seconds:.2f}", f"{ratio:.2f}"]
    result += ["", ""]
    if one.seconds is not None and one.ratio is not None:
        middle, least, most = one.ratio
        milliseconds = 1000 * one.seconds[0]
        digits = ",.0f" if milliseconds >= 100 else ".3g"
        result[-2] = f"{milliseconds:{digits}}"
        result[-1] = f"{middle:.2f} ({least:.2f}–{most:.2f})"
    return result


def table(measured: Sequence[Measurement]) -> Table:
    """One part's table, for a terminal."""
    result = Table(
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        title=TITLES[measured[0].part],
        title_justify="left",
    )
    header, *rows = cells(measured)
    for number, name in enumerate(header):
        if number == 0:
            result.add_column(name)
            continue
        width = max(len(line[number]) for line in (header, *rows))
        result.add_column(name, justify="right", no_wrap=True, min_width=width)
    for row in rows:
        result.add_row(*row, style=None if row[0].startswith(INDENT) else "bold")
    return result


def markdown(measured: Sequence[Measurement]) -> str:
    """One table per part, the bars, and where it was measured."""
    parts = []
    for part, title in TITLES.items():
        own = [one for one in measured if one.part == part]
        if own:
            header, *rows = cells(own)
            rule = ["---"] + ["---:"] * (len(header) - 1)
            rows = [
                row if row[0].startswith(INDENT) else [f"*{row[0]}*", *row[1:]]
                for row in rows
            ]
            lines = [
                f"| {' | '.join(cell.strip() for cell in line)} |"
                for line in (header, rule, *rows)
            ]
            parts += [f"**{title}**", "\n".join(lines)]
    parts.append("\n".join(f"- {sentence}" for sentence in bars(measured)))
    where = measured[0].environment
    parts.append(
        "words: bytes that an update moves, by XLA's count, over 4 bytes × parameters. "
        "reduces: all-reduces of a step on several devices. "
        "compile s: CPU time of tracing, lowering and compiling. ×: over the first "
        "SGD of the setting (for numbers of tensors: over Adam), medians of "
        f"{max(one.rounds for one in measured)} rounds in which methods take turns. "
        f"Recorded on {where['cpus']} cores ({where['device']}) with jax "
        f"{where['jax']}, at commit {where['commit']}."
    )
    return "\n" + "\n\n".join(parts) + "\n\n"


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
    Bar("growth", "LENA", "compile time over Adam", _compile_at_2000, 1.5),
    Bar(
        "step",
        "LENA, data parallel",
        "all-reduces beyond SGD's",
        lambda group: (
            (group["LENA, data parallel"].all_reduces or 0)
            - (group["SGD, data parallel"].all_reduces or 0)
        ),
        0,
    ),
)


def bars(measured: Sequence[Measurement]) -> list[str]:
    """Says of every bar whether it is met, wherever it was measured."""
    sentences = []
    for bar in BARS:
        for (part, setting), group in groups(measured).items():
            if part != bar.part or bar.method not in group:
                continue
            value = bar.value(group)
            if value is not None:
                verdict = "met" if value <= bar.limit else "MISSED"
                sentences.append(
                    f"{setting}, {bar.method}: {bar.name} {value:.3g}, "
                    f"at most {bar.limit:g} allowed: {verdict}."
                )
    return sentences
