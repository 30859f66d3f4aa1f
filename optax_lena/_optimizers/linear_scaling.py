"""Linear learning-rate scaling: the recipe that LENA replaces."""

from typing import Any

import jax
import optax

from optax_lena._checks import check_flag, check_given, check_warmup_steps
from optax_lena._measure.layers import Layers, whole_model
from optax_lena._optimizers import links
from optax_lena._parts.layer_rate import LayerRate
from optax_lena._parts.reference import follow_authors
from optax_lena._parts.rules import linear
from optax_lena._parts.warmup import FixedWarmup
from optax_lena._transform.scale_by_lena import scale_by_layer_rate


def linear_scaling(
    learning_rate: optax.ScalarOrSchedule,
    batch_scale: jax.typing.ArrayLike,
    *,
    warmup_steps: jax.typing.ArrayLike = 0,
    layers: Layers = whole_model,
    momentum: float | jax.Array | None = 0.9,
    nesterov: bool = False,
    accumulator_dtype: Any = None,
    weight_decay: float | jax.Array = 0.0,
    weight_decay_mask: Any = None,
    reference: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Linear learning-rate scaling with a fixed warm-up: the usual large-batch recipe.

    $$w \leftarrow w - \eta \cdot S \cdot \min(1, \text{base\_steps} / \theta) \cdot m$$

    It needs no moments. If it gets some, the reports show what LENA would have seen,
    and an update in which a layer's gradient is not finite does not count for its
    warm-up.

    Args:
      learning_rate: η, the small batch's rate, or its schedule in base-batch steps
        (`optax.inject_hyperparams` calls it with updates, unless `static_args` names
        it).
      batch_scale: S, the global batch over the base batch that the recipe was tuned at,
        above 0.
      warmup_steps: θ, the length of the warm-up in base-batch steps; 0: no warm-up.
      layers: which parameters are one layer, such as `optax_lena.per_module`: for the
        reports, and for the warm-ups after a gradient that is not finite.
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
      The optimizer. Its `update` takes the keyword argument `moments`, and does not
      need it.

    Raises:
      ValueError: where an argument is out of its range.

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
    check_given("batch_scale", batch_scale, "linear_scaling")
    check_warmup_steps(warmup_steps)
    check_flag("reference", reference)
    decay = links.decay(weight_decay, weight_decay_mask)
    rate = LayerRate(learning_rate, rule=linear, warmup=FixedWarmup(warmup_steps))
    rate = follow_authors(rate, batch_scale) if reference else rate
    scale = scale_by_layer_rate(rate, batch_scale, layers=layers)
    buffer = links.buffer(momentum, nesterov, accumulator_dtype)
    return optax.chain(decay, buffer, scale, links.descent)
