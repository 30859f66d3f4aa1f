"""Optimizers: the transformation chained with momentum, weight decay and a rate.

The order is torch SGD's, which the paper and its code use: weight decay joins the
gradient, both enter the momentum buffer, and the layer's rate multiplies what leaves
the buffer. Only in `lena_amplified` the rate enters the buffer too, as in `optax.lars`.
"""

from typing import Any

import jax
import optax

from optax_lena import _noise, _warmup
from optax_lena._layers import Layers, per_parameter, whole_model
from optax_lena._transform import (
    ABSOLUTE,
    BASE_STEPS,
    GAIN_STEPS,
    RATE_STEPS,
    RELATIVE,
    scale_by_lena,
)


def lena(
    learning_rate: optax.ScalarOrSchedule,
    batch_scale: jax.typing.ArrayLike | None = None,
    *,
    warmup_steps: jax.typing.ArrayLike = 0,
    momentum: float | None = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    weight_decay_mask: Any = None,
    layers: Layers = per_parameter,
    rule: _noise.Rule = _noise.capped_gain,
    warmup: str = _warmup.STATE_AWARE,
    clock: str = BASE_STEPS,
    averages: str = ABSOLUTE,
    horizon: float = 1000.0,
    spike_limit: float | None = None,
    reference: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""LENA: momentum SGD whose every layer finds its own rate and warm-up.

    $$g \leftarrow \bar g + \lambda w, \quad m \leftarrow \beta m + g, \quad
      w_k \leftarrow w_k - \eta \cdot \text{gain}_k(S) \cdot
      \min(1, \text{progress}_k / \theta) \cdot m_k$$

    Learning rate, schedule, momentum and weight decay are those of the small batch.

    Args:
      learning_rate: η, the small batch's rate, or its schedule, which then runs on
        `clock` and not on the number of updates.
      batch_scale: S, the global batch over the base batch; see `scale_by_lena`.
      warmup_steps: θ, in base-batch steps; the paper takes 5 % of the base run's.
      momentum: β; None for none.
      nesterov: whether the momentum is Nesterov's.
      weight_decay: λ, added to the gradient before the momentum buffer.
      weight_decay_mask: what decays, as in `optax.add_decayed_weights`.
      layers: what one layer is; see `scale_by_lena`.
      rule: how the gain becomes a trust ratio; see `scale_by_lena`.
      warmup: what the warm-up counts; see `scale_by_lena`.
      clock: what a schedule runs on; see `scale_by_lena`.
      averages: what is averaged; see `scale_by_lena`.
      horizon: of the moving averages; see `scale_by_lena`.
      spike_limit: on the gradient's squared norm; see `scale_by_lena`.
      reference: follow the authors' code; see `scale_by_lena`.

    Returns:
      The optimizer. Its `update` takes the keyword argument `moments`.

    Raises:
      ValueError: where an argument is out of its range.

    Example:
      >>> import jax, jax.numpy as jnp, optax, optax_lena
      >>> x = jax.random.normal(jax.random.key(0), (64, 8))
      >>> loss = lambda w, x: jnp.mean((x @ w - x[:, 0]) ** 2)
      >>> gather = optax_lena.value_and_grad(loss, num_microbatches=16)
      >>> tx = optax_lena.lena(0.05, batch_scale=16, momentum=None)
      >>> params = jnp.zeros(8)
      >>> state = tx.init(params)
      >>> for step in range(3):
      ...     value, grads, moments = gather(params, x)
      ...     updates, state = tx.update(grads, state, params, moments=moments)
      ...     params = optax.apply_updates(params, updates)
      ...     print(f"{value:.3f}")
      0.814
      0.416
      0.223

    References:
      Ko, Lee, Kim, *Not All Layers Are Equal*, WWW 2022, Algorithm 1.
    """
    return _momentum_sgd(
        learning_rate,
        batch_scale,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        weight_decay_mask=weight_decay_mask,
        warmup_steps=warmup_steps,
        layers=layers,
        rule=rule,
        warmup=warmup,
        clock=clock,
        averages=averages,
        horizon=horizon,
        spike_limit=spike_limit,
        reference=reference,
    )


def _momentum_sgd(
    learning_rate: optax.ScalarOrSchedule,
    batch_scale: jax.typing.ArrayLike | None,
    *,
    momentum: float | None,
    nesterov: bool,
    weight_decay: float,
    weight_decay_mask: Any,
    rate_enters_buffer: bool = False,
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    """Chains `scale_by_lena` of these options with the parts of momentum SGD."""
    is_schedule = callable(learning_rate)
    schedule = learning_rate if is_schedule else None
    decay, buffer = [], []
    # Only a plain 0 is known to be none; optax.inject_hyperparams passes arrays.
    if not (isinstance(weight_decay, (int, float)) and weight_decay == 0):
        decay = [optax.add_decayed_weights(weight_decay, weight_decay_mask)]
    if momentum is not None:
        buffer = [optax.trace(momentum, nesterov)]
    rate = [
        scale_by_lena(batch_scale, schedule=schedule, **options),
        optax.scale_by_learning_rate(1.0 if is_schedule else learning_rate),
    ]
    rest = rate + buffer if rate_enters_buffer else buffer + rate
    return optax.chain(*decay, *rest)


def lena_amplified(
    learning_rate: optax.ScalarOrSchedule,
    batch_scale: jax.typing.ArrayLike | None = None,
    *,
    warmup_steps: jax.typing.ArrayLike = 0,
    momentum: float | None = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    weight_decay_mask: Any = None,
    layers: Layers = per_parameter,
    rule: _noise.Rule = _noise.amplified_gain,
    warmup: str = _warmup.FIXED,
    clock: str = RATE_STEPS,
    averages: str = RELATIVE,
    horizon: float = 1000.0,
    spike_limit: float | None = 2.0,
) -> optax.GradientTransformationExtraArgs:
    r"""LENA with the gain of eight times the noise, guarded: faster at large S.

    $$r_k = \frac{8\sigma_k^2 + \lVert\mu_k\rVert^2}
                 {8\sigma_k^2 / S + \lVert\mu_k\rVert^2}, \qquad
      m_k \leftarrow \beta m_k + \eta \cdot \max(1, f r_k) \cdot
        \min(1, \text{base\_steps} / \theta) \cdot g_k, \qquad
      w_k \leftarrow w_k - m_k$$

    It differs from `lena` in six ways, each of which docs/benchmarks.md measures. The
    gain is amplified, to at most S. A gradient that is far longer than the last ones
    cuts the rate, by f (`spike_limit`). The rate enters the momentum buffer: while it
    rises, a gradient keeps the rate it was taken at. The warm-up counts base batches,
    so it takes the same share of a run at every S. The schedule runs on the steps that
    the rate is worth, so that a cautious start does not shorten the training. And the
    moving averages are relative to the model's squared norm, so that large early
    gradients do not outlive their time.

    With a `batch_scale` of 1, no warm-up and a constant rate it is `optax.sgd`.

    Args:
      learning_rate: η, the small batch's rate, or its schedule, which then runs on
        `clock` and not on the number of updates.
      batch_scale: S, the global batch over the base batch; see `scale_by_lena`.
      warmup_steps: θ, in base-batch steps: the small batch's own warm-up, or 5 % of its
        steps.
      momentum: β; None for none.
      nesterov: whether the momentum is Nesterov's.
      weight_decay: λ, added to the gradient before the rate.
      weight_decay_mask: what decays, as in `optax.add_decayed_weights`.
      layers: what one layer is; see `scale_by_lena`.
      rule: how the gain becomes a trust ratio; see `scale_by_lena`.
      warmup: what the warm-up counts; see `scale_by_lena`.
      clock: what a schedule runs on; see `scale_by_lena`.
      averages: what is averaged; see `scale_by_lena`.
      horizon: of the moving averages; see `scale_by_lena`.
      spike_limit: on the gradient's squared norm; see `scale_by_lena`.

    Returns:
      The optimizer. Its `update` takes the keyword argument `moments`.

    Raises:
      ValueError: where an argument is out of its range.

    Example:
      >>> import jax, jax.numpy as jnp, optax, optax_lena
      >>> x = jax.random.normal(jax.random.key(0), (64, 8))
      >>> loss = lambda w, x: jnp.mean((x @ w - x[:, 0]) ** 2)
      >>> gather = optax_lena.value_and_grad(loss, num_microbatches=16)
      >>> tx = optax_lena.lena_amplified(0.05, batch_scale=16, momentum=None)
      >>> params = jnp.zeros(8)
      >>> state = tx.init(params)
      >>> for step in range(3):
      ...     value, grads, moments = gather(params, x)
      ...     updates, state = tx.update(grads, state, params, moments=moments)
      ...     params = optax.apply_updates(params, updates)
      ...     print(f"{value:.3f}")
      0.814
      0.069
      0.018
    """
    return _momentum_sgd(
        learning_rate,
        batch_scale,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        weight_decay_mask=weight_decay_mask,
        rate_enters_buffer=True,
        warmup_steps=warmup_steps,
        layers=layers,
        rule=rule,
        warmup=warmup,
        clock=clock,
        averages=averages,
        horizon=horizon,
        spike_limit=spike_limit,
    )


def adascale(
    learning_rate: optax.ScalarOrSchedule,
    batch_scale: jax.typing.ArrayLike | None = None,
    *,
    warmup_steps: jax.typing.ArrayLike = 0,
    momentum: float | None = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    weight_decay_mask: Any = None,
    rule: _noise.Rule = _noise.capped_gain,
    warmup: str = _warmup.STATE_AWARE,
    clock: str = GAIN_STEPS,
    horizon: float = 1000.0,
    reference: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """AdaScale SGD: one gain for the whole model, its own clock, no warm-up.

    Train until `gain_steps` of `optax_lena.metrics` reaches the base run's steps: the
    schedule runs on that clock too.

    Args:
      learning_rate: the small batch's rate, or its schedule, which runs on `clock`.
      batch_scale: S, the global batch over the base batch; see `scale_by_lena`.
      warmup_steps: length of a warm-up in base-batch steps; AdaScale has none.
      momentum: the momentum; None for none.
      nesterov: whether the momentum is Nesterov's.
      weight_decay: added to the gradient before the momentum buffer.
      weight_decay_mask: what decays, as in `optax.add_decayed_weights`.
      rule: how the gain becomes a trust ratio; see `scale_by_lena`.
      warmup: what a warm-up counts; see `scale_by_lena`.
      clock: what a schedule runs on; see `scale_by_lena`.
      horizon: of the moving averages; see `scale_by_lena`.
      reference: follow the LENA authors' code; see `scale_by_lena`.

    Returns:
      The optimizer. Its `update` takes the keyword argument `moments`.

    Example:
      >>> import jax.numpy as jnp, optax_lena
      >>> tx = optax_lena.adascale(0.1, batch_scale=32)
      >>> state = tx.init({"a": jnp.zeros(3), "b": jnp.zeros(3)})
      >>> list(optax_lena.layer_report(state))
      ['model']

    References:
      Johnson, Agrawal, Gu, Guestrin, *AdaScale SGD*, ICML 2020.
    """
    return lena(
        learning_rate,
        batch_scale,
        warmup_steps=warmup_steps,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        weight_decay_mask=weight_decay_mask,
        layers=whole_model,
        rule=rule,
        warmup=warmup,
        clock=clock,
        horizon=horizon,
        reference=reference,
    )


def linear_scaling(
    learning_rate: optax.ScalarOrSchedule,
    batch_scale: jax.typing.ArrayLike,
    *,
    warmup_steps: jax.typing.ArrayLike = 0,
    warmup: str = _warmup.FIXED,
    momentum: float | None = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    weight_decay_mask: Any = None,
    layers: Layers = whole_model,
    horizon: float = 1000.0,
    reference: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Linear learning-rate scaling with warm-up: the recipe that LENA replaces.

    With `warmup="fixed"` it is Goyal et al.'s and needs no moments; if it gets some,
    the reports show what LENA would have seen. With `warmup="state_aware"` the ramp
    follows the gain of the model, or of each layer if `layers` says so.

    Args:
      learning_rate: the small batch's rate, or its schedule in base-batch steps.
      batch_scale: S, by which the rate is multiplied.
      warmup_steps: length of the warm-up in base-batch steps.
      warmup: `"fixed"` or `"state_aware"`; see `scale_by_lena`.
      momentum: the momentum; None for none.
      nesterov: whether the momentum is Nesterov's.
      weight_decay: added to the gradient before the momentum buffer.
      weight_decay_mask: what decays, as in `optax.add_decayed_weights`.
      layers: what has a state-aware warm-up of its own; see `scale_by_lena`.
      horizon: of the moving averages; see `scale_by_lena`.
      reference: follow the LENA authors' code; see `scale_by_lena`.

    Returns:
      The optimizer. Its `update` takes the keyword argument `moments`, and needs it if
      the warm-up is state-aware.

    Example:
      >>> import jax.numpy as jnp, optax_lena
      >>> tx = optax_lena.linear_scaling(0.1, 8, warmup_steps=16, momentum=None)
      >>> params = jnp.ones(())
      >>> state = tx.init(params)
      >>> for step in range(3):
      ...     updates, state = tx.update(jnp.ones(()), state, params)
      ...     print(round(float(updates), 3))
      -0.4
      -0.8
      -0.8

    References:
      Goyal et al., *Accurate, Large Minibatch SGD*, 2017.
    """
    return lena(
        learning_rate,
        batch_scale,
        warmup_steps=warmup_steps,
        warmup=warmup,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        weight_decay_mask=weight_decay_mask,
        layers=layers,
        rule=_noise.linear,
        horizon=horizon,
        reference=reference,
    )
