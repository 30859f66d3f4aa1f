"""The recommended optimizer: an amplified gain in front of the momentum, guarded."""

import dataclasses
from typing import Any

import jax
import optax

from optax_lena._checks import check_warmup_steps
from optax_lena._measure.layers import Layers, per_parameter
from optax_lena._optimizers import links
from optax_lena._parts.averages import Averages
from optax_lena._parts.guard import SpikeLimit
from optax_lena._parts.layer_rate import LayerRate
from optax_lena._parts.loss_limit import LossLimit
from optax_lena._parts.rules import amplified_gain
from optax_lena._parts.warmup import FixedWarmup
from optax_lena._transform.layer_rate_with_momentum import layer_rate_with_momentum

# Base batches: five updates at S = 64, so that the gain follows what happens.
HORIZON = 300.0
_RATE = LayerRate(
    estimator=Averages(HORIZON, relative=True),
    rule=amplified_gain,
    guard=SpikeLimit(1.25),
    loss_limit=LossLimit(),
)


def lena_amplified(
    learning_rate: optax.ScalarOrSchedule,
    batch_scale: jax.typing.ArrayLike | None = None,
    *,
    warmup_steps: jax.typing.ArrayLike = 0,
    layers: Layers = per_parameter,
    momentum: float | jax.Array | None = 0.9,
    nesterov: bool = False,
    accumulator_dtype: Any = None,
    weight_decay: float | jax.Array = 0.0,
    weight_decay_mask: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""LENA with the gain for four times the noise, guarded: faster at large S.

    $$r_k = \frac{4\sigma_k^2 + \lVert\mu_k\rVert^2}
                 {4\sigma_k^2 / S + \lVert\mu_k\rVert^2}, \qquad
      m_k \leftarrow \beta_S m_k + \frac{1 - \beta_S}{1 - \beta} \cdot \eta \cdot
        \max(1/S, f r_k) \cdot \min(1, \text{base\_steps} / \theta) \cdot g_k, \qquad
      w_k \leftarrow w_k - m_k$$

    It differs from `lena` as follows; docs/choices.md measures each difference. The
    gain is amplified, to at most S. A gradient that is longer than the last ones cuts
    the rate by f (`SpikeLimit`), less so where the last steps went the same way. If
    updates are given the loss, noise counts for less after it has risen (`LossLimit`).
    The momentum counts examples: $\beta_S = \beta^S$, but at least 0.8, as a buffer
    that averages ten updates would lag far behind at S = 64. What one gradient
    contributes in total stays the same. The rate enters the momentum buffer: while it
    rises, each gradient keeps the rate of its own update. Where the schedule falls to
    less than 0.22 of its last value, as one in steps does, the buffer falls with it, as
    in the recipe of the small batch. The warm-up counts base batches, so it takes the
    same share of a run at every S. The moving averages are short (300 base batches) and
    relative to the model's squared norm, so that large early gradients are soon
    forgotten.

    With a `batch_scale` of 1 and no warm-up it is `optax.sgd`, up to rounding: there
    the buffer follows every change of a schedule, as long as that is above 0.

    Args:
      learning_rate: η, the rate of the recipe, or its schedule, called with the number
        of base batches seen, so that it ends when the base run's examples do
        (`optax.inject_hyperparams` calls it with updates, unless `static_args` names
        it).
      batch_scale: S, the global batch over the base batch that the recipe was tuned at,
        above 0; None: the number of microbatches.
      warmup_steps: θ, the length of the warm-up in base-batch steps; 0: no warm-up.
        Take the small batch's, or 5 % of its steps.
      layers: which parameters are one layer, such as `optax_lena.per_module`.
      momentum: β of the small batch, the share of the momentum buffer that a base step
        keeps, in [0, 1); None: no buffer. Where S is above 1, an update keeps
        max(β^S, 0.8), and β itself if it is below 0.8.
      nesterov: whether to use Nesterov momentum.
      accumulator_dtype: the dtype of the momentum buffer; None: the parameters' dtype.
      weight_decay: λ; the parameters times λ are added to the gradient, in front of
        the momentum buffer.
      weight_decay_mask: which parameters decay: a pytree of booleans, or a function of
        the parameters that returns one; None: all.

    Returns:
      An optimizer that needs the moments of the gradient, and is safer with the loss of
      the whole batch: `update(..., moments=moments, value=loss)`.

    Raises:
      ValueError: where an argument is out of its range.
      TypeError: from `update`, if it is given no moments.

    Example:
      >>> import jax.numpy as jnp, optax_lena
      >>> stack = jnp.array([[2.0, 0.0], [0.0, 2.0], [1.0, 1.0], [1.0, 1.0]])
      >>> mean, moments = optax_lena.moments_from_stack(stack)
      >>> for optimizer in (optax_lena.lena, optax_lena.lena_amplified):
      ...     tx = optimizer(0.1, batch_scale=4)
      ...     _, state = tx.update(mean, tx.init(mean), mean, moments=moments)
      ...     print(f"{optax_lena.metrics(state)['model/trust_ratio']:.2f}")
      1.50
      2.33
    """
    check_warmup_steps(warmup_steps)
    warmup = FixedWarmup(warmup_steps)
    rate = dataclasses.replace(_RATE, learning_rate=learning_rate, warmup=warmup)
    links.check_buffer(momentum, nesterov, accumulator_dtype)
    buffer = momentum, nesterov, accumulator_dtype
    scale = layer_rate_with_momentum(rate, batch_scale, layers, *buffer)
    decay = links.decay(weight_decay, weight_decay_mask)
    return optax.chain(decay, scale, links.descent)
