"""Records the examples to a target at every S, on small tasks.

`python -m benchmarks.curve [TASK ...]` trains the tasks of `benchmarks.unseen` at S = 1
with momentum SGD and at S = 8 to 128 with the first version of amplified LENA, and adds
a line per run to `results/curve.jsonl`: the score and the logged noise scale every 128
base batches. A run ends with the base run's examples, or goes on for 2.5 times as many
until its score is the mean one that the base run ends with minus half a point. What
`advise` makes of the log at S = 8 is compared with these runs in docs/batch_size.md,
which says what of it was chosen on them: the factor of the intervals. Tasks whose data
change in mid-run are left out, as such a run cannot go on.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_lena
from benchmarks import command
from benchmarks.methods.registry import METHODS
from benchmarks.records import files
from benchmarks.records.environment import environment
from benchmarks.records.home import kept
from benchmarks.tasks.recipe import COSINE, Recipe
from benchmarks.tasks.stream import index_stream
from benchmarks.training import options
from benchmarks.training.plan import MAX_BUDGET
from benchmarks.training.segment import TrainState
from benchmarks.unseen.catalogue import TASKS
from benchmarks.unseen.task import Task

# The runs that are kept were made with the first version.
METHOD, SCALES, SEEDS = "amplified_first", (8, 16, 32, 64, 128), (0, 1, 2, 3)
BASE_BATCH, BASE_STEPS, EVERY = 16, 8192, 128
DROP = 0.5


@dataclasses.dataclass(frozen=True)
class Scored:
    """One run of one seed.

    Attributes:
      task: a key of `TASKS`.
      batch_scale: S; 1 is the base run.
      seed: of the initial parameters and the order of the examples.
      target: the score it was trained to; None for the base run.
      base_steps: base batches at each evaluation.
      score: then, on the test set, in percent; not a number where training failed.
      noise_scale: of the model then, in base batches; None where there was no signal.
      environment: versions, device and commit.
    """

    task: str
    batch_scale: int
    seed: int
    target: float | None
    base_steps: list[int]
    score: list[float]
    noise_scale: list[float | None]
    environment: dict[str, str]

    def __post_init__(self) -> None:
        # A line of JSON has null where a number was not finite.
        known = [math.nan if value is None else value for value in self.score]
        object.__setattr__(self, "score", known)

    @property
    def key(self) -> tuple[str, int, int]:
        """What there is one run of."""
        return self.task, self.batch_scale, self.seed

    def steps_to(self, target: float) -> int | None:
        """Base batches to the target; None for a run that never gets there."""
        pairs = zip(self.base_steps, self.score, strict=True)
        return next((steps for steps, score in pairs if score >= target), None)


class Trainer:
    """One task at one S, compiled once for all seeds."""

    def __init__(self, task: Task, batch_scale: int):
        recipe = Recipe(BASE_BATCH, task.rate, COSINE, epochs=1.0)
        name = "base" if batch_scale == 1 else METHOD
        self.task, self.scale = task, batch_scale
        self.tx = METHODS[name].make(recipe, batch_scale, BASE_STEPS)
        self.train, self.test = jax.tree.map(jnp.asarray, (task.train, task.test))
        self.stretch = jax.jit(self._stretch)

    def run(self, name: str, seed: int, target: float | None) -> Scored:
        """Trains one seed until the target, and at least for the base run's examples.

        Args:
          name: of the task.
          seed: of the run.
          target: None: for no longer than that.
        """
        params = self.task.init(jax.random.key(seed))
        state = TrainState(params, self.tx.init(params))
        most = BASE_STEPS if target is None else int(MAX_BUDGET * BASE_STEPS)
        steps: list[int] = []
        scores: list[float] = []
        scales: list[float | None] = []
        for end in range(EVERY, most + 1, EVERY):
            state, score, noise_scale = self.stretch(state, self._rows(seed, end))
            steps.append(end)
            scores.append(round(float(score), 3))
            is_finite = np.isfinite(noise_scale)
            scales.append(float(noise_scale) if is_finite else None)
            is_reached = target is not None and max(scores) >= target
            if math.isnan(scores[-1]) or (end >= BASE_STEPS and is_reached):
                break
        row = (name, self.scale, seed, target, steps, scores, scales)
        return Scored(*row, environment())

    def _rows(self, seed: int, end: int) -> np.ndarray:
        """Positions of the examples of the updates before this base step."""
        bounds = (end - EVERY) * BASE_BATCH, end * BASE_BATCH
        rows = index_stream(len(self.task.train[0]), seed, *bounds)
        return rows.reshape(EVERY // self.scale, self.scale * BASE_BATCH)

    def _stretch(self, state: TrainState, rows: jax.Array) -> Any:
        def step(state: TrainState, own: jax.Array) -> tuple[TrainState, None]:
            batch = jax.tree.map(lambda x: x[own], self.train)
            grads, extra = self._gradient(state.params, batch)
            updates, opt_state = self.tx.update(
                grads, state.opt_state, state.params, **extra
            )
            params = optax.apply_updates(state.params, updates)
            return TrainState(params, opt_state), None

        state, _ = jax.lax.scan(step, state, rows)
        return state, self.task.score(state.params, self.test), self._noise(state)

    def _gradient(self, params: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
        if self.scale == 1:
            return jax.grad(self.task.loss)(params, batch), {}
        gather = optax_lena.value_and_grad(self.task.loss, self.scale)
        _, grads, moments = gather(params, batch)
        return grads, {"moments": moments}

    def _noise(self, state: TrainState) -> jax.Array:
        if self.scale == 1:
            return jnp.nan * jnp.ones(())
        return optax_lena.metrics(state.opt_state)["model/noise_scale"]


def target_of(runs: Sequence[Scored]) -> float:
    """The mean score that base runs end with, minus half a point.

    A base run that failed, on a recipe at the brink, is left out.
    """
    return float(np.nanmean([run.score[-1] for run in runs])) - DROP


@command.program
def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what has no record yet: the base runs, which set the target, first."""
    chosen = _parser().parse_args(arguments)
    command.all_different("TASK", chosen.tasks)
    path = chosen.out or kept("curve")
    for name in chosen.tasks or TASKS:
        task, target = TASKS[name](), None
        if task.stages:
            continue
        for scale in (1, *SCALES):
            trainer = Trainer(task, scale)
            for seed in chosen.seeds:
                if (name, scale, seed) not in {x.key for x in _recorded(path, name)}:
                    run = trainer.run(name, seed, target)
                    files.append([run], path)
                    print(name, scale, seed, run.base_steps[-1], max(run.score))
            if scale == 1:
                base = [x for x in _recorded(path, name) if x.batch_scale == 1]
                target = target_of(base)


def _recorded(path: Any, name: str) -> list[Scored]:
    return [run for run in files.read_if_there(path, Scored) if run.task == name]


def _parser() -> command.Parser:
    parser = command.Parser(__doc__)
    parser.add_argument(
        "tasks",
        nargs="*",
        type=command.one_of(TASKS),
        metavar="TASK",
        help=f"default: all of {', '.join(TASKS)}",
    )
    parser.add_argument(
        "--seeds", nargs="+", type=options.seed, default=list(SEEDS), metavar="SEED"
    )
    parser.add_argument("--out", type=command.new_file, help="the file of records")
    return parser


if __name__ == "__main__":
    main()
