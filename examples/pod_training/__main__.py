"""Starts the program: the same command on a laptop, with Slurm, and on a pod.

python -m examples.pod_training --out runs/first
"""

import sys
from collections.abc import Callable, Sequence

import jax
from absl import logging

from examples.pod_training import processes
from examples.pod_training.config import Config, parse
from examples.pod_training.errors import REFUSED, JobError, one_line
from examples.pod_training.loop import Job
from examples.pod_training.task import Task, make_task


def main(
    arguments: Sequence[str] | None = None,
    make_task: Callable[[Config], Task] = make_task,
) -> int:
    """Trains as the command line says; returns the exit code (see `errors`)."""
    logging.set_verbosity(logging.FATAL)  # orbax logs a traceback of what it raises
    try:
        config = parse(arguments)
        config.out.mkdir(parents=True, exist_ok=True)
        processes.join(config.processes)
        return Job(config, make_task(config)).train()
    except JobError as error:
        print(f"pod_training: {error}", file=sys.stderr)
    except OSError as error:
        print(f"pod_training: {error}: nothing was lost.", file=sys.stderr)
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        processes.end_after_loss(error)
    except ValueError as error:  # of optax_lena's checks, and JAX's
        print(f"pod_training: {one_line(error)}", file=sys.stderr)
    return REFUSED


if __name__ == "__main__":
    sys.exit(main())
