"""Starts the program: the same command on a laptop, with Slurm, and on a pod.

python -m examples.pod_training --out runs/first
"""

import logging
import sys
import warnings
from collections.abc import Callable, Sequence

from absl import logging as absl_logging

from examples.pod_training import processes
from examples.pod_training.config import Config, parse
from examples.pod_training.errors import REFUSED, JobError, one_line
from examples.pod_training.loop import Job
from examples.pod_training.task import Task, make_task

# Our own, files that cannot be read or written, and what optax_lena and JAX refuse.
REFUSALS = (JobError, OSError, ValueError)


def main(
    arguments: Sequence[str] | None = None,
    make_task: Callable[[Config], Task] = make_task,
) -> int:
    """Trains as the command line says; returns the exit code (see `errors`)."""
    try:
        config = parse(arguments)
        config.out.mkdir(parents=True, exist_ok=True)
        processes.join(config.processes)
        return Job(config, make_task(config)).train()
    except Exception as error:
        if processes.is_loss(error):
            processes.end_after_loss(error)
        if not isinstance(error, REFUSALS):
            raise
        told = str(error) if isinstance(error, JobError) else one_line(error)
        print(f"pod_training: {told}", file=sys.stderr)
    return REFUSED


def be_quiet() -> None:
    """Leaves what goes wrong to the one line that `main` prints.

    orbax logs a traceback of what it raises, and where a checkpoint cannot be read or
    written, every array that was under way prints one, from a thread of tensorstore's
    or from asyncio at exit, which also warns of those that had not begun.
    """
    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine", RuntimeWarning)
    sys.unraisablehook = lambda told: None


if __name__ == "__main__":
    be_quiet()
    sys.exit(main())
