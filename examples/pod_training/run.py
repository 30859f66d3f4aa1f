"""A run: what it is, and what of it may change when it goes on."""

from typing import Any

import jax

from examples.pod_training.config import Config, flat
from examples.pod_training.errors import JobError

# Others would make the averages, the order of the data or the parameters another run's.
FIXED = ("recipe.base_batch", "recipe.optimizer", "seed", "model", "data")
# Where the job runs and how it is watched is not part of it.
IGNORED = ("out", "processes", "log_every", "eval_every", "eval_batches", "keep")


def describe(config: Config, digest: str) -> dict[str, Any]:
    """Returns what a checkpoint says of the run that made it."""
    options = {name: value for name, value in flat(config).items()}
    options["data"] = digest  # the folder may have moved
    return {
        **{k: v for k, v in options.items() if k.split(".")[0] not in IGNORED},
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "jax": jax.__version__,
    }


def changes(saved: dict[str, Any], own: dict[str, Any]) -> list[str]:
    """Returns what differs, one text each; raises `JobError` if it may not."""
    found = []
    for name in own:
        before, now = saved.get(name), own[name]
        if before == now:
            continue
        if name.startswith(FIXED):
            raise JobError(
                f"{name} must stay {before!r}, as in the checkpoint, got {now!r}: use "
                "another --out for another run."
            )
        found.append(f"{name} {before} -> {now}")
    return found
