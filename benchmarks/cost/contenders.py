"""Contenders: what is measured against what, as functions that change parameters.

An optimizer alone with one gradient for every call, or a whole training step of a
model. `compare.py` compiles them and lets them take turns.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import optax_lena

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


def monitored(name: str) -> optax.GradientTransformationExtraArgs:
    """An optimizer of `UPDATES` behind the monitor."""
    return optax_lena.monitor(UPDATES[name][0], batch_scale=SCALE)


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
    return gathered(name, tx, gather, batch)


def gathered(
    name: str,
    tx: optax.GradientTransformationExtraArgs,
    gather: Callable[..., Any],
    batch: Any,
) -> Contender:
    """A step of an optimizer that takes moments."""

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


def filled(tree: Any, value: float) -> Any:
    """A pytree of arrays like `tree`, all of one number."""
    return jax.tree.map(lambda leaf: jnp.full(leaf.shape, value, leaf.dtype), tree)
