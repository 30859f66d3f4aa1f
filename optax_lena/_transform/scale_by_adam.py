r"""Adam's direction, whose averages count examples and not updates.

In: gradients, and S. Out: what `optax.scale_by_adam` returns, to the last bit at
S = 1, and at another S with averages that forget S times as much. S may change in
mid-run: the bias of a start at zero is the product of all decays so far,
$\prod \beta(S_t) = \beta^{\sum r_t}$; the sum of the forgotten steps $r_t$ is kept.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from optax_lena._checks import (
    check_batch_scale,
    check_beta,
    check_dtype,
    check_eps,
    check_flag,
)
from optax_lena._dtypes import add, cast_like, multiply, without_dtype
from optax_lena._parts.clocks import Count
from optax_lena._parts.memory import FIRST_FLOOR, SECOND_FLOOR, Forgotten, Memory
from optax_lena._transform.batch_scale import scale_of
from optax_lena._transformation import transformation
from optax_lena._types import PyTree


class AdamState(NamedTuple):
    """State of `scale_by_adam`.

    Attributes:
      count: int32 `()`, the number of updates.
      mu: the average of the gradients.
      nu: the average of their squares.
      mu_steps: how many base-batch steps `mu` has forgotten.
      nu_steps: likewise, of `nu`.
      nu_weight: float32 `()`, the weight that `nu` has gathered, in [0, 1).
      scaled_eps: float32 `()`, ε / √S of the last update.
    """

    count: jax.Array
    mu: PyTree
    nu: PyTree
    mu_steps: Count
    nu_steps: Count
    nu_weight: jax.Array
    scaled_eps: jax.Array


class _Options(NamedTuple):
    first: Memory
    second: Memory
    eps: ArrayLike
    mu_dtype: Any
    nesterov: bool
    batch_scale: ArrayLike | None


def scale_by_adam(
    batch_scale: ArrayLike | None = None,
    *,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    mu_dtype: Any = None,
    nesterov: bool = False,
    b1_floor: ArrayLike = FIRST_FLOOR,
    b2_floor: ArrayLike = SECOND_FLOOR,
) -> optax.GradientTransformationExtraArgs:
    r"""Does `optax.scale_by_adam` over the same number of examples at every S.

    $$m \leftarrow \beta_1(S)\, m + (1 - \beta_1(S))\, g, \qquad
      \nu \leftarrow \beta_2(S)\, \nu + (1 - \beta_2(S))\, g^2, \qquad
      u = \frac{\hat m}{\sqrt{\hat\nu} + \epsilon / \sqrt S}$$

    with $\beta(S) = \beta^S$, but at least the floor (`optax_lena.decay_at`).
    With a `batch_scale` of 1 it is `optax.scale_by_adam`.

    Args:
      batch_scale: S, the batch in base batches, above 0; None: the number of
        microbatches, in the update's `moments`.
      b1: β1 at the base batch.
      b2: β2 at the base batch.
      eps: ε at the base batch. With S it shrinks as $\sqrt{\hat\nu}$ does where noise
        dominates.
      mu_dtype: the dtype of the first average, as in `optax.adam`.
      nesterov: whether to use Nesterov momentum.
      b1_floor: the least β1 that a larger batch leads to; `b1` itself: β1 is the same
        at every S above 1.
      b2_floor: likewise, of β2.

    Returns:
      The transformation. Its `update` takes the keyword argument `moments`, and needs
      it if `batch_scale` is None.

    Raises:
      ValueError: where an argument is out of its range.
      TypeError: from `update`, if S is None and it is given no moments.

    Example:
      >>> import jax.numpy as jnp, optax_lena
      >>> tx = optax_lena.scale_by_adam(64, b2=0.99, b2_floor=0.5)
      >>> state = tx.init(jnp.zeros(()))
      >>> for gradient in (1.0, 0.1):
      ...     u, state = tx.update(jnp.array(gradient), state)
      >>> print(f"{u:.2f}")  # 0.99 ** 64 of the first square is left
      0.84

    References:
      Malladi et al., *On the SDEs and Scaling Rules for Adaptive Gradient Algorithms*,
      NeurIPS 2022; Marek et al., *Small Batch Size Training for Language Models*, 2025.
    """
    check_batch_scale(batch_scale)
    check_beta("b1", b1)
    check_beta("b2", b2)
    check_beta("b1_floor", b1_floor)
    check_beta("b2_floor", b2_floor)
    check_eps(eps)
    check_dtype("mu_dtype", mu_dtype)
    check_flag("nesterov", nesterov)
    options = _Options(
        Memory(b1, b1_floor), Memory(b2, b2_floor), eps, mu_dtype, nesterov, batch_scale
    )
    return transformation(
        functools.partial(_init, options),
        functools.partial(_update, options),
        AdamState,
    )


def _init(options: _Options, params: PyTree) -> AdamState:
    return AdamState(
        count=jnp.zeros((), jnp.int32),
        mu=optax.tree.zeros_like(params, dtype=options.mu_dtype),
        nu=optax.tree.zeros_like(params),
        mu_steps=Count.zeros(),
        nu_steps=Count.zeros(),
        nu_weight=jnp.zeros((), jnp.float32),
        # A copy: `inject_hyperparams` keeps the same array, which may be donated.
        scaled_eps=jnp.array(options.eps, jnp.float32),
    )


def _update(
    options: _Options,
    grads: PyTree,
    state: AdamState,
    params: PyTree | None = None,
    **extra_args: Any,
) -> tuple[PyTree, AdamState]:
    del params
    batch_scale = scale_of(options.batch_scale, **extra_args)
    mean, mu, mu_steps = average(
        options.first, grads, state.mu, state.mu_steps, batch_scale, options.nesterov
    )
    second = options.second.forget(batch_scale)
    nu = jax.tree.map(
        lambda old, new: _move(second, old, _abs_sq(new)), state.nu, grads
    )
    nu_steps = state.nu_steps.add(_as_float32(second.steps))
    corrected = _over_weight(nu, options.second, nu_steps)
    eps = _as_float32(options.eps / jnp.sqrt(batch_scale))
    direction = jax.tree.map(
        lambda m, v: m / (jnp.sqrt(v) + without_dtype(eps, v)), mean, corrected
    )
    weight = 1 - options.second.decay ** nu_steps.read()
    return direction, AdamState(
        count=jnp.asarray(optax.safe_increment(state.count)),
        mu=cast_like(mu, state.mu),
        nu=cast_like(nu, state.nu),
        mu_steps=mu_steps,
        nu_steps=nu_steps,
        nu_weight=_as_float32(weight),
        scaled_eps=eps,
    )


def average(
    memory: Memory,
    grads: PyTree,
    mu: PyTree,
    steps: Count,
    batch_scale: ArrayLike,
    nesterov: bool,
) -> tuple[PyTree, PyTree, Count]:
    """Averages gradients.

    Args:
      memory: the average's decay and its floor.
      grads: the batch's gradients.
      mu: the average so far, from a start at zero.
      steps: how many base-batch steps it has forgotten.
      batch_scale: S.
      nesterov: whether to return what the average will be after one more such gradient.

    Returns:
      The average corrected for the bias of its start, the average itself, and the steps
      that it has forgotten by now.
    """
    moved = memory.forget(batch_scale)
    mu = jax.tree.map(functools.partial(_move, moved), mu, grads)
    steps = steps.add(_as_float32(moved.steps))
    if not nesterov:
        return _over_weight(mu, memory, steps), mu, steps
    mean = _over_weight(mu, memory, steps.add(_as_float32(moved.steps)))
    new = _over_weight(grads, memory, steps)
    return jax.tree.map(functools.partial(_ahead, moved), mean, new), mu, steps


def _over_weight(average: PyTree, memory: Memory, steps: Count) -> PyTree:
    return optax.tree.bias_correction(average, memory.decay, steps.read())


# The order of the terms and the dtypes of the numbers are those of optax, for its bits.
def _move(moved: Forgotten, old: jax.Array, new: jax.Array) -> jax.Array:
    return add(multiply(moved.added, new), multiply(moved.kept, old))


def _ahead(moved: Forgotten, old: jax.Array, new: jax.Array) -> jax.Array:
    return add(multiply(moved.kept, old), multiply(moved.added, new))


def _as_float32(number: ArrayLike) -> jax.Array:
    return jnp.asarray(number, jnp.float32)


def _abs_sq(x: jax.Array) -> jax.Array:
    return x.real**2 + x.imag**2 if jnp.iscomplexobj(x) else x**2
