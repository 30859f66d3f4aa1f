"""The job's processes: joining them, being told to stop, losing one."""

import os
import signal
import sys
from typing import Any

import jax
from jax.experimental import multihost_utils

from examples.pod_training.config import Processes
from examples.pod_training.errors import TRY_AGAIN, JobError, one_line

# A process that says nothing for so long is lost; JAX's own is 100.
HEARTBEAT_SECONDS = 20


def join(options: Processes) -> None:
    """Joins the other processes of the job, before anything uses a device."""
    if options.cpu_devices:
        jax.config.update("jax_num_cpu_devices", options.cpu_devices)
    if options.join == "never":
        return
    # Without it CPUs of several processes cannot exchange anything.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    found: dict[str, Any] = {"heartbeat_timeout_seconds": HEARTBEAT_SECONDS}
    if options.coordinator:
        found |= {"coordinator_address": options.coordinator}
        found |= {"num_processes": options.count, "process_id": options.index}
    try:
        jax.distributed.initialize(**found)
    except ValueError as error:
        # JAX finds no cluster: a laptop. It has no other way to ask.
        if options.coordinator:
            raise JobError(f"could not join the job: {one_line(error)}.") from error
        jax.config.update("jax_cpu_collectives_implementation", None)


class Stop:
    """Whether the job was told to stop (SIGTERM), asked between two updates.

    With several processes JAX's own service takes the signal of any of them and finds
    an update that all of them reach.
    """

    def __init__(self) -> None:
        """Listens."""
        self.told = False
        self.is_alone = jax.process_count() == 1
        if self.is_alone:
            self.before = signal.signal(signal.SIGTERM, self._tell)

    def _tell(self, number: int, frame: Any) -> None:
        self.told = True

    def __call__(self, updates: int) -> bool:
        """Whether to stop after so many updates."""
        if self.is_alone:
            return self.told
        return multihost_utils.reached_preemption_sync_point(updates)

    def close(self) -> None:
        """Stops listening."""
        if self.is_alone:
            signal.signal(signal.SIGTERM, self.before)


def is_loss(error: BaseException) -> bool:
    """Whether an error says that another process is gone.

    What waits for the others (a step, a checkpoint) then fails with a status of XLA's,
    in exceptions of several kinds.
    """
    named = str(error).startswith(("UNKNOWN", "UNAVAILABLE", "INTERNAL", "DEADLINE_EX"))
    is_status = named or isinstance(error, jax.errors.JaxRuntimeError)
    return jax.process_count() > 1 and is_status


def end_after_loss(error: BaseException) -> None:
    """Ends this process at once where another one is gone.

    The usual end waits for all processes, one of which will never come.
    """
    print(
        f"process {jax.process_index()}: another process of the job is gone "
        f"({one_line(error)}): start all of them again, they go on from the last "
        "checkpoint.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(TRY_AGAIN)
