"""The training loop: one workload, one method, one S, several seeds at once.

In: a `Workload` and a `Config`. Out: a `Record` per seed. The state is one pytree, the
data come by position from `data.index_stream`, and evaluations leave a `lax.scan`, so
one compiled segment serves a run from its start to its end.

`python -m benchmarks.train TABLE METHOD S` trains one row of a table, for as many
examples as the base run sees, and writes its records to a file or to stdout.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.console import Console

import optax_lena
from benchmarks import records
from benchmarks.ablations import EVERY
from benchmarks.plan import Config, Plan, make_plan
from benchmarks.progress import progress_bars, run_with_bar
from benchmarks.records import Record, environment
from benchmarks.tables import TABLES, loader
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
# Training examples whose statistics BatchNorm has in an evaluation.
CALIBRATION = 1024
EVAL_BATCH = 250


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
    method = EVERY[config.method]
    tx = method.make(workload.recipe, config.batch_scale, plan.base_steps)

    def initial(key: jax.Array) -> tuple[Any, Any]:
        model = workload.make_model(nnx.Rngs(key))
        _, params, rest = nnx.split(model, nnx.Param, ...)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(rest)

    abstract = nnx.eval_shape(lambda: workload.make_model(nnx.Rngs(0)))
    graphdef, _, statistics, _ = nnx.split(abstract, nnx.Param, nnx.BatchStat, ...)
    keys = jax.vmap(jax.random.key)(jnp.asarray(config.seeds))
    params, rest = jax.jit(jax.vmap(initial))(keys)
    rest = jax.tree.map(lambda leaf: leaf[0], rest)

    def make_model(params: Any) -> Any:
        # A copy: nnx does not let a trace mutate variables of an outer one.
        model = nnx.merge(graphdef, params, rest, copy=True)
        model.train()
        return model

    def logits(params: Any, x: jax.Array) -> jax.Array:
        return make_model(params)(x)

    def predict(params: Any, x: jax.Array, x_train: jax.Array) -> jax.Array:
        model = make_model(params)
        if statistics:
            model(x_train[:CALIBRATION])
        model.eval()
        # In parts that fit a CPU's cache: twice as fast as all at once.
        return jax.lax.map(lambda each: model(each[None])[0], x, batch_size=EVAL_BATCH)

    update = _make_update(logits, tx, plan.num_microbatches, method.preconditioned)
    metrics = _metrics if plan.num_microbatches else lambda opt_state: {}
    segment = jax.vmap(_make_segment(predict, update, metrics), in_axes=(0, None, 0))
    state = TrainState(params, jax.jit(jax.vmap(tx.init))(params))
    return state, jax.jit(segment, donate_argnums=0)


def _make_update(
    logits: Callable[..., jax.Array],
    tx: Any,
    num_microbatches: int | None,
    preconditioned: bool,
) -> Callable[..., tuple[TrainState, jax.Array]]:
    """Returns one update of the optimizer; it reads moments if there are any."""

    def loss(params: Any, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        x, y = batch
        losses = optax.softmax_cross_entropy_with_integer_labels(logits(params, x), y)
        return losses.mean()

    def gradient(state: TrainState, batch: Any) -> tuple[Any, Any, dict[str, Any]]:
        params = state.params
        if num_microbatches is None:
            return *jax.value_and_grad(loss)(params, batch), {}
        preconditioner = None
        if preconditioned:
            preconditioner = optax_lena.adam_preconditioner(state.opt_state, params)
        gather = optax_lena.value_and_grad(loss, num_microbatches)
        value, grads, moments = gather(params, batch, preconditioner=preconditioner)
        return value, grads, {"moments": moments}

    def update(state: TrainState, batch: Any) -> tuple[TrainState, jax.Array]:
        value, grads, extra = gradient(state, batch)
        updates, opt_state = tx.update(grads, state.opt_state, state.params, **extra)
        return TrainState(optax.apply_updates(state.params, updates), opt_state), value

    return update


def _make_segment(
    predict: Callable[..., jax.Array],
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
            correct = predict(state.params, x_test, x_train).argmax(-1) == y_test
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
    length: int,
    seconds: float,
) -> Record:
    """Returns the record of one seed, up to where its run was over."""
    one = jax.tree.map(lambda x: x[position, :length].tolist(), history)
    return Record(
        workload=workload.name or workload.dataset.name,
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains one row and writes its records."""
    options = _parser().parse_args(arguments)
    config = Config(
        options.method, options.scale, tuple(options.seeds), rate=options.rate
    )
    try:
        _check_rate(config)
        load = loader(options.table, options.data)
        workload = load(validation=True) if options.validation else load()
        make_plan(workload, config, target=None)  # whether S divides
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    # Bars go to stderr, so that stdout holds records and nothing else.
    with progress_bars(Console(stderr=True)) as progress:
        runs = run_with_bar(progress, config, lambda tell: run(workload, config, tell))
    if options.out is None:
        sys.stdout.writelines(f"{line}\n" for line in records.lines(runs))
    else:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        records.write(runs, options.out, append=True)


def _check_rate(config: Config) -> None:
    """A method that is tuned anew has no rate of its own."""
    method = EVERY[config.method]
    rates = method.rates or (method.tuned_as and EVERY[method.tuned_as].rates)
    if rates and config.rate is None:
        raise ValueError(
            f"{config.method!r} does not train at the recipe's rate: `--rate` must "
            f"be given, got none. Its grid is {', '.join(map(str, rates))}; "
            "`python -m benchmarks.suite` tunes it."
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "table", choices=TABLES, metavar="TABLE", help=", ".join(TABLES)
    )
    parser.add_argument(
        "method",
        choices=EVERY,
        metavar="METHOD",
        help="one of methods.py, adam_methods.py or ablations.py",
    )
    parser.add_argument("scale", type=int, metavar="S", help="batch over base batch")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--rate", type=float, help="default: the recipe's")
    parser.add_argument("--data", type=Path, help="folder of IDX or CIFAR files")
    parser.add_argument("--out", type=Path, help="file to append to; default: stdout")
    parser.add_argument(
        "--validation", action="store_true", help="measure on validation data"
    )
    return parser


if __name__ == "__main__":
    main()
