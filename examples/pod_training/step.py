"""The compiled step: a state and a batch to the next state and its numbers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import optax_lena
from examples.pod_training import mesh as meshes
from examples.pod_training.config import Config
from examples.pod_training.optimizer import make_optimizer, metric
from examples.pod_training.task import Task


class TrainState(NamedTuple):
    """All that an update changes, which is what a checkpoint holds.

    Attributes:
      params: of the model, as plain dictionaries.
      opt_state: of the optimizer.
      key: of dropout, as data; it stays, and every update folds its number in.
      updates: made so far.
    """

    params: Any
    opt_state: Any
    key: jax.Array
    updates: jax.Array


class Program(NamedTuple):
    """What is compiled for a mesh.

    Attributes:
      init: a seed to the initial state, each device making its part.
      abstract: shapes, dtypes and shardings of the state.
      step: `step(state, batch) -> state, numbers`; the old state is used up.
      evaluate: `evaluate(params, batch) -> loss`.
      settings: what all processes must share.
    """

    init: Callable[[int], TrainState]
    abstract: TrainState
    step: Callable[..., Any]
    evaluate: Callable[..., Any]
    settings: dict[str, Any]


def make_program(config: Config, task: Task, mesh: jax.sharding.Mesh) -> Program:
    """Returns the initial state and the compiled functions."""
    tx = make_optimizer(config, task.layers)
    n = config.num_microbatches(meshes.batch_devices(mesh))
    abstract_model = nnx.eval_shape(lambda: task.make_model(rngs=nnx.Rngs(0)))
    graphdef, _, rest = nnx.split(abstract_model, nnx.Param, ...)

    def loss_fn(params: Any, batch: Any, *, key: jax.Array, train: bool = True) -> Any:
        model = nnx.merge(graphdef, params, rest, copy=True)
        return task.loss_fn(model, batch, key, train)

    gather = optax_lena.value_and_grad(
        loss_fn, n, axis_name=meshes.BATCH, layers=task.layers
    )

    def init(seed: jax.Array) -> TrainState:
        first, second = jax.random.split(jax.random.key(seed))
        model = task.make_model(rngs=nnx.Rngs(first))
        params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
        key, updates = jax.random.key_data(second), jnp.zeros((), jnp.int32)
        return TrainState(params, tx.init(params), key, updates)

    def step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.updates)
        preconditioner = metric(config, state.opt_state, state.params)
        loss, grads, moments = gather(
            state.params, batch, key=key, preconditioner=preconditioner
        )
        updates, opt_state = tx.update(
            grads, state.opt_state, state.params, moments=moments, value=loss
        )
        params = optax.apply_updates(state.params, updates)
        numbers = {"loss": loss, **optax_lena.metrics(opt_state)}
        return TrainState(params, opt_state, state.key, state.updates + 1), numbers

    def evaluate(params: Any, batch: Any) -> jax.Array:
        return loss_fn(params, batch, key=jax.random.key(0), train=False)

    shapes = jax.eval_shape(init, 0)
    where = meshes.shardings(mesh, shapes, task.specs)
    over_batch, everywhere = meshes.over_batch(mesh), meshes.replicated(mesh)
    abstract = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, where
    )
    return Program(
        init=jax.jit(init, out_shardings=where),
        abstract=abstract,
        step=jax.jit(
            step,
            donate_argnums=0,
            in_shardings=(where, over_batch),
            out_shardings=(where, everywhere),
        ),
        evaluate=jax.jit(
            evaluate, in_shardings=(where.params, over_batch), out_shardings=everywhere
        ),
        settings={"tx": tx, "gather": gather},
    )
