"""Measure: what a compiled function costs, by XLA's account and by the clock.

Clocks drift with whatever else a machine does, so functions that are compared take
turns (A B C A B C ...), and their times are divided within a turn.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import jax

from benchmarks.cost.collectives import collectives
from benchmarks.records.environment import environment


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One method at one setting; what was not measured is None.

    Attributes:
      part: of the benchmark: `"update"`, `"step"`, `"growth"` or `"peer"`.
      setting: what is held fixed while methods are compared, a row group of a table.
      method: name of the optimizer or of the way to take a step.
      baseline: the method of the same setting that `ratio` divides by.
      size: numbers in the parameters.
      tensors: arrays in the parameters.
      microbatches: n.
      devices: that share a step.
      bytes_accessed: by one call, by XLA's count.
      temp_bytes: memory beside arguments and results.
      flops: of one call, by XLA's count.
      all_reduces: in the compiled program.
      collectives: executed in one call, also those in the loop over microbatches.
      collective_bytes: that they leave on every device.
      compile_seconds: wall time of tracing, lowering and compiling.
      compile_cpu_seconds: the same in the process's CPU time, of all threads.
      rounds: calls that were timed.
      seconds: of a call: median, least and most over the rounds.
      ratio: of a call's time to the baseline's in the same round: the same three.
      environment: versions, device and commit.
    """

    part: str
    setting: str
    method: str
    baseline: str
    size: int
    tensors: int
    microbatches: int | None = None
    devices: int = 1
    bytes_accessed: int | None = None
    temp_bytes: int | None = None
    flops: int | None = None
    all_reduces: int | None = None
    collectives: int | None = None
    collective_bytes: int | None = None
    compile_seconds: float | None = None
    compile_cpu_seconds: float | None = None
    rounds: int = 0
    seconds: list[float] | None = None
    ratio: list[float] | None = None
    environment: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def words(self) -> float | None:
        """Bytes moved, in units of 4 bytes per parameter."""
        if self.bytes_accessed is None:
            return None
        return self.bytes_accessed / 4 / self.size


def compile_timed(function: Any, passes: int, *args: Any) -> tuple[Any, dict[str, Any]]:
    """Compiles a jitted function.

    Args:
      function: what `jax.jit` returned.
      passes: of its loop over microbatches.
      *args: arrays, or their shapes.

    Returns:
      The compiled function, and fields of its `Measurement`.
    """
    wall, cpu = time.perf_counter(), time.process_time()
    compiled = function.lower(*args).compile()
    fields: dict[str, Any] = {
        "compile_seconds": time.perf_counter() - wall,
        "compile_cpu_seconds": time.process_time() - cpu,
    }
    analysis = compiled.cost_analysis() or {}
    memory = compiled.memory_analysis()
    fields["bytes_accessed"] = _integer(analysis.get("bytes accessed"))
    fields["flops"] = _integer(analysis.get("flops"))
    fields["temp_bytes"] = None if memory is None else memory.temp_size_in_bytes
    text = compiled.as_text()
    counted = collectives(text, passes)
    fields["collectives"], fields["collective_bytes"] = counted
    fields["all_reduces"] = text.count(" all-reduce(") + text.count(
        " all-reduce-start("
    )
    return compiled, fields


def take_turns(
    calls: Mapping[str, Callable[[], None]], baseline: str, rounds: int
) -> dict[str, dict[str, Any]]:
    """Times functions against each other.

    Args:
      calls: by name; each returns when its work is done.
      baseline: the name that ratios divide by.
      rounds: in each of which every function is called once, after one that no clock
        sees.

    Returns:
      Fields of a `Measurement` by name.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if number:
                times[name].append(time.perf_counter() - start)
    return {
        name: {
            "rounds": rounds,
            "seconds": _spread(own),
            "ratio": _spread(
                [one / base for one, base in zip(own, times[baseline], strict=True)]
            ),
        }
        for name, own in times.items()
    }


def where() -> dict[str, str]:
    """The environment, with the platform that JAX measures on."""
    return {**environment(), "platform": jax.default_backend()}


def _spread(values: list[float]) -> list[float]:
    return [median(values), min(values), max(values)]


def _integer(value: float | None) -> int | None:
    return None if value is None else int(value)
