"""LARS's ratio: the length of a layer's weights over the length of its update.

In: updates, and the parameters. Out: the updates, each as long as its weights, times
the coefficient. A parameter that stacks layers has a ratio for each.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optax_lena._checks import check_eps, check_number
from optax_lena._masks import masked
from optax_lena._measure.layers import Layers
from optax_lena._measure.layout import layout_of, scale_leaves
from optax_lena._measure.metric import Metric
from optax_lena._measure.parameters import check_inexact, check_no_shards
from optax_lena._transformation import transformation
from optax_lena._types import PyTree


def scale_by_lars_ratio(
    coefficient: jax.typing.ArrayLike,
    eps: jax.typing.ArrayLike,
    layers: Layers,
    mask: Any,
) -> optax.GradientTransformation:
    """Does `optax.scale_by_trust_ratio`, for each slice of a stacked parameter.

    It takes one pass over parameters and updates, without copies of either: optax takes
    each norm twice, for the sake of its derivative.

    Args:
      coefficient: c, on the ratio.
      eps: ε, in the ratio's denominator.
      layers: which parameters stack several layers.
      mask: which parameters have the ratio; None: all.

    Returns:
      The transformation.
    """
    meaning = "the step's length over the weights' at a rate of 1"
    check_number("trust_coefficient", coefficient, meaning, at_least=0)
    check_eps(eps)
    ratio = transformation(
        optax.init_empty_state,
        functools.partial(_scale, coefficient, eps, layers),
    )
    return masked(ratio, "trust_ratio_mask", mask)


def _check_params(params: PyTree | None) -> None:
    if params is None:
        raise ValueError(
            "`params` must be given to the update of `lena_lars`, whose ratio is that "
            "of their norms, got None: call tx.update(grads, state, params, "
            "moments=moments)."
        )


def _scale(
    coefficient: jax.typing.ArrayLike,
    eps: jax.typing.ArrayLike,
    layers: Layers,
    updates: PyTree,
    state: optax.EmptyState,
    params: PyTree | None = None,
    *,
    moments: Any = None,
    **extra_args: Any,
) -> tuple[PyTree, optax.EmptyState]:
    del extra_args
    _check_params(params)
    check_inexact("params", params)
    check_no_shards("lena_lars", params, moments)
    metric, layout = Metric(layers), layout_of(layers, updates)

    def ratio(param_sq_norm: jax.Array, update_sq_norm: jax.Array) -> jax.Array:
        # A layer without weights, or without a gradient, keeps its update.
        has_both = (param_sq_norm > 0) & (update_sq_norm > 0)
        # No root of 0, whose derivative is infinite: updates may be differentiated.
        param_norm, update_norm = (
            jnp.sqrt(jnp.where(has_both, sq_norm, 1))
            for sq_norm in (param_sq_norm, update_sq_norm)
        )
        return jnp.where(has_both, coefficient * param_norm / (update_norm + eps), 1)

    norms = metric.sq_norms(params), metric.sq_norms(updates)
    factors = jax.tree.leaves(jax.tree.map(ratio, *norms))
    return scale_leaves(updates, factors, layout), state
