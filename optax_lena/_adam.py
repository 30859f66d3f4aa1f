r"""Adam: the preconditioner under which its noise is measured, and the optimizer.

Adam divides every entry of the gradient by $\sqrt{\hat\nu}$ of its own, so a layer's
noise is that of the divided gradient; that of the raw gradient is the noise of a few
large entries. In: an optax state with Adam's. Out: one multiplier per entry, for the
gatherers. And `scale_by_lena` behind Adam.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from optax_lena import _noise, _warmup
from optax_lena._layers import Layers, parameter_names, per_parameter
from optax_lena._moments import PyTree, accumulation_dtype
from optax_lena._transform import BASE_STEPS, scale_by_lena

# 1 / ν̂ of k Gaussian gradients without a mean is an inverse chi-squared with k degrees
# of freedom: its mean is infinite for k < 3, its variance for k < 5. One such number
# in the moving averages would outweigh the next thousand updates. (AdaptDL: also 5.)
_MIN_UPDATES = 5


def adam_preconditioner(
    opt_state: Any,
    params: PyTree,
    *,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
) -> PyTree:
    r"""What Adam multiplies every entry of the gradient by: for the gatherers.

    $$p = \frac{1}{\sqrt{\hat\nu} + \epsilon}, \qquad
      \hat\nu = \frac{\nu}{1 - \beta_2^t}$$

    $\nu$ is that of the updates before this one: a $\nu$ that holds this very gradient
    would bias its moments. Two cases have no usable $\nu$ and get p = 0, which measures
    nothing. In the first 5 updates the variance of $1 / \hat\nu$ is infinite; all gains
    are then 1, the base batch's rate. (A p of 1 would put the raw gradient's norms, in
    other units, into the moving averages.) And to an entry that has had no gradient
    yet, such as a rare word's embedding, $\nu = 0$ would give a p of $1 / \epsilon$.

    The $\nu$ of a large batch is smaller than the base batch's: per entry it is
    $\mu^2 + \sigma^2 / S$. That is the metric in which this run's updates are made, and
    in it a layer's gain is the mean of its entries' own gains,

    $$\frac{\sum p^2 (\sigma^2 + \mu^2)}{\sum p^2 (\sigma^2 / S + \mu^2)}
      = \operatorname{mean}
        \frac{\sigma^2 + \mu^2}{\sigma^2 / S + \mu^2}$$

    Args:
      opt_state: an optax state with that of `optax.scale_by_adam` at any depth.
      params: the parameters that it was made for, or their shapes and dtypes.
      b2: the optimizer's.
      eps: the optimizer's.

    Returns:
      A pytree like the parameters, in float32 or wider; 1 for parameters that no Adam
      in `opt_state` trains (`optax.masked`, `optax.partition`).

    Raises:
      ValueError: if `opt_state` holds no state of Adam, or that of other parameters.

    Example:
      >>> import jax.numpy as jnp, optax, optax_lena
      >>> tx, params = optax.adam(0.1), {"w": jnp.zeros(2)}
      >>> state = tx.init(params)
      >>> for step in range(5):
      ...     _, state = tx.update({"w": jnp.array([0.5, 4.0])}, state, params)
      >>> p = optax_lena.adam_preconditioner(state, params)["w"]
      >>> print(p.round(3))
      [2.   0.25]
    """
    states = [
        state
        for state in jax.tree.leaves(opt_state, is_leaf=_is_adam)
        if _is_adam(state)
    ]
    if not states:
        raise ValueError(
            "`opt_state` must hold the state of optax.scale_by_adam, got none in "
            f"{jax.tree.structure(opt_state)}. Other optimizers take their moments "
            "without a preconditioner."
        )
    names, leaves = parameter_names(params), jax.tree.leaves(params)
    shapes = {n: jnp.shape(leaf) for n, leaf in zip(names, leaves, strict=True)}
    multipliers = {}
    for state in states:
        (count,) = jax.tree.leaves(state.count)  # nnx.Optimizer keeps it in a variable
        own = zip(parameter_names(state.nu), jax.tree.leaves(state.nu), strict=True)
        for parameter, nu in own:
            if shapes.get(parameter) != jnp.shape(nu):
                raise ValueError(
                    f"`params` must be those of `opt_state`, which has {parameter!r} "
                    f"of shape {jnp.shape(nu)}, got {shapes.get(parameter, 'none')} "
                    "there: pass the parameters that the optimizer was initialised "
                    "with."
                )
            multipliers[parameter] = _multiplier(nu, count, b2, eps)
    return jax.tree.unflatten(
        jax.tree.structure(params),
        [
            multipliers[name] if name in multipliers else _ones(leaf)
            for name, leaf in zip(names, leaves, strict=True)
        ],
    )


def _is_adam(node: Any) -> bool:
    return isinstance(node, optax.ScaleByAdamState)


def _multiplier(
    nu: jax.Array,
    count: jax.Array,
    b2: jax.typing.ArrayLike,
    eps: jax.typing.ArrayLike,
) -> jax.Array:
    nu = jnp.real(nu)
    nu = nu.astype(accumulation_dtype(nu))
    correction = 1 - jnp.asarray(b2, nu.dtype) ** jnp.maximum(count, 1)
    usable = (count >= _MIN_UPDATES) & (nu > 0)
    root = jnp.sqrt(jnp.where(usable, nu / correction, 1))
    return jnp.where(usable, 1 / (root + eps), 0).astype(nu.dtype)


def _ones(leaf: Any) -> jax.Array:
    return jnp.ones_like(leaf, dtype=jnp.finfo(accumulation_dtype(leaf)).dtype)


def lena_adamw(
    learning_rate: optax.ScalarOrSchedule,
    batch_scale: jax.typing.ArrayLike | None = None,
    *,
    warmup_steps: jax.typing.ArrayLike = 0,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    mu_dtype: Any = None,
    nesterov: bool = False,
    weight_decay: float = 1e-4,
    weight_decay_mask: Any = None,
    layers: Layers = per_parameter,
    rule: _noise.Rule = _noise.square_root_gain,
    warmup: str = _warmup.STATE_AWARE,
    clock: str = BASE_STEPS,
    horizon: float = 1000.0,
) -> optax.GradientTransformationExtraArgs:
    r"""AdamW whose every layer finds its own rate and warm-up.

    $$w_k \leftarrow w_k - \eta \cdot \sqrt{\text{gain}_k(S)} \cdot
      \min(1, \text{progress}_k / \theta) \cdot
      \left( \frac{\hat m_k}{\sqrt{\hat \nu_k} + \epsilon} + \lambda w_k \right)$$

    Take the moments with `preconditioner=adam_preconditioner(opt_state, params)`:
    without it the update works too, but the gains are those of plain SGD.

    The square root: a batch of S shrinks $\sqrt{\hat\nu}$ to
    $\sqrt{\sigma^2 / S + \mu^2}$, so Adam itself steps $\sqrt{\text{gain}}$ times as
    far along the true gradient. The rate has to bring the other half of the gain.

    With a `batch_scale` of 1 and no warm-up it is `optax.adamw`.

    Args:
      learning_rate: η, the small batch's rate, or its schedule, which then runs on
        `clock` and not on the number of updates.
      batch_scale: S, the global batch over the base batch; see `scale_by_lena`.
      warmup_steps: θ, in base-batch steps; see `scale_by_lena`.
      b1: β1. Like β2, it counts updates and not base-batch steps.
      b2: β2; pass it to `adam_preconditioner` too.
      eps: ε; pass it to `adam_preconditioner` too.
      mu_dtype: of the first moment, as in `optax.adamw`; a name such as `"bfloat16"`
        also passes `optax.inject_hyperparams`.
      nesterov: whether the first moment is Nesterov's.
      weight_decay: λ, decoupled, and scaled by the layer's rate as the update is:
        an update of S base batches decays by $\eta \lambda \sqrt{\text{gain}}$. For as
        much decay per example as the base batch has where noise dominates (a gain of
        S), pass $\lambda \sqrt S$.
      weight_decay_mask: what decays, as in `optax.add_decayed_weights`: usually not
        biases and norms. Their gains need no mask: the noise of each is its own.
      layers: what one layer is; see `scale_by_lena`.
      rule: how the gain becomes a trust ratio; see `scale_by_lena`.
      warmup: what the warm-up counts; see `scale_by_lena`.
      clock: what a schedule runs on; see `scale_by_lena`.
      horizon: of the moving averages; see `scale_by_lena`.

    Returns:
      The optimizer. Its `update` takes the keyword argument `moments`.

    Raises:
      ValueError: where an argument is out of its range.

    Example:
      >>> import jax, jax.numpy as jnp, optax, optax_lena
      >>> x = jax.random.normal(jax.random.key(0), (64, 8))
      >>> loss = lambda w, x: jnp.mean((x @ w - x[:, 0]) ** 2)
      >>> gather = optax_lena.value_and_grad(loss, num_microbatches=16)
      >>> tx = optax_lena.lena_adamw(0.02, batch_scale=16)
      >>> params = jnp.zeros(8)
      >>> state = tx.init(params)
      >>> for step in range(21):
      ...     p = optax_lena.adam_preconditioner(state, params)
      ...     value, grads, moments = gather(params, x, preconditioner=p)
      ...     updates, state = tx.update(grads, state, params, moments=moments)
      ...     params = optax.apply_updates(params, updates)
      ...     if step % 10 == 0:
      ...         print(f"{value:.3f}")
      0.814
      0.252
      0.015

    References:
      Loshchilov, Hutter, *Decoupled Weight Decay Regularization*, ICLR 2019;
      `AdamScale` in `scaling_rules.py` of AdaptDL; Malladi et al., *On the SDEs and
      Scaling Rules for Adaptive Gradient Algorithms*, NeurIPS 2022.
    """
    is_schedule = callable(learning_rate)
    return optax.chain(
        optax.scale_by_adam(b1, b2, eps, mu_dtype=mu_dtype, nesterov=nesterov),
        optax.add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_lena(
            batch_scale,
            warmup_steps=warmup_steps,
            layers=layers,
            rule=rule,
            warmup=warmup,
            schedule=learning_rate if is_schedule else None,
            clock=clock,
            horizon=horizon,
        ),
        optax.scale_by_learning_rate(1.0 if is_schedule else learning_rate),
    )
