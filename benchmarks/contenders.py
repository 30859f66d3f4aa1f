"""Contenders: what is measured against what, as functions that change parameters.

An optimizer alone with one gradient for every call, or a whole training step of a
model. `cost.py` compiles them and lets them take turns.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import optax_lena
from benchmarks import models
from benchmarks.resnet import group_norm, resnet18

# Rates are tiny: thousands of updates with one and the same gradient follow.
RATE, DECAY, SCALE = 1e-6, 1e-4, 32


@dataclasses.dataclass(frozen=True)
class Contender:
    """One way to change parameters.

    Attributes:
      name: for people.
      step: `step(params, state, *inputs) -> (params, state)`.
      init: `init(params) -> state`.
      inputs: what each step reads.
    """

    name: str
    step: Callable[..., tuple[Any, Any]]
    init: Callable[[Any], Any]
    inputs: tuple[Any, ...]


# By name: the optimizer, and whether its update needs moments.
UPDATES: dict[str, tuple[optax.GradientTransformation, bool]] = {
    "SGD": (optax.sgd(RATE, 0.9), False),
    "SGD, decay": (
        optax.chain(optax.add_decayed_weights(DECAY), optax.sgd(RATE, 0.9)),
        False,
    ),
    "AdamW": (optax.adamw(RATE, weight_decay=DECAY), False),
    "LARS, decay": (optax.lars(RATE, DECAY), False),
    "LAMB, decay": (optax.lamb(RATE, weight_decay=DECAY), False),
    "AdaScale": (optax_lena.adascale(RATE, SCALE), True),
    "LENA": (optax_lena.lena(RATE, SCALE, warmup_steps=100), True),
    "LENA, decay": (
        optax_lena.lena(RATE, SCALE, warmup_steps=100, weight_decay=DECAY),
        True,
    ),
    "amplified LENA": (
        optax_lena.lena_amplified(RATE, SCALE, warmup_steps=100),
        True,
    ),
}


def update(
    name: str, tx: optax.GradientTransformation, needs_moments: bool, grads: Any
) -> Contender:
    """The optimizer alone, with one gradient and one set of moments for every call."""
    tx = optax.with_extra_args_support(tx)

    # In this order every result finds a donated buffer of its own shape; with the state
    # first, momentum would be written where the parameters were, by way of copies.
    def step(params: Any, state: Any, grads: Any, extra: Any) -> tuple[Any, Any]:
        updates, state = tx.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state

    extra = {}
    if needs_moments:
        norms = jax.tree.map(lambda g: jnp.full((), 1e-6 * g.size), grads)
        moments = optax_lena.GradMoments(
            jax.tree.map(lambda x: 2 * x, norms), norms, jnp.asarray(SCALE)
        )
        extra = {"moments": moments}
    return Contender(name, step, tx.init, (grads, extra))


@dataclasses.dataclass(frozen=True)
class Task:
    """A model and how much data a step of its training takes.

    Attributes:
      name: for people.
      make_model: makes the model of a seed.
      shape: of an example.
      num_classes: number of logits.
      batch_size: of the whole batch.
      num_microbatches: n.
    """

    name: str
    make_model: Callable[[nnx.Rngs], nnx.Module]
    shape: tuple[int, ...]
    num_classes: int
    batch_size: int
    num_microbatches: int

    @property
    def setting(self) -> str:
        """Names it, for a table."""
        return f"{self.name}, batch {self.batch_size}, n = {self.num_microbatches}"


# An image's shape, the number of classes, and the small network's channels and width.
CONV_NET = SHAPE, CLASSES, CHANNELS, WIDTH = (32, 32, 3), 100, (32, 64), 256


def task(quick: bool) -> Task:
    """A small convolutional network; on a GPU ResNet-18 at a batch of 1024."""
    if jax.default_backend() == "gpu" and not quick:
        # With GroupNorm a step has no state but the optimizer's.
        def resnet(rngs: nnx.Rngs) -> nnx.Module:
            return resnet18(SHAPE, CLASSES, norm=group_norm, rngs=rngs)

        return Task("ResNet-18", resnet, SHAPE, CLASSES, 1024, 8)

    return conv_net(32 if quick else 1024)


def conv_net(batch_size: int) -> Task:
    """The small convolutional network, which the peer has as well."""

    def make(rngs: nnx.Rngs) -> nnx.Module:
        return models.ConvNet(SHAPE, CLASSES, rngs=rngs, channels=CHANNELS, width=WIDTH)

    return Task("ConvNet", make, SHAPE, CLASSES, batch_size, 8)


def sgd(name: str, grad: Callable[..., Any], batch: Any) -> Contender:
    """A step of momentum SGD."""
    tx = optax.sgd(RATE, 0.9)

    def step(params: Any, state: Any, batch: Any) -> tuple[Any, Any]:
        updates, state = tx.update(grad(params, batch), state, params)
        return optax.apply_updates(params, updates), state

    return Contender(name, step, tx.init, (batch,))


def lena(name: str, gather: Callable[..., Any], scale: int, batch: Any) -> Contender:
    """A step of LENA with state-aware warm-up, one layer per parameter."""
    tx = optax_lena.lena(RATE, scale, warmup_steps=100)

    def step(params: Any, state: Any, batch: Any) -> tuple[Any, Any]:
        _, grads, moments = gather(params, batch)
        updates, state = tx.update(grads, state, params, moments=moments)
        return optax.apply_updates(params, updates), state

    return Contender(name, step, tx.init, (batch,))


def accumulated(loss: Callable[..., jax.Array], n: int) -> Callable[..., Any]:
    """The gradient as people who lack memory take it: n microbatches in a scan."""

    def grad(params: Any, batch: Any) -> Any:
        def body(total: Any, part: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, jax.grad(loss)(params, part)), None

        parts = jax.tree.map(lambda x: x.reshape(n, len(x) // n, *x.shape[1:]), batch)
        zeros = jax.tree.map(jnp.zeros_like, params)
        total, _ = jax.lax.scan(body, zeros, parts)
        return jax.tree.map(lambda g: g / n, total)

    return grad


def materialise(work: Task) -> tuple[Any, Callable[..., jax.Array], Any]:
    """Returns a task's parameters, the loss `loss(params, batch)`, and a batch."""
    graphdef, state = nnx.split(work.make_model(nnx.Rngs(0)), nnx.Param)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((work.batch_size, *work.shape), np.float32)
    y = rng.integers(0, work.num_classes, work.batch_size, np.int32)

    def loss(params: Any, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        logits = nnx.merge(graphdef, params)(batch[0])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch[1])
        return losses.mean()

    return nnx.to_pure_dict(state), loss, (jnp.asarray(x), jnp.asarray(y))


def filled(tree: Any, value: float) -> Any:
    """A pytree of arrays like `tree`, all of one number."""
    return jax.tree.map(lambda leaf: jnp.full(leaf.shape, value, leaf.dtype), tree)
