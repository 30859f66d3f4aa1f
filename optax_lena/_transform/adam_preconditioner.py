r"""Adam's metric: the norm in which the noise of its gradients is measured.

Adam divides every entry of the gradient by its root mean square $\sqrt{\hat\nu}$, so a
layer's noise is that of the divided gradient; that of the raw gradient is the noise of
a few large entries. In: an optax state with Adam's state in it. Out: one multiplier per
entry, for the gatherers of the next update.
"""

import numbers
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optax_lena._checks import check_beta, check_eps, shown
from optax_lena._dtypes import accumulation_dtype, is_key
from optax_lena._measure.parameters import leaves_by_name
from optax_lena._transform.scale_by_adam import AdamState
from optax_lena._types import PyTree

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
    r"""Returns what Adam multiplies every entry of the gradient by, for the gatherers.

    $$p = \frac{1}{\sqrt{\hat\nu} + \epsilon}, \qquad
      \hat\nu = \frac{\nu}{1 - \beta_2^t}$$

    $\nu$ is what the updates before this one left: a $\nu$ that includes this gradient
    would bias its moments. Two cases have no usable $\nu$ and get p = 0, which measures
    nothing. In the first 5 updates the variance of $1 / \hat\nu$ is infinite; all gains
    are then 1, for the base batch's rate. (A p of 1 would put the raw gradient's norms,
    in other units, into the moving averages.) And for an entry without a gradient so
    far, such as a rare word's embedding, $\nu = 0$ would give a p of $1 / \epsilon$.

    The $\nu$ of a large batch is smaller than the base batch's: per entry it is
    $\mu^2 + \sigma^2 / S$. That is the metric in which this run's updates are made, and
    in it the gain of a layer is the mean of the gains of its entries,

    $$\frac{\sum p^2 (\sigma^2 + \mu^2)}{\sum p^2 (\sigma^2 / S + \mu^2)}
      = \operatorname{mean}
        \frac{\sigma^2 + \mu^2}{\sigma^2 / S + \mu^2}$$

    Args:
      opt_state: an optax state with one of `optax_lena.scale_by_adam`, as
        `lena_adamw` has it, or of `optax.scale_by_adam`, at any depth. The `eps_root`
        of the latter is not read. Not that of `optax.adamax`: it has the same type, but
        a maximum in place of the square, and the factors would be wrong.
      params: the parameters that the state was made for, or their shapes and dtypes.
      b2: β2 as it was given to `optax.scale_by_adam`, whose state does not hold it. Not
        read for `optax_lena.scale_by_adam`, whose state does.
      eps: ε, likewise.

    Returns:
      A pytree like the parameters, in float32 or wider; 1 for parameters that no Adam
      in `opt_state` trains (`optax.masked`, `optax.partition`).

    Raises:
      ValueError: if `opt_state` holds no state of Adam, or that of other parameters,
        or a number is out of its range.
      TypeError: if `params` hold anything but arrays.

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
    check_beta("b2", b2)
    check_eps(eps)
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
    leaves = leaves_by_name(params)
    _check_arrays(leaves)
    shapes = {name: jnp.shape(leaf) for name, leaf in leaves.items()}
    multipliers = {}
    for state in states:
        found = _count_weight_eps(state, b2, eps)
        for parameter, nu in leaves_by_name(state.nu).items():
            if shapes.get(parameter) != jnp.shape(nu):
                raise ValueError(
                    f"`params` must be those of `opt_state`, which has {parameter!r} "
                    f"of shape {jnp.shape(nu)}, got {shapes.get(parameter, 'none')} "
                    "there: pass the parameters that the optimizer was initialised "
                    "with."
                )
            multipliers[parameter] = _multiplier(nu, *found)
    return jax.tree.unflatten(
        jax.tree.structure(params),
        [
            multipliers[name] if name in multipliers else _ones(leaf)
            for name, leaf in leaves.items()
        ],
    )


def _check_arrays(leaves: dict[str, Any]) -> None:
    for name, leaf in leaves.items():
        if is_key(leaf):
            raise TypeError(
                f"`params` must hold parameters only, got a PRNG key at {name!r}: pass "
                "what is differentiated, such as nnx.state(model, nnx.Param) of an nnx "
                "model."
            )
        if not hasattr(leaf, "shape") and not isinstance(leaf, numbers.Number):
            raise TypeError(
                f"`params` must hold arrays, got {shown(leaf)} at parameter {name!r}: "
                "pass what is differentiated, such as eqx.filter(model, "
                "eqx.is_inexact_array) of an Equinox model."
            )


def _is_adam(node: Any) -> bool:
    return isinstance(node, (AdamState, optax.ScaleByAdamState))


def _count_weight_eps(
    state: AdamState | optax.ScaleByAdamState,
    b2: jax.typing.ArrayLike,
    eps: jax.typing.ArrayLike,
) -> tuple[jax.Array, jax.typing.ArrayLike, jax.typing.ArrayLike]:
    """Returns the updates so far, the weight that ν has gathered in them, and ε."""
    (count,) = jax.tree.leaves(state.count)  # nnx.Optimizer keeps it in a variable
    if isinstance(state, AdamState):
        return count, *jax.tree.leaves((state.nu_weight, state.scaled_eps))
    return count, 1 - jnp.asarray(b2, jnp.float32) ** count, eps


def _multiplier(
    nu: jax.Array,
    count: jax.Array,
    weight: jax.typing.ArrayLike,
    eps: jax.typing.ArrayLike,
) -> jax.Array:
    nu = jnp.real(nu)
    nu = nu.astype(accumulation_dtype(nu))
    usable = (count >= _MIN_UPDATES) & (nu > 0)
    root = jnp.sqrt(jnp.where(usable, nu / jnp.where(usable, weight, 1), 1))
    return jnp.where(usable, 1 / (root + eps), 0).astype(nu.dtype)


def _ones(leaf: Any) -> jax.Array:
    return jnp.ones_like(leaf, dtype=jnp.finfo(accumulation_dtype(leaf)).dtype)
