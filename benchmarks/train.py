"""The training loop: one workload, one method, one S, several seeds at once.

In: a `Workload` and a `Config`. Out: a `Record` per seed. The state is one pytree, the
data come by position from `data.index_stream`, and evaluations leave a `lax.scan`, so
one compiled segment serves a run from its start to its end.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import optax_lena
from benchmarks.methods import METHODS
from benchmarks.plan import Config, Plan, make_plan
from benchmarks.records import Record, environment
from benchmarks.workloads import Workload

# What a record keeps of `optax_lena.metrics`.
KEPT = (
    "model/gain",
    "model/base_steps",
    "model/gain_steps",
    "trust_ratio/",
    "warmup_factor/",
    "warmup_end/",
)
CLOCK = "model/gain_steps"


class TrainState(NamedTuple):
    """Everything that an update changes.

    Attributes:
      params: of the model.
      opt_state: of the optimizer.
    """

    params: Any
    opt_state: Any


class Evaluation(NamedTuple):
    """What is looked at every few updates; scans stack them.

    Attributes:
      train_loss: mean over the updates since the last evaluation.
      test_accuracy: on the whole test set.
      layers: `optax_lena.metrics`, of methods that read moments; else nothing.
    """

    train_loss: Any
    test_accuracy: Any
    layers: dict[str, Any]


def run(
    workload: Workload,
    config: Config,
    on_progress: Callable[[float], None] = lambda share: None,
) -> list[Record]:
    """Trains and evaluates.

    Args:
      workload: data, model and recipe.
      config: method, S and seeds.
      on_progress: is called with the share of the base run's examples seen so far.

    Returns:
      One record per seed. `seconds` is the wall time, evaluations included and
      compilation not, over the number of seeds, which train side by side.
    """
    plan = make_plan(workload, config)
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
        if plan.own_clock and np.all(parts[-1].layers[CLOCK][:, -1] >= plan.base_steps):
            break
    seconds = (time.perf_counter() - start) / len(config.seeds)
    history = jax.tree.map(lambda *x: np.concatenate(x, axis=1), *parts)
    return [
        _record(workload, config, plan, position, history, seconds)
        for position in range(len(config.seeds))
    ]


def _build(
    workload: Workload, config: Config, plan: Plan
) -> tuple[TrainState, jax.stages.Wrapped]:
    """Returns the initial state of all seeds, and the jitted segment over them."""
    make = METHODS[config.method].make
    tx = make(workload.recipe, config.batch_scale, plan.base_steps)
    models = [workload.make_model(nnx.Rngs(seed)) for seed in config.seeds]
    graphdef = nnx.split(models[0], nnx.Param)[0]
    each = [nnx.to_pure_dict(nnx.split(model, nnx.Param)[1]) for model in models]
    params = jax.tree.map(lambda *x: jnp.stack(x), *each)

    def logits(params: Any, x: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, params)(x)

    update = _make_update(logits, tx, plan.num_microbatches)
    metrics = _metrics if plan.num_microbatches else lambda opt_state: {}
    segment = jax.vmap(_make_segment(logits, update, metrics), in_axes=(0, None, 0))
    state = TrainState(params, jax.vmap(tx.init)(params))
    return state, jax.jit(segment, donate_argnums=0)


def _make_update(
    logits: Callable[..., jax.Array], tx: Any, num_microbatches: int | None
) -> Callable[..., tuple[TrainState, jax.Array]]:
    """Returns one update of the optimizer; it reads moments if there are any."""

    def loss(params: Any, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        x, y = batch
        losses = optax.softmax_cross_entropy_with_integer_labels(logits(params, x), y)
        return losses.mean()

    def gradient(params: Any, batch: Any) -> tuple[Any, Any, dict[str, Any]]:
        if num_microbatches is None:
            return *jax.value_and_grad(loss)(params, batch), {}
        gather = optax_lena.value_and_grad(loss, num_microbatches)
        value, grads, moments = gather(params, batch)
        return value, grads, {"moments": moments}

    def update(state: TrainState, batch: Any) -> tuple[TrainState, jax.Array]:
        value, grads, extra = gradient(state.params, batch)
        updates, opt_state = tx.update(grads, state.opt_state, state.params, **extra)
        return TrainState(optax.apply_updates(state.params, updates), opt_state), value

    return update


def _make_segment(
    logits: Callable[..., jax.Array],
    update: Callable[..., tuple[TrainState, jax.Array]],
    metrics: Callable[[Any], dict[str, jax.Array]],
) -> Callable[..., tuple[TrainState, Evaluation]]:
    """Returns a function that trains over `indices` `[evals, updates, batch]`."""

    def segment(
        state: TrainState, data: tuple[jax.Array, ...], indices: jax.Array
    ) -> tuple[TrainState, Evaluation]:
        x_train, y_train, x_test, y_test = data

        def step(state: TrainState, batch: jax.Array) -> Any:
            return update(state, (x_train[batch], y_train[batch]))

        def evaluate(state: TrainState, batches: jax.Array) -> Any:
            state, losses = jax.lax.scan(step, state, batches)
            correct = logits(state.params, x_test).argmax(-1) == y_test
            layers = metrics(state.opt_state)
            return state, Evaluation(losses.mean(), correct.mean(), layers)

        return jax.lax.scan(evaluate, state, indices)

    return segment


def _metrics(opt_state: Any) -> dict[str, jax.Array]:
    everything = optax_lena.metrics(opt_state)
    return {key: value for key, value in everything.items() if key.startswith(KEPT)}


def _record(
    workload: Workload,
    config: Config,
    plan: Plan,
    position: int,
    history: Evaluation,
    seconds: float,
) -> Record:
    """Returns the record of one seed, up to where its run was over."""
    length = min(plan.max_evals, history.test_accuracy.shape[1])
    if plan.own_clock:
        over = history.layers[CLOCK][position, :length] >= plan.base_steps
        length = int(np.argmax(over)) + 1 if over.any() else length
    one = jax.tree.map(lambda x: x[position, :length].tolist(), history)
    return Record(
        workload=workload.dataset.name,
        method=config.method,
        batch_scale=config.batch_scale,
        num_microbatches=plan.num_microbatches,
        seed=config.seeds[position],
        recipe=dataclasses.asdict(workload.recipe),
        base_steps=plan.base_steps,
        updates=[plan.eval_updates * (i + 1) for i in range(length)],
        train_loss=one.train_loss,
        test_accuracy=one.test_accuracy,
        layers=one.layers,
        seconds=seconds,
        environment=environment(),
    )
