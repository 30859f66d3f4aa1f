"""A run whose batch may grow: the record, and the loop on the host that fills it.

In: a workload, a way to choose S, seeds. Out: a `Run` per seed. Every S is compiled
once and kept for all seeds and ways that train with the same optimizer.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import optax_lena
from benchmarks.methods.registry import METHODS
from benchmarks.ramp.ways import OURS, Way
from benchmarks.records.environment import environment
from benchmarks.tasks.recipe import Workload
from benchmarks.tasks.stream import index_stream
from benchmarks.training.network import initialise
from benchmarks.training.segment import TrainState, make_update

# Base batches between two looks at the metrics; S divides it.
EVERY = 128
SEEN = ("model/noise_scale", "model/base_steps", "model/warming_up")


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of one seed.

    Attributes:
      workload: its title.
      way: a key of `ways.WAYS`.
      seed: of the initial parameters and the order of the data.
      split: what the accuracy was measured on.
      recipe: the fields of `Recipe`.
      base_steps: length of the run in base batches.
      changes: `[base step, S]` pairs, the first at 0.
      evaluated_at: base batches at each evaluation.
      updates: made by then.
      accuracy: then, in [0, 1].
      train_loss: mean since the evaluation before.
      noise_scale: of the model then, in base batches.
      seconds: wall time without compilation.
      environment: versions, device and commit.
    """

    workload: str
    way: str
    seed: int
    split: str
    recipe: dict[str, Any]
    base_steps: int
    changes: list[Any]
    evaluated_at: list[int]
    updates: list[int]
    accuracy: list[float]
    train_loss: list[float]
    noise_scale: list[float]
    seconds: float
    environment: dict[str, str]

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What there is one run of: workload, split, way and seed."""
        return self.workload, self.split, self.way, self.seed


class Trainer:
    """One workload; keeps what is compiled.

    Args:
      workload: data, model and recipe.
      seen: the metrics to look at, or the starts of their names.
    """

    def __init__(self, workload: Workload, seen: tuple[str, ...] = SEEN):
        dataset = workload.dataset
        self.workload, self.seen = workload, seen
        self.network, _ = initialise(workload.make_model, (0,))
        self.train = jax.tree.map(jnp.asarray, (dataset.x_train, dataset.y_train))
        self.test = jax.tree.map(jnp.asarray, (dataset.x_test, dataset.y_test))
        self.evaluate = jax.jit(self._accuracy)
        self.compiled: dict[tuple[Any, int], Callable[..., Any]] = {}

    def _accuracy(self, params: Any, test: Any, x_train: jax.Array) -> jax.Array:
        x, y = test
        return (self.network.predict(params, x, x_train).argmax(-1) == y).mean()

    def optimizer(self, way: Way, scale: int) -> Any:
        """At this S."""
        return way.make(self.workload.recipe, scale, self.workload.base_steps)

    def stretch(self, way: Way, scale: int, state: TrainState) -> Callable[..., Any]:
        """Some updates at this S, compiled; and what they show of themselves."""
        key = (way.optimizer, scale)
        if key not in self.compiled:
            ours = METHODS[OURS[self.workload.recipe.optimizer]]
            preconditioned = way.optimizer is None and ours.preconditioned
            tx = self.optimizer(way, scale)
            update = make_update(self.network.logits, tx, scale, preconditioned)

            def many(state: TrainState, train: Any, indices: jax.Array) -> Any:
                def step(state: TrainState, batch: jax.Array) -> Any:
                    return update(state, (train[0][batch], train[1][batch]))

                state, losses = jax.lax.scan(step, state, indices)
                metrics = optax_lena.metrics(state.opt_state)
                seen = {k: v for k, v in metrics.items() if k.startswith(self.seen)}
                return state, losses.mean(), seen

            size = scale * self.workload.recipe.base_batch
            indices = jax.ShapeDtypeStruct((EVERY // scale, size), jnp.int32)
            lowered = jax.jit(many).lower(state, self.train, indices)
            self.compiled[key] = lowered.compile()
        return self.compiled[key]

    def start(self, way: Way, scale: int, seed: int) -> TrainState:
        """The state before the first update: the same parameters for every way."""
        _, params = initialise(self.workload.make_model, (seed,))
        params = jax.tree.map(lambda leaf: leaf[0], params)
        return TrainState(params, jax.jit(self.optimizer(way, scale).init)(params))

    def batches(self, seed: int) -> Iterator[np.ndarray]:
        """Positions of the examples between two looks, the same for every way."""
        count = len(self.workload.dataset.y_train)
        size = EVERY * self.workload.recipe.base_batch
        for number in range(self.workload.base_steps // EVERY):
            bounds = number * size, (number + 1) * size
            yield index_stream(count, seed, *bounds)

    def run(self, name: str, way: Way, seed: int) -> Run:
        """Trains for the base run's examples.

        Args:
          name: of the way.
          way: which says S.
          seed: of the run.
        """
        workload, updates, seconds = self.workload, 0, 0.0
        control = way.control(workload.recipe, workload.base_steps)
        choice = control.init()
        changes = [[0, choice["batch_scale"]]]
        state = self.start(way, changes[0][1], seed)
        curves: dict[str, list[Any]] = {
            field: []
            for field in (
                "evaluated_at",
                "updates",
                "accuracy",
                "train_loss",
                "noise_scale",
            )
        }
        losses: list[float] = []
        for number, batch in enumerate(self.batches(seed), start=1):
            scale = choice["batch_scale"]
            many = self.stretch(way, scale, state)
            start = time.perf_counter()
            state, loss, seen = many(
                state, self.train, batch.reshape(EVERY // scale, -1)
            )
            seen = jax.device_get(seen)
            seconds += time.perf_counter() - start
            updates += EVERY // scale
            losses.append(float(loss))
            if number * EVERY % workload.eval_every == 0:
                accuracy = self.evaluate(state.params, self.test, self.train[0])
                curves["evaluated_at"].append(number * EVERY)
                curves["updates"].append(updates)
                curves["accuracy"].append(float(accuracy))
                curves["train_loss"].append(float(np.mean(losses)))
                curves["noise_scale"].append(float(seen["model/noise_scale"]))
                losses = []
            choice = control.update(choice, seen)
            if choice["batch_scale"] != scale:
                changes.append([number * EVERY, choice["batch_scale"]])
        return Run(
            workload=workload.title,
            way=name,
            seed=seed,
            split=workload.split,
            recipe=dataclasses.asdict(workload.recipe),
            base_steps=workload.base_steps,
            changes=changes,
            seconds=seconds,
            environment=environment(),
            **curves,
        )
