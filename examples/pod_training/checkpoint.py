"""Checkpoints: a run's state and what it was, saved while the training goes on."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from examples.pod_training.errors import JobError, one_line
from examples.pod_training.processes import is_loss
from examples.pod_training.step import TrainState


class Checkpoints:
    """A folder of the latest few, each whole or not there."""

    def __init__(self, folder: Path, keep: int):
        """Opens the folder, which is made if it is not there."""
        self.folder = folder
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, cleanup_tmp_directories=True
        )
        self.manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def save(self, state: TrainState, run: dict[str, Any], updates: int) -> None:
        """Copies the state, and writes it in the background."""
        run = run | {"shapes": _shapes(state)}
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), run=ocp.args.JsonSave(run)
        )
        with self._saving():
            if updates not in self.manager.all_steps():
                self.manager.save(updates, args=items, force=True)

    def latest_run(self) -> dict[str, Any] | None:
        """Returns what the latest checkpoint says of its run; None if there is none."""
        if self.manager.latest_step() is None:
            return None
        return self._read(ocp.args.Composite(run=ocp.args.JsonRestore()))["run"]

    def restore(self, like: TrainState) -> TrainState:
        """Returns the latest state, as `like` lies on the devices."""
        run = ocp.args.Composite(run=ocp.args.JsonRestore())
        self._check_shapes(self._read(run)["run"]["shapes"], _shapes(like))
        state = ocp.args.Composite(state=ocp.args.StandardRestore(like))
        return self._read(state)["state"]

    def _read(self, items: ocp.args.Composite) -> Any:
        latest = self.manager.latest_step()
        try:
            return self.manager.restore(latest, args=items)
        except Exception as error:  # orbax, tensorstore and json have many kinds
            earlier = [step for step in self.manager.all_steps() if step < latest]
            goes_on = f"update {max(earlier)}" if earlier else "the start"
            raise JobError(
                f"the checkpoint {self.folder / str(latest)} is damaged "
                f"({one_line(error)}): move it away to go on from {goes_on}."
            ) from error

    def wait(self) -> None:
        """Returns when all that was saved is on the disk."""
        with self._saving():
            self.manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and lets go of the folder."""
        self.wait()
        self.manager.close()

    def _check_shapes(self, saved: Any, own: Any) -> None:
        for name in [*saved, *own]:
            if saved.get(name) != own.get(name):
                raise JobError(
                    f"the checkpoints in {self.folder} must be of this model and "
                    f"optimizer, got some where {name} is "
                    f"{saved.get(name, 'not there')} and here "
                    f"{own.get(name, 'not there')}: use another --out."
                )

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        """Makes one line of whatever fails inside."""
        try:
            yield
        except Exception as error:
            if is_loss(error):
                raise
            raise JobError(
                f"could not save in {self.folder} ({one_line(error)}): make room or "
                "choose another --out; the checkpoints before stay whole."
            ) from error


def _shapes(state: TrainState) -> dict[str, str]:
    """Returns shape and dtype of every leaf by its name."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    named = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    described = {name: f"{x.dtype}{list(x.shape)}" for name, x in named.items()}
    return json.loads(json.dumps(described))
