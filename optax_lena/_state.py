"""The state: what one update of LENA leaves for the next, and for people.

A few float32 vectors over layers, replicated, whatever the parameters' dtypes and
shardings are, and the layers' names, which are part of the pytree's structure.
"""

import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp

from optax_lena._noise import Averages


@jax.tree_util.register_static
class LayerNames:
    """The layers' names, carried by the state in a pytree node without leaves.

    Reports need them where neither the parameters nor the masks around the
    transformation are known.
    """

    def __init__(self, names: tuple[str, ...]):
        self._names = names

    def __call__(self) -> tuple[str, ...]:
        return self._names

    def __hash__(self) -> int:
        return hash(self._names)

    def __eq__(self, other: object) -> bool:
        # `optax.tree.map_params` initialises with a placeholder that has no leaves
        # and maps the result over a real state: no names must stand for any.
        if not isinstance(other, LayerNames):
            return NotImplemented
        mine, theirs = self._names, other._names
        return mine == theirs or not mine or not theirs

    def __repr__(self) -> str:
        return f"LayerNames({len(self._names)})"


def register_with_flax() -> None:
    """Lets flax's msgpack skip the names: it knows no nodes but those registered.

    Only if flax is imported, which whoever saves with it has done: the core does not
    depend on it.
    """
    if serialization := sys.modules.get("flax.serialization"):
        serialization.register_serialization_state(
            LayerNames, lambda names: {}, lambda names, saved: names, override=True
        )


class Applied(NamedTuple):
    """What the last update did, for people and reports; no update reads it.

    Attributes:
      gain: float32 `[layers]`, in [1, S].
      trust_ratio: float32 `[layers]`, what the rule made of the gain.
      warmup_factor: float32 `[layers]`, in [0, 1].
      model_gain: float32 `()`, the gain of the whole model as one layer.
      spike_factor: float32 `()`, in (0, 1], by which a spike cut the trust ratios.
      batch_scale: float32 `()`, S.
    """

    gain: jax.Array
    trust_ratio: jax.Array
    warmup_factor: jax.Array
    model_gain: jax.Array
    spike_factor: jax.Array
    batch_scale: jax.Array


class ScaleByLenaState(NamedTuple):
    """State of `scale_by_lena`: a few float32 numbers per layer.

    Attributes:
      averages: moving averages of noise and signal, `[layers]` each.
      recent: those of the whole model over the last updates, `()` each.
      progress: `[layers]`, warm-up progress in base-batch steps.
      warmup_end: `[layers]`, the base-batch step at which it ended; -1 before.
      base_steps: `()`, Σ S: base batches seen, the clock of small-batch schedules.
      gain_steps: `()`, Σ gain of the whole model: AdaScale's scale-invariant clock.
      rate_steps: `()`, Σ of what multiplied the whole model's rate, warm-up included.
      applied: what the last update did.
      layer_names: call it for the layers' names; it has no leaves.
    """

    averages: Averages
    recent: Averages
    progress: jax.Array
    warmup_end: jax.Array
    base_steps: jax.Array
    gain_steps: jax.Array
    rate_steps: jax.Array
    applied: Applied
    layer_names: LayerNames


def initial_state(names: tuple[str, ...]) -> ScaleByLenaState:
    """Returns the state before the first update, for layers of these names."""

    # Every entry is an array of its own: JAX does not donate one buffer twice.
    def zeros(*shape: int) -> jax.Array:
        return jnp.zeros(shape)

    def ones(*shape: int) -> jax.Array:
        return jnp.ones(shape)

    layers = len(names)
    return ScaleByLenaState(
        averages=Averages(zeros(layers), zeros(layers), zeros(layers)),
        recent=Averages(zeros(), zeros(), zeros()),
        progress=zeros(layers),
        warmup_end=-ones(layers),
        base_steps=zeros(),
        gain_steps=zeros(),
        rate_steps=zeros(),
        applied=Applied(
            gain=ones(layers),
            trust_ratio=ones(layers),
            warmup_factor=ones(layers),
            model_gain=ones(),
            spike_factor=ones(),
            batch_scale=ones(),
        ),
        layer_names=LayerNames(names),
    )


def to_float32(state: ScaleByLenaState) -> ScaleByLenaState:
    """Whatever the dtypes of parameters and injected hyperparameters are."""
    return jax.tree.map(lambda x: x.astype(jnp.float32), state)
