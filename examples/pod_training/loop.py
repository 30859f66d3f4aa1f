"""The loop: restores, trains, saves, and stops when it is told to."""

import time
from collections.abc import Iterator
from typing import Any

import jax
import tqdm

import optax_lena
from examples.pod_training import data, figures, run
from examples.pod_training import mesh as meshes
from examples.pod_training.checkpoint import Checkpoints
from examples.pod_training.config import Config
from examples.pod_training.errors import DONE, TRY_AGAIN, JobError
from examples.pod_training.log import Log
from examples.pod_training.processes import Stop
from examples.pod_training.step import TrainState, make_program
from examples.pod_training.task import Task


class Job:
    """One process's part of a training.

    Attributes:
      examples: seen so far, the position in the input.
      updates: made so far.
    """

    def __init__(self, config: Config, task: Task):
        """Builds all that is needed; nothing is restored yet, and nothing trained."""
        self.config, self.task = config, task
        self.mesh = meshes.make_mesh(config.mesh)
        self._check_batch()
        self.program = make_program(config, task, self.mesh)
        self.run = run.describe(config, task.digest)
        optax_lena.assert_same_on_processes(**self.program.settings, run=self.run)
        self.checkpoints = Checkpoints(config.out / "checkpoints", config.keep)
        self.state, self.updates, self.examples = self._start()
        self.log = Log(config.out, self.updates, jax.process_index() == 0)

    def train(self) -> int:
        """Trains to the end, or until it is told to stop; returns the exit code."""
        stop = Stop()
        try:
            is_done = self._train_until(stop)
            self._save()
            self.checkpoints.close()
        finally:
            stop.close()
            self.log.close()
        self._say(f"{'done' if is_done else 'stopped'} after update {self.updates}")
        if is_done and jax.process_index() == 0:
            for path in figures.draw(self.config.out):
                self._say(f"wrote {path}")
        return DONE if is_done else TRY_AGAIN

    def _train_until(self, stop: Stop) -> bool:
        """Makes updates; returns whether all of them were made."""
        config, total = self.config, self.config.examples
        batches, since = self._batches(self.task.train, self.examples), time.time()
        bar = tqdm.tqdm(
            total=total,
            initial=self.examples,
            unit=" examples",
            disable=True if jax.process_index() else None,  # None: not in a log file
        )
        with bar:
            while self.examples + config.batch <= total:
                if stop(self.updates):
                    return False
                self.state, numbers = self.program.step(self.state, next(batches))
                self.updates += 1
                self.examples += config.batch
                bar.update(config.batch)
                if self.updates % config.log_every == 0:
                    self._log(numbers, time.time() - since)
                    since = time.time()
                if self.updates % config.eval_every == 0:
                    self._evaluate()
                if self.updates % config.save_every == 0:
                    self._save()
        return True

    def _log(self, numbers: dict[str, jax.Array], seconds: float) -> None:
        row = {name: float(value) for name, value in jax.device_get(numbers).items()}
        speed = self.config.batch * self.config.log_every / seconds
        self.log.write(self._place() | row, {"examples_per_second": speed})

    def _evaluate(self) -> None:
        batches = self._batches(self.task.test, 0)
        number = self.config.eval_batches
        losses = [
            self.program.evaluate(self.state.params, next(batches))
            for _ in range(number)
        ]
        self.log.write(self._place() | {"test_loss": float(sum(losses)) / number})

    def _save(self) -> None:
        run = self.run | {"examples": self.examples}
        self.checkpoints.save(self.state, run, self.updates)

    def _place(self) -> dict[str, int]:
        base_steps = self.examples // self.config.recipe.base_batch
        return {"updates": self.updates, "base_steps": base_steps}

    def _batches(self, source: Any, seen: int) -> Iterator[Any]:
        """Yields global arrays; each process reads its part, ahead, in threads."""
        where = meshes.over_batch(self.mesh)
        part = data.Part(self.config.batch, jax.process_index(), jax.process_count())
        for local in data.batches(source, self.config.seed, part, seen):
            yield {
                name: jax.make_array_from_process_local_data(where, array)
                for name, array in local.items()
            }

    def _start(self) -> tuple[TrainState, int, int]:
        """Returns state, updates and examples: of the latest checkpoint, if any."""
        saved = self.checkpoints.latest_run()
        if saved is None:
            self._say(
                f"starts on {jax.device_count()} devices: {dict(self.mesh.shape)}"
            )
            return self.program.init(self.config.seed), 0, 0
        changed = ", ".join(run.changes(saved, self.run)) or "nothing"
        state = self.checkpoints.restore(self.program.abstract)
        self._say(f"goes on after update {state.updates}; changed: {changed}")
        return state, int(state.updates), saved["examples"]

    def _check_batch(self) -> None:
        devices, batch = meshes.batch_devices(self.mesh), self.config.batch
        n = self.config.num_microbatches(devices)
        if batch % n or n % devices:
            raise JobError(
                f"--microbatches must divide the batch, {batch}, and be a multiple of "
                f"the {devices} devices that share it, got {n}: choose --batch so."
            )

    def _say(self, text: str) -> None:
        if jax.process_index() == 0:
            print(text, flush=True)
