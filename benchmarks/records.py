"""Records: what one run was and what it measured, as one line of JSON.

Tables and figures are made from records; no number is typed by hand.
"""

import dataclasses
import json
import math
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("optax_lena", "jax", "jaxlib", "optax", "flax", "numpy")
# What a number depends on, in the repository.
CODE = ("optax_lena", "benchmarks", "pyproject.toml", "constraints.txt")


@dataclasses.dataclass(frozen=True)
class Record:
    """One run of one seed.

    Attributes:
      workload: name of the data set.
      method: a key of `METHODS`.
      batch_scale: S.
      num_microbatches: n, or None where no moments were taken.
      seed: of the initial parameters and the order of the data.
      recipe: the fields of `Recipe`.
      split: what `test_accuracy` was measured on, `"test"` or `"validation"`.
      base_steps: length of the base run.
      updates: number of updates at each evaluation.
      train_loss: mean since the evaluation before.
      test_accuracy: at each evaluation, in [0, 1].
      layers: `optax_lena.metrics` at each evaluation.
      seconds: wall time of the run, without compilation.
      environment: versions, device and commit.
    """

    workload: str
    method: str
    batch_scale: int
    num_microbatches: int | None
    seed: int
    recipe: dict[str, Any]
    base_steps: int
    updates: list[int]
    train_loss: list[float]
    test_accuracy: list[float]
    layers: dict[str, list[float]]
    seconds: float
    environment: dict[str, str]
    split: str = "test"

    @property
    def final_accuracy(self) -> float:
        """Test accuracy at the end of the run."""
        return self.test_accuracy[-1]

    @property
    def accuracy_at_equal_examples(self) -> float:
        """Test accuracy when the run had seen the base run's examples."""
        return self.test_accuracy[self.updates.index(self.base_updates)]

    @property
    def base_updates(self) -> int:
        """Updates in the base run's examples."""
        return self.base_steps // self.batch_scale

    def updates_to(self, target: float) -> int | None:
        """Updates at the first evaluation to reach the target; None if none does."""
        pairs = zip(self.updates, self.test_accuracy, strict=True)
        return next((updates for updates, value in pairs if value >= target), None)


def lines(records: Iterable[Any]) -> list[str]:
    """One line of JSON per record, four digits per fractional number.

    Args:
      records: dataclasses; numbers that are not finite become null.
    """
    return [json.dumps(_plain(dataclasses.asdict(record))) for record in records]


def write(records: Iterable[Any], path: Path, *, append: bool = False) -> None:
    """Writes one line of JSON per record.

    Args:
      records: as `lines` takes them.
      path: of the file, which is replaced.
      append: add to the file instead.
    """
    text = "".join(f"{line}\n" for line in lines(records))
    with path.open("a" if append else "w") as file:
        file.write(text)


def read(path: Path) -> list[Record]:
    """Reads what `write` wrote; null becomes NaN in the measured curves."""
    records = []
    for line in path.read_text().splitlines():
        fields = json.loads(line)
        fields["train_loss"] = _numbers(fields["train_loss"])
        fields["layers"] = {k: _numbers(v) for k, v in fields["layers"].items()}
        records.append(Record(**fields))
    return records


def one_per_seed(records: Iterable[Record]) -> list[Record]:
    """One record for each method, S and seed: the last.

    Two processes may have trained the same run at the same time.
    """
    kept = {(run.method, run.batch_scale, run.seed): run for run in records}
    return list(kept.values())


@cache
def environment() -> dict[str, str]:
    """Versions, device and commit that a number depends on."""
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "device": jax.devices()[0].device_kind,
        "cpus": str(os.cpu_count()),
        "commit": _commit(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """The commit, and whether the code (not the results, say) differs from it."""
    commit = _git("rev-parse", "--short=12", "HEAD")
    if commit is None:
        return "unknown"
    return commit + "-dirty" * bool(_git("status", "--porcelain", "--", *CODE))


def _git(*arguments: str) -> str | None:
    root = Path(__file__).parent.parent
    try:
        found = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else float(f"{value:.4g}")
    return value


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]
