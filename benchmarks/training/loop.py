"""The training loop: one workload, one method, one S, several seeds at once.

In: a `Workload` and a `Config`. Out: a `Record` per seed. The state is one pytree, the
data come by position from `stream.index_stream`, and evaluations leave a `lax.scan`,
so one compiled segment serves a run from its start to its end.
"""

import dataclasses
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.methods.registry import METHODS
from benchmarks.records.environment import environment
from benchmarks.records.record import Record
from benchmarks.tasks.recipe import Workload
from benchmarks.training.network import initialise
from benchmarks.training.plan import Config, Plan, make_plan
from benchmarks.training.segment import (
    Evaluation,
    TrainState,
    make_segment,
    make_update,
    recorded_metrics,
)

CLOCK = "model/gain_steps"


def run(
    workload: Workload,
    config: Config,
    on_progress: Callable[[float], None] = lambda share: None,
    target: float | None = None,
) -> list[Record]:
    """Trains and evaluates.

    Args:
      workload: data, model and recipe.
      config: method, S, seeds and rate.
      on_progress: is called with the share of the base run's examples seen so far.
      target: an accuracy; a run that has not reached it when it has seen the base
        run's examples goes on until it does, for at most `MAX_BUDGET` times as many.

    Returns:
      One record per seed. `seconds` is the wall time, evaluations included and
      compilation not, over the number of seeds that train side by side.
    """
    if not workload.side_by_side and len(config.seeds) > 1:
        return _one_by_one(workload, config, on_progress, target)
    workload = workload.at_rate(config.rate)
    plan = make_plan(workload, config, target)
    dataset = workload.dataset
    data = (dataset.x_train, dataset.y_train, dataset.x_test, dataset.y_test)
    data = jax.tree.map(jnp.asarray, data)
    state, segment = _build(workload, config, plan)
    compiled = segment.lower(state, data, plan.indices(0)).compile()
    on_progress(0.0)

    parts: list[Evaluation] = []
    start = time.perf_counter()
    for number in range(plan.max_segments):
        state, evaluations = compiled(state, data, plan.indices(number))
        parts.append(jax.device_get(evaluations))
        on_progress((number + 1) * plan.segment_evals / plan.num_evals)
        history = jax.tree.map(lambda *x: np.concatenate(x, axis=1), *parts)
        lengths = [each for each in _lengths(plan, history) if each is not None]
        if len(lengths) == len(config.seeds):
            break
    seconds = (time.perf_counter() - start) / len(config.seeds)
    return [
        _record(workload, config, plan, position, history, length, seconds)
        for position, length in enumerate(lengths)
    ]


def _one_by_one(
    workload: Workload,
    config: Config,
    on_progress: Callable[[float], None],
    target: float | None,
) -> list[Record]:
    """As `run`, with one seed after the other; progress is the mean over them."""
    result: list[Record] = []
    for position, seed in enumerate(config.seeds):

        def on_own(share: float, position: int = position) -> None:
            on_progress((position + min(share, 1)) / len(config.seeds))

        own = dataclasses.replace(config, seeds=(seed,))
        result += run(workload, own, on_own, target)
    return result


def _lengths(plan: Plan, history: Evaluation) -> list[int | None]:
    """After how many evaluations each seed's run is over; None if it goes on."""
    clocks = history.layers.get(CLOCK, history.test_accuracy)
    return [
        plan.length(accuracy, clock)
        for accuracy, clock in zip(history.test_accuracy, clocks, strict=True)
    ]


def _build(
    workload: Workload, config: Config, plan: Plan
) -> tuple[TrainState, jax.stages.Wrapped]:
    """Returns the initial state of all seeds, and the jitted segment over them."""
    method = METHODS[config.method]
    tx = method.make(workload.recipe, config.batch_scale, plan.base_steps)
    network, params = initialise(workload.make_model, config.seeds)
    n = plan.num_microbatches
    update = make_update(network.logits, tx, n, method.preconditioned)
    metrics = recorded_metrics if n else lambda opt_state: {}
    segment = make_segment(network.predict, update, metrics)
    state = TrainState(params, jax.jit(jax.vmap(tx.init))(params))
    over_seeds = jax.vmap(segment, in_axes=(0, None, 0))
    return state, jax.jit(over_seeds, donate_argnums=0)


def _record(
    workload: Workload,
    config: Config,
    plan: Plan,
    position: int,
    history: Evaluation,
    length: int,
    seconds: float,
) -> Record:
    """Returns the record of one seed, up to where its run was over."""
    one = jax.tree.map(lambda x: x[position, :length].tolist(), history)
    return Record(
        workload=workload.title,
        method=config.method,
        batch_scale=config.batch_scale,
        num_microbatches=plan.num_microbatches,
        seed=config.seeds[position],
        recipe=dataclasses.asdict(workload.recipe),
        split=workload.split,
        base_steps=plan.base_steps,
        updates=[plan.eval_updates * (i + 1) for i in range(length)],
        train_loss=one.train_loss,
        test_accuracy=one.test_accuracy,
        layers=one.layers,
        seconds=seconds,
        environment=environment(),
    )
