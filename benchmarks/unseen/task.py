"""A task: data that are made or come with a dependency, a network, and a score."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np

# Of tasks whose data are made.
EXAMPLES, TRAIN = 60_000, 50_000
# Of the digits of scikit-learn, which are 1,797.
TRAIN_DIGITS = 1400
Params = Any
Batch = tuple[jax.Array, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What is trained.

    Attributes:
      name: of the task, for people.
      rate: of momentum SGD's base recipe, the best of `rates` at S = 1.
      rates: the grid that it was chosen from, by two seeds that no table uses.
      init: makes the parameters of a key.
      loss: a mean over a batch.
      score: on the test set, in percent.
      train: arrays with an example per row.
      test: likewise.
      adamw_rate: of AdamW's base recipe, from a grid that all share; None: not run.
      muon_rate: of Muon's; None: too slow for a small task.
      mixes_examples: whether examples of one batch meet, so that every method has to
        see base batches.
      stages: shares of the run after which the data change. Rows of the training set
        then stand in the order of their stages, and are as many as a run reads.
    """

    name: str
    rate: float
    rates: tuple[float, ...]
    init: Callable[[jax.Array], Params]
    loss: Callable[[Params, Batch], jax.Array]
    score: Callable[[Params, Batch], jax.Array]
    train: tuple[np.ndarray, ...]
    test: tuple[np.ndarray, ...]
    adamw_rate: float | None = None
    muon_rate: float | None = None
    mixes_examples: bool = False
    stages: tuple[float, ...] = ()


class Arrays(TypedDict):
    """The arrays of a `Task`."""

    train: tuple[np.ndarray, ...]
    test: tuple[np.ndarray, ...]


def cut(
    train: Iterable[np.ndarray],
    test: Iterable[np.ndarray],
    count: int = TRAIN,
    tests: int | None = None,
) -> Arrays:
    """The first examples to train on, and the rest to test, as a `Task` takes them.

    Args:
      train: arrays with all examples, of which the first are trained on.
      test: likewise, of which the rest are.
      count: how many are the first.
      tests: how many of the rest are taken; None: all.
    """
    return Arrays(
        train=tuple(array[:count] for array in train),
        test=tuple(array[count:][:tests] for array in test),
    )


def task_of(
    *,
    losses: tuple[Callable[..., jax.Array], Callable[..., jax.Array]],
    examples: tuple[np.ndarray, np.ndarray, np.ndarray],
    **options: Any,
) -> Task:
    """A task whose data are made.

    Args:
      losses: the loss and the score.
      examples: inputs, what is trained on, and what is true.
      **options: the other attributes.
    """
    (loss, score), (x, seen, true) = losses, examples
    arrays = cut(train=(x, seen), test=(x, true))
    return Task(**options, **arrays, loss=loss, score=score)


def dense(key: jax.Array, inputs: int, outputs: int, gain: float = 2.0) -> Params:
    """A layer whose weights have variance gain / inputs."""
    kernel = jax.random.normal(key, (inputs, outputs)) * np.sqrt(gain / inputs)
    return {"kernel": kernel, "bias": jnp.zeros(outputs)}


def apply(layer: Params, x: jax.Array) -> jax.Array:
    """The layer's outputs."""
    return x @ layer["kernel"] + _along_last(layer["bias"], x)


def neighbours(x: jax.Array, span: int) -> jax.Array:
    """Every place's `span` places around it, as its channels; zeros behind the ends."""
    edge, length = span // 2, x.shape[1]
    padded = jnp.pad(x, ((0, 0), (edge, edge), (0, 0)))
    own = [padded[:, start : start + length] for start in range(span)]
    return jnp.concatenate(own, axis=-1)


def unit_norm(width: int) -> Params:
    """The parameters of a `layer_norm` that changes neither scale nor offset."""
    return {"scale": jnp.ones(width), "offset": jnp.zeros(width)}


def layer_norm(norm: Params, x: jax.Array) -> jax.Array:
    """Without the mean and over the deviation of the last axis, scaled and offset."""
    x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * _along_last(norm["scale"], x) + _along_last(norm["offset"], x)


def unit_length(x: jax.Array) -> jax.Array:
    """Every row over its length."""
    return x / jnp.sqrt(jnp.sum(x**2, axis=1, keepdims=True) + 1e-6)


def _along_last(vector: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.expand_dims(vector, range(x.ndim - 1))


def perceptron(
    key: jax.Array, sizes: tuple[int, ...], gain: float = 2.0
) -> list[Params]:
    """Layers of these sizes and this gain, the last for outputs of variance one."""
    keys = jax.random.split(key, len(sizes) - 1)
    gains = [gain] * (len(sizes) - 2) + [1.0]
    pairs = zip(keys, sizes, sizes[1:], gains, strict=False)
    return [dense(*pair) for pair in pairs]


def outputs(
    layers: list[Params], x: jax.Array, activation: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    """What a perceptron makes of x."""
    for layer in layers[:-1]:
        x = activation(apply(layer, x))
    return apply(layers[-1], x)


def teacher(
    rng: np.random.Generator, sizes: tuple[int, ...], x: np.ndarray
) -> np.ndarray:
    """What a perceptron of tanh and of random weights makes of x."""
    for inputs, width in zip(sizes[:-2], sizes[1:-1], strict=True):
        kernel = rng.normal(size=(inputs, width)) * np.sqrt(2.0 / inputs)
        x = np.tanh(x @ kernel + 0.3 * rng.normal(size=width))
    kernel = rng.normal(size=sizes[-2:]) / np.sqrt(sizes[-2])
    return x @ kernel


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The mean over examples."""
    log_p = jax.nn.log_softmax(logits)
    return -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], axis=1))


def accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """In percent."""
    return 100 * jnp.mean(logits.argmax(-1) == labels)


def classifier(
    predict: Callable[[Params, jax.Array], jax.Array],
) -> tuple[Callable[..., jax.Array], Callable[..., jax.Array]]:
    """The loss and the score of a task whose batches are inputs and labels."""
    return (
        lambda params, batch: cross_entropy(predict(params, batch[0]), batch[1]),
        lambda params, batch: accuracy(predict(params, batch[0]), batch[1]),
    )


def explained(predicted: jax.Array, desired: jax.Array) -> jax.Array:
    """The share of the variance that is explained, R squared in percent."""
    error = jnp.sum((predicted - desired) ** 2)
    spread = desired - desired.mean(0, keepdims=True)
    return 100 * (1 - error / jnp.sum(spread**2))
