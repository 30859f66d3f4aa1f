"""A tiny run of `examples/pod_training`, in this process, and what is left of it."""

import os
import pathlib
import shutil
import subprocess
import sys

from examples.pod_training import log
from examples.pod_training.__main__ import main

ROOT = pathlib.Path(__file__).parents[2]
TINY = (
    "--batch 32 --recipe.base-batch 4 --recipe.base-steps 64 --model.blocks 2 "
    "--model.features 16 --model.heads 2 --model.context 8 --save-every 2 --keep 2 "
    "--log-every 2 --eval-every 4 --eval-batches 1 --processes.join never"
).split()


def run(out, *options):
    """Returns the exit code; later options win."""
    return main([*TINY, "--out", str(out), *map(str, options)])


def start(out, *options):
    """Starts it as a user does, as a program; what it compiles stays for the next."""
    arguments = ["-m", "examples.pod_training", *TINY, "--out", out, *options]
    return _python(arguments, {"JAX_COMPILATION_CACHE_DIR": str(out.parent / "code")})


def run_code(code):
    """Starts a program of one line."""
    return _python(["-c", code], {})


def _python(arguments, variables):
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment |= {"PYTHONPATH": str(ROOT), **variables}
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def steps(out):
    """The updates whose checkpoints are there."""
    folder = out / "checkpoints"
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def metrics(out):
    return log.read(out / "metrics.jsonl")


def back_to(out, step, other):
    """Copies a run to where it was when that checkpoint was its latest."""
    shutil.copytree(out, other)
    for later in steps(other):
        if later > step:
            shutil.rmtree(other / "checkpoints" / str(later))
    return other
