"""Checkpoints: a run's state and what it was, saved while the training goes on."""

import json
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from examples.pod_training.errors import JobError, one_line
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
        with self._saying("save"):
            if updates not in self.manager.all_steps():
                self.manager.save(updates, args=items, force=True)

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """Returns the latest state as `like` lies on the devices, and its run."""
        latest = self.manager.latest_step()
        if latest is None:
            return None
        only_run = ocp.args.Composite(run=ocp.args.JsonRestore())
        both = ocp.args.Composite(
            state=ocp.args.StandardRestore(like), run=ocp.args.JsonRestore()
        )
        try:
            run = self.manager.restore(latest, args=only_run)["run"]
            self._check_shapes(run["shapes"], _shapes(like), latest)
            return self.manager.restore(latest, args=both)["state"], run
        except JobError:
            raise
        except Exception as error:  # orbax, tensorstore and json have many kinds
            earlier = [step for step in self.manager.all_steps() if step < latest]
            goes_on = f"update {max(earlier)}" if earlier else "the start"
            raise JobError(
                f"the checkpoint {self.folder / str(latest)} is damaged "
                f"({one_line(error)}): move it away to go on from {goes_on}."
            ) from error

    def wait(self) -> None:
        """Returns when all that was saved is on the disk."""
        with self._saying("save"):
            self.manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and lets go of the folder."""
        self.wait()
        self.manager.close()

    def _check_shapes(self, saved: Any, own: Any, latest: int) -> None:
        for name in [*saved, *own]:
            if saved.get(name) != own.get(name):
                raise JobError(
                    f"the checkpoint {self.folder / str(latest)} must be of this "
                    f"model and optimizer, got one where {name} is "
                    f"{saved.get(name, 'not there')} and here "
                    f"{own.get(name, 'not there')}: use its options, or another --out."
                )

    def _saying(self, verb: str) -> "_Saying":
        return _Saying(verb, self.folder)


class _Saying:
    """Makes one line of whatever fails inside."""

    def __init__(self, verb: str, folder: Path):
        self.verb, self.folder = verb, folder

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception):
            raise JobError(
                f"could not {self.verb} in {self.folder} ({one_line(error)}): make "
                "room or choose another --out; the checkpoints before stay whole."
            ) from error


def _shapes(state: TrainState) -> dict[str, str]:
    """Returns shape and dtype of every leaf by its name."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    named = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    described = {name: f"{x.dtype}{list(x.shape)}" for name, x in named.items()}
    return json.loads(json.dumps(described))
