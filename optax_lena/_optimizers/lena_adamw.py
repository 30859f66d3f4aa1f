"""AdamW with a rate and a warm-up for every layer."""

from typing import Any

import jax
import optax

from optax_lena._measure.layers import Layers, per_parameter
from optax_lena._optimizers import links
from optax_lena._parts.backoff import Backoff
from optax_lena._transform.scale_by_adam import scale_by_adam


def lena_adamw(
    learning_rate: optax.ScalarOrSchedule,
    batch_scale: jax.typing.ArrayLike | None = None,
    *,
    warmup_steps: jax.typing.ArrayLike = 0,
    layers: Layers = per_parameter,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    mu_dtype: Any = None,
    nesterov: bool = False,
    weight_decay: float | jax.Array = 1e-4,
    weight_decay_mask: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""AdamW in which every layer finds its own rate, and averages count examples.

    $$w_k \leftarrow w_k - \eta \cdot \text{ratio}_k(t) \cdot
      \min(1, \text{progress}_k / \theta) \cdot \left( \frac{\hat m_k}
      {\sqrt{\hat \nu_k} + \epsilon / \sqrt S} + \lambda w_k \right)$$

    $$\text{ratio}_k(t) = \min\Bigl(\sqrt S, \frac{r_k}{\sqrt{\text{gain}_k(S)}},
      1.1 \cdot \text{ratio}_k(t - 1)\Bigr), \qquad
      \beta_1(S) = \max(\beta_1^S, 0.8), \quad \beta_2(S) = \max(\beta_2^S, 0.9)$$

    Take the moments with `preconditioner=adam_preconditioner(opt_state, params)`:
    without it the update works too, but with the gains of plain SGD.

    $r_k$ is what the update is worth to the layer, in base-batch steps: the gain for
    eight times the noise (`normalised_gain`). Adam by itself goes $\sqrt{\text{gain}}$
    times as far along the true gradient as with the base batch, because
    $\sqrt{\hat\nu}$ shrinks to $\sqrt{\sigma^2 / S + \mu^2}$; the rate supplies the
    rest. The averages forget as much in an update as in S updates of the base batch,
    but keep at least what the floors say; S may change in mid-run. (A ratio is at most
    1 where S is below 1.) A layer's ratio starts at 1 and grows by at most a tenth per
    update. If updates are given the loss, the ratios are cut, and then grow again, when
    both the gradient and the loss are above their usual values (`Backoff`), and noise
    counts for less after the loss has risen (`LossLimit`).

    With a `batch_scale` of 1 and no warm-up it is `optax.adamw`, to the last bit
    in float32.

    Args:
      learning_rate: η, the rate of AdamW at the base batch, or its schedule over base
        batches (`optax.inject_hyperparams` calls it with updates, unless `static_args`
        names it).
      batch_scale: S, the global batch over the base batch that the recipe was tuned at,
        above 0; None: the number of microbatches.
      warmup_steps: θ, the length of the warm-up in base-batch steps; 0: no warm-up.
        It ends for a layer once the layer's gains sum to θ.
      layers: which parameters are one layer, such as `optax_lena.per_module`.
      b1: β1 at the base batch; where S is above 1, it becomes max(β1^S, 0.8), unless it
        is below 0.8.
      b2: β2 at the base batch; where S is above 1, it becomes max(β2^S, 0.9), unless it
        is below 0.9.
      eps: ε at the base batch.
      mu_dtype: the dtype of the first moment, as in `optax.adamw`; a name such as
        `"bfloat16"` also passes `optax.inject_hyperparams`. None: that of the
        parameters.
      nesterov: whether to use Nesterov momentum.
      weight_decay: λ, decoupled, and scaled by the layer's rate as the update is. A
        decay by S steps in every update, as in the averages, lost much accuracy where
        it was tried (docs/adamw_results.md).
      weight_decay_mask: which parameters decay: a pytree of booleans, or a function of
        the parameters that returns one; None: all.
        Biases and norms usually do not. Their gains need no mask: each has its own
        noise.

    Returns:
      An optimizer that needs the moments of the gradient, and is safer with the loss of
      the whole batch: `update(..., moments=moments, value=loss)`.

    Raises:
      ValueError: where an argument is out of its range.
      TypeError: from `update`, if it is given no moments.

    Warns:
      RuntimeWarning: from `update`, if the moments are without the preconditioner.

    Example:
      >>> import jax, jax.numpy as jnp, optax, optax_lena
      >>> data = jax.random.normal(jax.random.key(0), (64, 8))
      >>> tx = optax_lena.lena_adamw(0.02, batch_scale=16)
      >>> def loss_fn(w, batch):
      ...     return jnp.mean((batch @ w - batch[:, 0]) ** 2)
      >>> loss_and_grad = optax_lena.value_and_grad(loss_fn, 16)
      >>> def step(carry, _):
      ...     w, state = carry
      ...     p = optax_lena.adam_preconditioner(state, w)
      ...     loss, grads, moments = loss_and_grad(w, data, preconditioner=p)
      ...     updates, state = tx.update(grads, state, w, moments=moments, value=loss)
      ...     return (optax.apply_updates(w, updates), state), loss
      >>> w = jnp.zeros(8)
      >>> _, losses = jax.lax.scan(step, (w, tx.init(w)), length=41)
      >>> print(*(f"{loss:.2f}" for loss in losses[::40]))
      0.81 0.00

    References:
      Loshchilov, Hutter, *Decoupled Weight Decay Regularization*, ICLR 2019;
      Malladi et al., *On the SDEs and Scaling Rules for Adaptive Gradient Algorithms*,
      NeurIPS 2022; Marek et al., *Small Batch Size Training for Language Models*, 2025;
      `AdamScale` in `scaling_rules.py` of AdaptDL.
    """
    rate = links.normalised_rate(learning_rate, warmup_steps, Backoff())
    scale = links.scale_by_normalised_rate(rate, batch_scale, layers)
    adam = scale_by_adam(
        batch_scale, b1=b1, b2=b2, eps=eps, mu_dtype=mu_dtype, nesterov=nesterov
    )
    decay = links.decay(weight_decay, weight_decay_mask)
    return optax.chain(adam, decay, scale, links.descent)
