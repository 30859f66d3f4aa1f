"""AdaScale: one gain for the whole model, on its own clock."""

from typing import Any

import jax
import optax

from optax_lena._checks import check_flag, check_warmup_steps
from optax_lena._measure.layers import whole_model
from optax_lena._optimizers import links
from optax_lena._parts.layer_rate import LayerRate
from optax_lena._parts.reference import follow_authors
from optax_lena._parts.warmup import StateAwareWarmup
from optax_lena._transform.scale_by_lena import scale_by_layer_rate


def adascale(
    learning_rate: optax.ScalarOrSchedule,
    batch_scale: jax.typing.ArrayLike | None = None,
    *,
    warmup_steps: jax.typing.ArrayLike = 0,
    momentum: float | jax.Array | None = 0.9,
    nesterov: bool = False,
    accumulator_dtype: Any = None,
    weight_decay: float | jax.Array = 0.0,
    weight_decay_mask: Any = None,
    reference: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""AdaScale SGD: one gain for the whole model, on its own clock.

    $$w \leftarrow w - \eta(\textstyle\sum \text{gain}) \cdot \text{gain}(S) \cdot m$$

    Train until `model/gain_steps` in `optax_lena.metrics` reaches the base run's steps:
    the schedule runs on that clock too.

    Args:
      learning_rate: η, the small batch's rate, or its schedule, which is called with
        the sum of the gains (`optax.inject_hyperparams` calls it with updates, unless
        `static_args` names it).
      batch_scale: S, the global batch over the base batch that the recipe was tuned at,
        above 0; None: the number of microbatches.
      warmup_steps: θ, the length of the warm-up in base-batch steps; 0: no warm-up.
        It counts gains. The authors of AdaScale use none.
      momentum: β, the share of the momentum buffer that is kept, in [0, 1); None: no
        buffer.
      nesterov: whether to use Nesterov momentum.
      accumulator_dtype: the dtype of the momentum buffer; None: the parameters' dtype.
      weight_decay: λ; the parameters times λ are added to the gradient, in front of
        the momentum buffer.
      weight_decay_mask: which parameters decay: a pytree of booleans, or a function of
        the parameters that returns one; None: all.
      reference: follow the code of LENA's authors where it differs from their paper.

    Returns:
      The optimizer. Its `update` takes the keyword argument `moments`.

    Raises:
      ValueError: where an argument is out of its range.
      TypeError: from `update`, if it is given no moments.

    Example:
      >>> import jax.numpy as jnp, optax_lena
      >>> tx = optax_lena.adascale(0.1, batch_scale=32)
      >>> state = tx.init({"a": jnp.zeros(3), "b": jnp.zeros(3)})
      >>> list(optax_lena.layer_report(state))
      ['model']

    References:
      Johnson, Agrawal, Gu, Guestrin, *AdaScale SGD*, ICML 2020.
    """
    check_warmup_steps(warmup_steps)
    check_flag("reference", reference)
    warmup = StateAwareWarmup(warmup_steps)
    rate = LayerRate(learning_rate, clock="gain_steps", warmup=warmup)
    rate = follow_authors(rate, batch_scale) if reference else rate
    return optax.chain(
        links.decay(weight_decay, weight_decay_mask),
        links.buffer(momentum, nesterov, accumulator_dtype),
        scale_by_layer_rate(rate, batch_scale, layers=whole_model),
        links.descent,
    )
