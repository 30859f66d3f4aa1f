"""Segments: what of a run is compiled, updates and the evaluations between them.

In: a loss, an optimizer, a prediction. Out: a function over a stretch of examples.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

import optax_lena

# What a record keeps of `optax_lena.metrics`.
RECORDED = (
    "model/gain",
    "model/base_steps",
    "model/gain_steps",
    "trust_ratio/",
    "warmup_factor/",
    "warmup_end/",
)


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


def make_update(
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
        return value, grads, {"moments": moments, "value": value}

    def update(state: TrainState, batch: Any) -> tuple[TrainState, jax.Array]:
        value, grads, extra = gradient(state, batch)
        updates, opt_state = tx.update(grads, state.opt_state, state.params, **extra)
        return TrainState(optax.apply_updates(state.params, updates), opt_state), value

    return update


def make_segment(
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


def recorded_metrics(opt_state: Any) -> dict[str, jax.Array]:
    """What a record keeps of `optax_lena.metrics`."""
    everything = optax_lena.metrics(opt_state)
    return {key: value for key, value in everything.items() if key.startswith(RECORDED)}
