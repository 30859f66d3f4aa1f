"""The state: what one update of LENA leaves for the next, and for reports.

A few numbers per layer in vectors `[rows]`, one row for each layer and the last for the
whole model; float32, and replicated, whatever the parameters' dtypes and shardings are.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optax_lena._parts.clocks import Clocks, Count


class Applied(NamedTuple):
    """What the last update did, for reports, and for updates that differ from it.

    No field has the name of a hyperparameter: `optax.tree.get` and `optax.tree.set`
    look for `learning_rate` and `batch_scale` in the whole state, and have to find
    those of `optax.inject_hyperparams` alone.

    Attributes:
      noise: float32 `[rows]`, the estimate that the gain is computed from.
      signal: float32 `[rows]`, likewise.
      noise_share: float32 `()`, in (0, 1], how much of the noise the rule saw.
      gain: float32 `[rows]`, in base-batch steps.
      trust_ratio: float32 `[rows]`, what the rule returned, as cut by the guard.
      warmup_factor: float32 `[rows]`, in [0, 1].
      layer_rate: float32 `[rows]`, the product of the schedule and the two above.
      schedule: float32 `()`, the learning rate at its own clock.
      step_sq_norm: float32 `()`, squared length of the gradient at these rates, for
        the `Coherence` of steps.
      coherence: float32 `()`, of the steps before; 1 where it is not measured.
      spike_factor: float32 `()`, in [0, 1], by which a spike cut the trust ratios.
      base_batches: float32 `()`, S.
    """

    noise: jax.Array
    signal: jax.Array
    noise_share: jax.Array
    gain: jax.Array
    trust_ratio: jax.Array
    warmup_factor: jax.Array
    layer_rate: jax.Array
    schedule: jax.Array
    step_sq_norm: jax.Array
    coherence: jax.Array
    spike_factor: jax.Array
    base_batches: jax.Array

    @classmethod
    def nothing(cls, num_rows: int, warmup_factor: jax.Array) -> "Applied":
        """Returns the values before the first update."""
        zero, one = jnp.float32(0), jnp.float32(1)
        zeros, ones = jnp.full(num_rows, zero), jnp.full(num_rows, one)
        return cls(
            noise=zeros,
            signal=zeros,
            noise_share=one,
            gain=ones,
            trust_ratio=ones,
            warmup_factor=warmup_factor.astype(jnp.float32),
            layer_rate=zeros,
            schedule=zero,
            step_sq_norm=zero,
            coherence=one,
            spike_factor=one,
            base_batches=one,
        )


class LayerRateState(NamedTuple):
    """What a `LayerRate` remembers.

    Attributes:
      averages: the estimator's state.
      loss_limit: the loss limit's state; `()` without one.
      guard: the guard's state; `()` without one.
      progress: `[rows]`, the progress of the warm-ups, in base-batch steps.
      warmup_end: float32 `[rows]`, the base-batch step at which each ended; -1 before.
      clocks: sums of steps of the whole run.
      applied: what the last update did.
    """

    averages: Any
    loss_limit: Any
    guard: Any
    progress: Count
    warmup_end: jax.Array
    clocks: Clocks
    applied: Applied
