"""Kills the pod program at random moments, and resumes it until it is done.

`python -m benchmarks.pod.kills --kills 20 --devices 8`. One run is left alone, another
is killed (SIGKILL) again and again: while it starts, trains, saves. Their last
checkpoints and their metrics must be equal, bit for bit.
"""

import dataclasses
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from benchmarks import command
from benchmarks.records import files
from benchmarks.records.environment import environment
from benchmarks.records.home import ROOT, kept

OPTIONS = (
    "--batch 64 --recipe.base-batch 8 --model.blocks 2 --model.features 32 "
    "--model.heads 2 --model.context 16 --save-every 10 --log-every 1 --eval-every 50"
).split()
STUCK_SECONDS = 900
WHILE_IT_STARTS = 0.2  # share of the kills before the first update


@dataclasses.dataclass(frozen=True)
class Killed:
    """What was left of one run after its kills.

    Attributes:
      devices: CPU devices of the run.
      updates: it made in all.
      kills: at random moments; some may have come while the program started.
      seed: of the moments.
      resumed_at: updates at which the lives after a kill began.
      same_state: whether parameters, optimizer state and keys are equal in every bit.
      same_metrics: whether metrics.jsonl is equal in every byte.
      environment: versions, device and commit.
    """

    devices: int
    updates: int
    kills: int
    seed: int
    resumed_at: list[int]
    same_state: bool
    same_metrics: bool
    environment: dict[str, str]


def measure(
    folder: Path, *, devices: int, updates: int, kills: int, seed: int
) -> Killed:
    """Trains twice in a folder, once with kills.

    Args:
      folder: an empty one.
      devices: into which the CPU is made.
      updates: of either run.
      kills: to come, as long as the run lasts.
      seed: of their moments.
    """
    steady, killed = folder / "steady", folder / "killed"
    options = [*OPTIONS, f"--processes.cpu-devices={devices}"]
    options.append(f"--recipe.base-steps={updates * 8}")
    _let_it_run(steady, options)
    rng = random.Random(seed)
    resumed_at = []
    for left in range(kills, 0, -1):
        ahead = 2 * (updates - _latest(killed)) / left
        # Not so near the end that the run is over before the kill.
        goal = min(_latest(killed) + int(rng.uniform(0, ahead)), updates - 50)
        if not _kill(killed, options, goal, rng):
            break
        resumed_at.append(_latest(killed))
    _let_it_run(killed, options)
    metrics = [(run / "metrics.jsonl").read_bytes() for run in (steady, killed)]
    return Killed(
        devices=devices,
        updates=_latest(killed),
        kills=len(resumed_at),
        seed=seed,
        resumed_at=resumed_at,
        same_state=_same(_state(steady), _state(killed)),
        same_metrics=metrics[0] == metrics[1],
        environment=environment(),
    )


def _let_it_run(out: Path, options: list[str]) -> None:
    if code := _start(out, options).wait():
        raise OSError(f"the run in {out} ended with code {code}.")


def _kill(out: Path, options: list[str], goal: int, rng: random.Random) -> bool:
    """Kills a run soon after so many updates, or while it starts; whether it lived."""
    program = _start(out, options)
    if rng.random() < WHILE_IT_STARTS:
        time.sleep(rng.uniform(0, 8))
    else:
        end = time.monotonic() + STUCK_SECONDS
        while program.poll() is None and _last_row(out) < goal:
            if time.monotonic() > end:
                program.kill()
                raise OSError(f"the run in {out} is stuck before update {goal}.")
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.1))
    program.kill()
    return program.wait() != 0


def _start(out: Path, options: list[str]) -> subprocess.Popen[bytes]:
    flags = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    # As a job on a cluster would: a life after a kill need not compile again.
    flags["JAX_COMPILATION_CACHE_DIR"] = str(out.parent / "compiled")
    arguments = ["-m", "examples.pod_training", "--out", str(out), *options]
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**flags, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )


def _last_row(out: Path) -> int:
    """Updates of the last whole row of metrics; 0 if there is none."""
    path = out / "metrics.jsonl"
    if not path.exists():
        return 0
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 100_000, 0))
        found = re.findall(rb'^{"updates": (\d+).*}\n', file.read(), re.MULTILINE)
    return int(found[-1]) if found else 0


def _latest(out: Path) -> int:
    """Updates of the latest whole checkpoint; 0 if there is none."""
    folder = out / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    return max((int(name) for name in names if name.isdigit()), default=0)


def _state(out: Path) -> dict[str, np.ndarray]:
    """Every leaf of the latest checkpoint, on one device, by its name."""
    path = out.absolute() / "checkpoints" / str(_latest(out)) / "state"
    with ocp.PyTreeCheckpointer() as checkpointer:
        shapes = checkpointer.metadata(path).item_metadata.tree
        numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
        tree = checkpointer.restore(path, restore_args=numpy)
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(name): np.asarray(leaf) for name, leaf in leaves}


def _same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    equal = [
        one[name].tobytes() == other[name].tobytes() for name in set(one) & set(other)
    ]
    return bool(equal) and set(one) == set(other) and all(equal)


@command.program
def main(arguments: Sequence[str] | None = None) -> None:
    """Kills a run, tells what was left, and keeps it."""
    parser = command.Parser(__doc__)
    parser.add_argument("--kills", type=command.whole(1, 1000), default=20)
    parser.add_argument("--devices", type=command.whole(1, 64), default=1)
    parser.add_argument("--updates", type=command.whole(20, 10**6), default=1000)
    parser.add_argument("--seed", type=command.whole(0, 10**6), default=0)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), **vars(options))
    print(found)
    files.append([found], kept("pod_kills"))


if __name__ == "__main__":
    main()
