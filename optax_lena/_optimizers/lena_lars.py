r"""LARS with LENA: two ratios, one on either side of the momentum buffer.

LARS's ratio scales every layer's gradient to the length of its weights, which has to
happen before the buffer averages gradients. LENA's gain and warm-up multiply what
leaves the buffer: they may change from update to update, and a buffer holds gradients.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_lena._checks import check_rate, check_warmup_steps
from optax_lena._measure.layers import Layers, per_parameter
from optax_lena._optimizers import links
from optax_lena._parts.layer_rate import LayerRate, evaluate
from optax_lena._parts.rules import square_root_gain
from optax_lena._parts.warmup import StateAwareWarmup
from optax_lena._transform.lars import scale_by_lars_ratio
from optax_lena._transform.scale_by_lena import scale_by_layer_rate
from optax_lena._transformation import transformation
from optax_lena._types import PyTree


class LenaLarsState(NamedTuple):
    """State of `lena_lars`.

    Attributes:
      decay: the state of the weight decay.
      lars: the state of LARS's ratio: masks and no arrays.
      buffer: the momentum, of gradients that have LARS's ratio and the rate.
      lena: the `ScaleByLenaState`, after the buffer.
    """

    decay: Any
    lars: Any
    buffer: Any
    lena: Any


def lena_lars(
    learning_rate: optax.ScalarOrSchedule,
    batch_scale: jax.typing.ArrayLike | None = None,
    *,
    warmup_steps: jax.typing.ArrayLike = 0,
    layers: Layers = per_parameter,
    trust_coefficient: jax.typing.ArrayLike = 0.001,
    eps: jax.typing.ArrayLike = 0.0,
    trust_ratio_mask: Any = None,
    momentum: float | jax.Array | None = 0.9,
    nesterov: bool = False,
    accumulator_dtype: Any = None,
    weight_decay: float | jax.Array = 0.0,
    weight_decay_mask: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""LARS in which every layer finds its own rate and warm-up.

    The two ratios stand on either side of the momentum buffer:

    $$g \leftarrow \bar g + \lambda w, \qquad
      m_k \leftarrow \beta m_k + \eta \cdot
        c \frac{\lVert w_k \rVert}{\lVert g_k \rVert + \epsilon} \cdot g_k, \qquad
      w_k \leftarrow w_k - \sqrt{\text{gain}_k(S)} \cdot
        \min(1, \text{progress}_k / \theta) \cdot m_k$$

    LARS's ratio and the rate (at the clock of this update) enter the buffer, as in
    `optax.lars`, which this is with a `batch_scale` of 1 and no warm-up. LENA's gain
    and warm-up multiply what leaves it, as in `optax_lena.lena`.

    The square root: a batch of S shrinks $\lVert \bar g \rVert$ to
    $\sqrt{\sigma^2 / S + \lVert\mu\rVert^2}$, so LARS itself steps $\sqrt{\text{gain}}$
    times as far along the true gradient. With the whole gain on top
    a noisy layer would go $\sqrt S$ times too far.

    Args:
      learning_rate: η, the rate that LARS was tuned to at the base batch, or its
        schedule, called with the base batches seen.
      batch_scale: S, the global batch over the base batch that the recipe was tuned at,
        above 0; None: the number of microbatches.
      warmup_steps: θ, the length of the warm-up in base-batch steps; 0: no warm-up.
        It ends for a layer once the layer's gains sum to θ.
      layers: which parameters are one layer, such as `optax_lena.per_module`.
        LARS's ratio is each parameter's own, or each slice's of one that
        `optax_lena.stacked` selects.
      trust_coefficient: c, on LARS's ratio.
      eps: ε, in the denominator of LARS's ratio.
      trust_ratio_mask: which parameters have LARS's ratio: a pytree of booleans that is
        a prefix of the parameters, or a function of them; None: all. Biases and norms
        are usually left out. They keep the gain and the warm-up, but take steps of SGD,
        for which the square root is cautious. (`trust_ratio` in reports is LENA's.)
      momentum: β, the share of the momentum buffer that is kept, in [0, 1); None: no
        buffer.
      nesterov: whether to use Nesterov momentum.
      accumulator_dtype: the dtype of the momentum buffer; None: the parameters' dtype.
      weight_decay: λ; the parameters times λ are added to the gradient, in front of
        LARS's ratio.
      weight_decay_mask: which parameters decay: a pytree of booleans, or a function of
        the parameters that returns one; None: all.

    Returns:
      The optimizer. Its `update` takes the parameters, and the keyword argument
      `moments`.

    Raises:
      ValueError: where an argument is out of its range; from `update`, if it gets no
        `params`.
      TypeError: from `update`, if it is given no moments.

    Example:
      >>> import jax.numpy as jnp, optax_lena
      >>> params = {"w": jnp.array([3.0, 4.0])}
      >>> stack = {"w": jnp.array([[3.0, 1.0], [-3.0, 1.0], [3.0, 1.0], [-3.0, 1.0]])}
      >>> grads, moments = optax_lena.moments_from_stack(stack)
      >>> tx = optax_lena.lena_lars(0.1, 4, trust_coefficient=0.2, momentum=0.0)
      >>> updates, state = tx.update(grads, tx.init(params), params, moments=moments)
      >>> gain = optax_lena.layer_report(state)["w"]["gain"]
      >>> print(gain, updates["w"])  # 0.1 * 0.2 * |w| against grads, times sqrt(gain)
      4.0 [ 0.  -0.2]

    References:
      You, Gitman, Ginsburg, *Large Batch Training of Convolutional Networks*, 2017.
    """
    check_rate(learning_rate)
    check_warmup_steps(warmup_steps)
    gain = LayerRate(rule=square_root_gain, warmup=StateAwareWarmup(warmup_steps))
    lena = scale_by_layer_rate(gain, batch_scale, layers=layers)
    lars = scale_by_lars_ratio(trust_coefficient, eps, layers, trust_ratio_mask)
    decay = links.decay(weight_decay, weight_decay_mask)
    buffer = links.buffer(momentum, nesterov, accumulator_dtype)
    txs = _Transformations(decay, lars, buffer, lena)
    init = functools.partial(_init, txs)
    update = functools.partial(_update, txs, learning_rate)
    return transformation(init, update, LenaLarsState)


class _Transformations(NamedTuple):
    # Of any type: in optax's types a state is any tree, and these are known.
    decay: Any
    lars: Any
    buffer: Any
    lena: Any


def _init(txs: _Transformations, params: PyTree) -> LenaLarsState:
    return LenaLarsState(*(tx.init(params) for tx in txs))


def _update(
    txs: _Transformations,
    learning_rate: optax.ScalarOrSchedule,
    updates: PyTree,
    state: LenaLarsState,
    params: PyTree | None = None,
    **extra_args: Any,
) -> tuple[PyTree, LenaLarsState]:
    # No chain: the rate stands before the buffer, and its clock behind.
    rate = evaluate(learning_rate, state.lena.clocks.base_steps)
    updates, decay = txs.decay.update(updates, state.decay, params)
    updates, lars = txs.lars.update(updates, state.lars, params, **extra_args)
    updates = jax.tree.map(lambda u: jnp.asarray(-rate, u.dtype) * u, updates)
    updates, buffer = txs.buffer.update(updates, state.buffer)
    updates, lena = txs.lena.update(updates, state.lena, params, **extra_args)
    # For the reports: the rate of what stands behind the buffer is 1.
    rate = jnp.array(rate, jnp.float32)  # a copy, as JAX does not donate it twice
    applied = lena.applied._replace(
        schedule=rate, layer_rate=rate * lena.applied.layer_rate
    )
    lena = lena._replace(applied=applied)
    return updates, LenaLarsState(decay, lars, buffer, lena)
