"""AdaScale: one gain for the whole model, on its own clock."""

from typing import Any

import jax
import optax

from optax_lena._checks import check_flag, check_steps
from optax_lena._measure.layers import whole_model
from optax_lena._optimizers import parts
from optax_lena._parts.layer_rate import LayerRate
from optax_lena._parts.reference import follow_authors
from optax_lena._parts.warmup import StateAwareWarmup
from optax_lena._transform.scale_by_lena import scale_by_layer_rate


def adascale(
    learning_rate: optax.ScalarOrSchedule,
    batch_scale: jax.typing.ArrayLike | None = None,
    *,
    momentum: float | jax.Array | None = 0.9,
    nesterov: bool = False,
    weight_decay: float | jax.Array = 0.0,
    weight_decay_mask: Any = None,
    accumulator_dtype: Any = None,
    warmup_steps: jax.typing.ArrayLike = 0,
    reference: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""AdaScale SGD: one gain for the whole model, its own clock, no warm-up.

    $$w \leftarrow w - \eta(\textstyle\sum \text{gain}) \cdot \text{gain}(S) \cdot m$$

    Train until `gain_steps` of `optax_lena.metrics` reaches the base run's steps: the
    schedule runs on that clock too.

    Args:
      learning_rate: η, the small batch's rate, or its schedule, which is called with
        the sum of the gains.
      batch_scale: S, the global batch in base batches, above 0; None: the number of
        microbatches.
      momentum: of the buffer in front of the gain, in [0, 1); None for none.
      nesterov: whether the momentum is Nesterov's.
      weight_decay: added to the gradient before the momentum buffer.
      weight_decay_mask: what decays: a pytree of booleans, or a function that makes it.
      accumulator_dtype: of the buffer; None: that of the parameters.
      warmup_steps: over which the rate rises, counted in gains; AdaScale's authors have
        none.
      reference: follow the code of LENA's authors, who compare with AdaScale.

    Returns:
      The optimizer. Its `update` takes the keyword argument `moments`.

    Raises:
      ValueError: where an argument is out of its range.

    Example:
      >>> import jax.numpy as jnp, optax_lena
      >>> tx = optax_lena.adascale(0.1, batch_scale=32)
      >>> state = tx.init({"a": jnp.zeros(3), "b": jnp.zeros(3)})
      >>> list(optax_lena.layer_report(state))
      ['model']

    References:
      Johnson, Agrawal, Gu, Guestrin, *AdaScale SGD*, ICML 2020.
    """
    check_steps(warmup_steps)
    check_flag("reference", reference)
    warmup = StateAwareWarmup(warmup_steps)
    rate = LayerRate(learning_rate, clock="gain_steps", warmup=warmup)
    rate = follow_authors(rate, batch_scale) if reference else rate
    return optax.chain(
        parts.decay(weight_decay, weight_decay_mask),
        parts.buffer(momentum, nesterov, accumulator_dtype),
        scale_by_layer_rate(rate, batch_scale, layers=whole_model),
        parts.descent,
    )
