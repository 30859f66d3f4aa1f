"""The paper's optimizer: momentum SGD with a rate and a warm-up for every layer."""

from typing import Any

import jax
import optax

from optax_lena._checks import check_flag, check_warmup_steps
from optax_lena._measure.layers import Layers, per_parameter
from optax_lena._optimizers import links
from optax_lena._parts.layer_rate import LayerRate
from optax_lena._parts.reference import follow_authors
from optax_lena._parts.warmup import StateAwareWarmup
from optax_lena._transform.scale_by_lena import scale_by_layer_rate


def lena(
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
    reference: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""LENA: momentum SGD in which every layer finds its own rate and warm-up.

    $$g \leftarrow \bar g + \lambda w, \quad m \leftarrow \beta m + g, \quad
      w_k \leftarrow w_k - \eta \cdot \text{gain}_k(S) \cdot
      \min(1, \text{progress}_k / \theta) \cdot m_k$$

    Learning rate, schedule, momentum and weight decay stay as the small batch has them.

    Args:
      learning_rate: η, the small batch's rate, or its schedule, which is then called
        with the number of base batches seen and not with the number of updates
        (`optax.inject_hyperparams` calls it with updates, unless `static_args` names
        it).
      batch_scale: S, the global batch over the base batch that the recipe was tuned at,
        above 0; None: the number of microbatches.
      warmup_steps: θ, the length of the warm-up in base-batch steps; 0: no warm-up.
        It ends for a layer once the layer's gains sum to θ. The paper takes 5 % of the
        base run's steps.
      layers: which parameters are one layer, such as `optax_lena.per_module`.
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
    check_warmup_steps(warmup_steps)
    check_flag("reference", reference)
    rate = LayerRate(learning_rate, warmup=StateAwareWarmup(warmup_steps))
    rate = follow_authors(rate, batch_scale) if reference else rate
    buffer = links.buffer(momentum, nesterov, accumulator_dtype)
    decay = links.decay(weight_decay, weight_decay_mask)
    scale = scale_by_layer_rate(rate, batch_scale, layers=layers)
    return optax.chain(decay, buffer, scale, links.descent)
