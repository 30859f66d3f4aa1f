"""LENA as one optax transformation: moments in, scaled updates out.

Thin plumbing around a `LayerRate`, which decides the rates.
"""

import functools
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optax_lena._checks import (
    check_batch_scale,
    check_flag,
    check_loss,
    check_rate,
    check_warmup_steps,
)
from optax_lena._masks import is_masked
from optax_lena._measure.layers import (
    Layers,
    check_layers,
    per_parameter,
    unused_patterns,
)
from optax_lena._measure.layout import Layout, layout_of, scale_leaves
from optax_lena._measure.moments import (
    GradMoments,
    align_norms,
    check_count,
    check_moments,
)
from optax_lena._measure.parameters import check_inexact
from optax_lena._parts.estimate import Measured, measure, not_measured
from optax_lena._parts.layer_rate import LayerRate
from optax_lena._parts.reference import follow_authors
from optax_lena._parts.rules import Rule, capped_gain
from optax_lena._parts.warmup import StateAwareWarmup
from optax_lena._transform.batch_scale import scale_of
from optax_lena._transform.rows import follow_names
from optax_lena._transform.state import ScaleByLenaState, named
from optax_lena._transformation import transformation
from optax_lena._types import PyTree


def scale_by_lena(
    batch_scale: jax.typing.ArrayLike | None = None,
    *,
    warmup_steps: jax.typing.ArrayLike = 0,
    layers: Layers = per_parameter,
    rule: Rule = capped_gain,
    schedule: optax.ScalarOrSchedule | None = None,
    reference: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Scales every layer's update by its trust ratio and its warm-up factor.

    $$u_k \leftarrow \text{rule}(\text{estimate}_k, S) \cdot
      \min(1, \text{progress}_k / \theta) \cdot u_k$$

    In the paper it follows the momentum buffer and precedes the learning rate: the
    buffer holds gradients, and a change of the rate takes effect at once. In front of
    the buffer (as in `lena_amplified`) every gradient keeps the rate of its own update.

    The update needs the moments of the gradient, as a keyword argument:
    `update(updates, state, params, moments=moments)`. `optax_lena.value_and_grad`
    returns them with the gradients.

    These are the paper's parts. `optax_lena.scale_by_layer_rate` takes any others.

    Args:
      batch_scale: S, the global batch over the base batch that the recipe was tuned
        at; a number above 0, or a scalar array, which may change between updates
        (`optax.inject_hyperparams`). None: the number of microbatches.
      warmup_steps: θ, the length of the warm-up in base-batch steps. The paper takes
        5 % of the base run's steps. 0: no warm-up.
      layers: which parameters are one layer: `per_parameter`, `per_module`,
        `whole_model`, `by_regex(...)`, `stacked(...)`.
      rule: how the estimate of noise and signal becomes a trust ratio: `capped_gain`,
        `amplified_gain`, `square_root_gain`, `normalised_gain`, `linear`, or a `Rule`
        of your own.
      schedule: also multiplies by `schedule(base_steps)`, so that a schedule written
        for the small batch needs no change. It is evaluated before the update is
        counted. None: no factor.
      reference: follow the authors' code where it differs from their paper: progress
        is counted after it is used, a layer at its cap progresses by the whole model's
        gain, and 1e-6 is added to both moving averages, which then are not scale-free.

    Returns:
      The transformation, whose `update` takes the keyword argument `moments`. A layer
      whose moments are not finite keeps its averages and its progress, and so do all
      layers in an update with a batch that is all padding.

    Raises:
      ValueError: where an argument is out of its range.
      TypeError: from `update`, if it is given no moments.

    Example:
      >>> import jax.numpy as jnp, optax, optax_lena
      >>> params = {"w": jnp.zeros(2)}
      >>> stack = {"w": jnp.array([[1.0, 0.0], [0.0, 1.0]])}  # two microbatches
      >>> grads, moments = optax_lena.moments_from_stack(stack)
      >>> tx = optax.chain(
      ...     optax.trace(0.9), optax_lena.scale_by_lena(2), optax.scale(-0.1)
      ... )
      >>> updates, _ = tx.update(grads, tx.init(params), params, moments=moments)
      >>> print(grads["w"], updates["w"])  # only noise: a gain of 2
      [0.5 0.5] [-0.1 -0.1]

    References:
      Ko, Lee, Kim, *Not All Layers Are Equal*, WWW 2022, Eq. 4 and Algorithm 1.
    """
    check_warmup_steps(warmup_steps)
    check_flag("reference", reference)
    if schedule is not None:
        check_rate(schedule, "schedule")
    rate = LayerRate(
        learning_rate=1.0 if schedule is None else schedule,
        rule=rule,
        warmup=StateAwareWarmup(warmup_steps),
    )
    if reference:
        rate = follow_authors(rate, batch_scale)
    return scale_by_layer_rate(rate, batch_scale, layers=layers)


def scale_by_layer_rate(
    rate: LayerRate,
    batch_scale: jax.typing.ArrayLike | None = None,
    *,
    layers: Layers = per_parameter,
) -> optax.GradientTransformationExtraArgs:
    r"""Scales every layer's update by the rate that a `LayerRate` decides.

    $$u_k \leftarrow \eta \cdot \text{trust\_ratio}_k \cdot
      \text{warmup\_factor}_k \cdot u_k$$

    One level below the optimizers of this library, most of which have it in an
    `optax.chain`. The sign does not change: put `optax.scale(-1.0)` into the chain.

    Args:
      rate: the parts: learning rate, clock, estimator, rule, warm-up, guard and loss
        limit.
      batch_scale: S, the global batch over the base batch; a number above 0, or a
        scalar array. None: the number of microbatches.
      layers: which parameters are one layer.

    Returns:
      The transformation, whose `update` takes the keyword argument `moments`, and needs
      it unless `rate.needs_moments` is false and `batch_scale` is given. It also takes
      `value`, the loss of the whole batch, which `LossLimit` and `Backoff` read, and
      `coherence` and `entered`, which a `SpikeLimit` reads: whether the last steps
      agree, and how much of the last one's squared length clipping has left. Where the
      moments come from two batches (`from_successive_gradients`),
      `gradient_sq_norm`, a pytree like `moments.batch_sq_norm`, says which part of them
      is this batch's own.

    Raises:
      ValueError: where an argument is out of its range.
      TypeError: from `update`, if it is given no moments.

    Example:
      >>> import jax.numpy as jnp, optax, optax_lena
      >>> rate = optax_lena.LayerRate(0.1, rule=optax_lena.square_root_gain)
      >>> tx = optax.chain(
      ...     optax_lena.scale_by_layer_rate(rate, batch_scale=4), optax.scale(-1.0)
      ... )
      >>> stack = {"w": jnp.array([[1.0, 1.0], [-0.5, 1.0]])}
      >>> grads, moments = optax_lena.moments_from_stack(stack)
      >>> _, state = tx.update(grads, tx.init(grads), moments=moments)
      >>> print(f"{optax_lena.metrics(state)['learning_rate/w']:.3f}")
      0.161
    """
    check_layers(layers)
    if not isinstance(rate, LayerRate):
        raise ValueError(
            "`rate` must be an optax_lena.LayerRate, such as LayerRate(0.1, "
            f"rule=optax_lena.capped_gain), got {rate!r}."
        )
    check_batch_scale(batch_scale)
    return transformation(
        functools.partial(_init, rate, layers),
        functools.partial(_update, rate, batch_scale, layers),
        ScaleByLenaState,
    )


def _init(rate: LayerRate, layers: Layers, params: PyTree) -> ScaleByLenaState:
    """Returns the state for these parameters, or for their shapes and dtypes."""
    check_inexact("params", params)
    layout = layout_of(layers, params)
    _check_patterns(layers, layout.parameters, params)
    return named(rate.init(len(layout.names) + 1), layout.names)


def _check_patterns(layers: Layers, parameters: Sequence[str], params: PyTree) -> None:
    """Warns of a regular expression that selects nothing.

    Gatherer and transformation get the same rule, so that nothing else would tell. In
    one part of `optax.partition` a pattern may well be meant for another part.
    """
    nodes = jax.tree.leaves(params, is_leaf=is_masked)
    unused = unused_patterns(layers, parameters)
    if unused and parameters and not any(map(is_masked, nodes)):
        warnings.warn(
            f"`layers` has the pattern {unused[0]!r}, which is found in no parameter's "
            f"name, such as {', '.join(parameters[:4])}: it selects nothing.",
            RuntimeWarning,
            stacklevel=3,
        )


def _update(
    rate: LayerRate,
    batch_scale: jax.typing.ArrayLike | None,
    layers: Layers,
    updates: PyTree,
    state: ScaleByLenaState,
    params: PyTree | None = None,
    *,
    moments: GradMoments | None = None,
    value: jax.typing.ArrayLike | None = None,
    coherence: jax.typing.ArrayLike = 1.0,
    entered: jax.typing.ArrayLike = 1.0,
    gradient_sq_norm: PyTree | None = None,
    **extra_args: Any,
) -> tuple[PyTree, ScaleByLenaState]:
    """Scales the updates, and remembers what the moments say."""
    del params
    scale = scale_of(batch_scale, moments=moments, gradient_sq_norm=gradient_sq_norm)
    scale = jnp.asarray(scale, jnp.float32)
    if rate.needs_moments or moments is not None:
        check_moments(moments, updates)
    check_inexact("updates", updates)
    layout = layout_of(layers, updates)
    rows = follow_names(rate, state, layout.names)
    measured = _measure(moments, updates, layout, scale)
    if gradient_sq_norm is not None:
        norms = align_norms(gradient_sq_norm, "gradient_sq_norm", updates, layout)
        last_scale = state.applied.base_batches
        measured = measured.of_two_batches(layout.gather(norms), last_scale)
    measured = measured._replace(coherence=coherence, entered=entered)
    if rate.reads_loss and value is not None:
        check_loss(value, updates)
        measured = measured._replace(loss=_loss(value, moments))
    elif rate.reads_loss and "loss" in extra_args:
        warnings.warn(
            "`update` was given `loss`, which it does not read: pass the loss of the "
            "whole batch as `value`.",
            RuntimeWarning,
            stacklevel=4,
        )
    rows = rate.update(rows, measured)
    factors = layout.scatter(rows.applied.layer_rate[:-1])
    return scale_leaves(updates, factors, layout), named(rows, layout.names)


def _loss(value: jax.typing.ArrayLike, moments: GradMoments | None) -> jax.Array:
    """Returns the loss of a batch, which is NaN if all of it was padding."""
    count = 1 if moments is None else moments.num_microbatches
    return jnp.where(count == 0, jnp.nan, jnp.asarray(value, jnp.float32))


def _measure(
    moments: GradMoments | None,
    updates: PyTree,
    layout: Layout,
    scale: jax.Array,
) -> Measured:
    if moments is None:
        return not_measured(len(layout.names), scale)
    count = moments.num_microbatches
    check_count(count)
    micro, batch = (
        layout.gather(align_norms(norms, f"moments.{name}", updates, layout))
        for name, norms in zip(moments._fields[:2], moments[:2], strict=True)
    )
    return measure(micro, batch, count, scale)
