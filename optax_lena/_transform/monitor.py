"""Monitor: LENA's statistics for any optax optimizer, which stays as it is."""

import functools
import inspect
import re
from typing import Any, NamedTuple

import jax
import optax

from optax_lena._checks import check_optimizer
from optax_lena._measure.layers import Layers, check_regex, per_parameter
from optax_lena._measure.moments import GradMoments
from optax_lena._measure.parameters import parameter_names, tree_of_names
from optax_lena._parts.layer_rate import LayerRate
from optax_lena._transform.scale_by_lena import scale_by_layer_rate
from optax_lena._transform.state import ScaleByLenaState
from optax_lena._transformation import transformation
from optax_lena._types import PyTree


class MonitorState(NamedTuple):
    """State of `monitor`.

    Attributes:
      inner_state: the state of the watched optimizer.
      lena: LENA's state, for `optax_lena.metrics` and `optax_lena.layer_report`.
    """

    inner_state: optax.OptState
    lena: ScaleByLenaState


def monitor(
    tx: optax.GradientTransformation,
    *,
    layers: Layers = per_parameter,
    batch_scale: jax.typing.ArrayLike | None = None,
    only: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Watches the noise of every layer's gradient, and changes nothing.

    The updates are what `tx` returns, bit for bit. `optax_lena.metrics` and
    `optax_lena.layer_report` read the state as they read LENA's: noise, signal, noise
    scale, and the gain that LENA would have. `optax_lena.advise` says from a run's
    metrics how large the batch could be. It costs a few numbers per layer.

    Args:
      tx: an optimizer of the parameters that are differentiated. Not `optax.lookahead`,
        which holds them twice.
      layers: which parameters are one layer: `whole_model` for one number.
      batch_scale: S, the batch in base batches, which are the unit of noise scales;
        None: the number of microbatches, so that the unit is one microbatch.
      only: a regular expression: only parameters in whose names it is found are
        watched. The noise of the norm layers, `"norm|scale"`, predicts that of the
        model (Gray et al., 2024), and takes no pass over the large tensors.

    Returns:
      The optimizer. Its `update` takes the keyword argument `moments` as well, and
      passes it on if that of `tx` takes it, and so with `value`.

    Raises:
      ValueError: where an argument is out of its range; from `init`, if `only` matches
        no parameter.
      TypeError: if `tx` is no optimizer; from `update`, if it is given no moments.

    Example:
      >>> import jax.numpy as jnp, optax, optax_lena
      >>> tx = optax_lena.monitor(optax.adam(0.1), batch_scale=2)
      >>> stack = {"w": jnp.array([1.0, 3.0])}
      >>> grads, moments = optax_lena.moments_from_stack(stack)
      >>> updates, state = tx.update(grads, tx.init(grads), grads, moments=moments)
      >>> print(f"{optax_lena.metrics(state)['noise_scale/w']:.3f}")  # 2 / 3
      0.667

    References:
      McCandlish et al., *An Empirical Model of Large-Batch Training*, 2018; Gray et
      al., *Normalization Layer Per-Example Gradients*, 2024.
    """
    check_optimizer("tx", tx)
    lena = scale_by_layer_rate(LayerRate(), batch_scale, layers=layers)
    if only is not None:
        check_regex("`only`", only)
    tx = optax.with_extra_args_support(tx)
    return transformation(
        functools.partial(_init, tx, lena, only),
        functools.partial(_update, tx, lena, only),
        MonitorState,
    )


def _init(
    tx: optax.GradientTransformationExtraArgs,
    lena: optax.GradientTransformationExtraArgs,
    only: str | None,
    params: PyTree,
) -> MonitorState:
    watched = _watched(params, only)
    if only is not None and jax.tree.leaves(params) and not jax.tree.leaves(watched):
        raise ValueError(
            "`only` must be found in a parameter's name, such as "
            f"{parameter_names(params)[:4]}, got {only!r}."
        )
    return MonitorState(tx.init(params), lena.init(watched))


def _update(
    tx: optax.GradientTransformationExtraArgs,
    lena: optax.GradientTransformationExtraArgs,
    only: str | None,
    grads: PyTree,
    state: MonitorState,
    params: PyTree | None = None,
    *,
    moments: GradMoments | None = None,
    **extra_args: Any,
) -> tuple[PyTree, MonitorState]:
    # What wrappers say about the moments is for both; a loss is for the optimizer only.
    own = extra_args.get("gradient_sq_norm")
    watched = _watched(grads, only)
    _, seen = lena.update(watched, state.lena, moments=moments, gradient_sq_norm=own)
    given = extra_args
    # A line search passes on to `value_fn` all that it does not know, and refuses more.
    is_searched = "value_fn" in extra_args
    if moments is not None and not is_searched:
        given = extra_args | {"moments": moments}
    given = _taken(tx, given)
    updates, inner_state = tx.update(grads, state.inner_state, params, **given)
    return updates, MonitorState(inner_state, seen)


# What loops pass for the optimizers of this library.
_FOR_LENA = ("moments", "value", "gradient_sq_norm")


def _taken(
    tx: optax.GradientTransformationExtraArgs, given: dict[str, Any]
) -> dict[str, Any]:
    """Leaves out what `tx` has no use for: some optimizers name all that they take."""
    parameters = inspect.signature(tx.update).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return given
    left_out = set(_FOR_LENA) - set(parameters)
    return {name: x for name, x in given.items() if name not in left_out}


def _watched(tree: PyTree, only: str | None) -> PyTree:
    """Masks the parameters in whose names `only` is not found."""
    if only is None:
        return tree
    return jax.tree.map(
        lambda name, leaf: leaf if re.search(only, name) else optax.MaskedNode(),
        tree_of_names(tree),
        tree,
    )
