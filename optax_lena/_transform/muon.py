r"""Muon's direction, whose momentum counts examples and not updates.

In: gradients of matrices, and S. Out: the averaged gradient and, from a second
transformation, the orthogonal matrix that is nearest to it. The orthogonalisation is
`optax.contrib.muon`'s, of gradients that have been averaged here, so that S may
change in mid-run.
"""

import functools
import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import optax
from jax.typing import ArrayLike

from optax_lena._checks import check_batch_scale, check_beta, check_dtype, check_flag
from optax_lena._dtypes import cast_like
from optax_lena._masks import is_masked
from optax_lena._measure.parameters import check_no_shards
from optax_lena._parts.clocks import Count
from optax_lena._parts.memory import MOMENTUM_FLOOR, Memory
from optax_lena._transform.batch_scale import scale_of
from optax_lena._transform.scale_by_adam import average
from optax_lena._transformation import transformation
from optax_lena._types import PyTree, replicated, shard_like


class MomentumState(NamedTuple):
    """State of `momentum_of_examples`.

    Attributes:
      mu: the average of the gradients.
      mu_steps: how many base-batch steps it has forgotten.
    """

    mu: PyTree
    mu_steps: Count


class _Options(NamedTuple):
    memory: Memory
    nesterov: bool
    mu_dtype: Any
    batch_scale: ArrayLike | None


def momentum_of_examples(
    batch_scale: ArrayLike | None, beta: ArrayLike, nesterov: bool, mu_dtype: Any
) -> optax.GradientTransformationExtraArgs:
    """Returns Muon's momentum, over the same number of examples at every S.

    Args:
      batch_scale: S; None: the number of microbatches.
      beta: β at the base batch.
      nesterov: whether to use Nesterov momentum.
      mu_dtype: the dtype of the average; None: the parameters' dtype.

    Returns:
      The transformation.
    """
    check_batch_scale(batch_scale)
    check_beta("beta", beta)
    check_flag("nesterov", nesterov)
    check_dtype("mu_dtype", mu_dtype)
    memory = Memory(beta, MOMENTUM_FLOOR)
    options = _Options(memory, nesterov, mu_dtype, batch_scale)
    return transformation(
        functools.partial(_init, options),
        functools.partial(_update, options),
        MomentumState,
    )


def _init(options: _Options, params: PyTree) -> MomentumState:
    mu = optax.tree.zeros_like(params, dtype=options.mu_dtype)
    return MomentumState(mu, Count.zeros())


def _update(
    options: _Options,
    grads: PyTree,
    state: MomentumState,
    params: PyTree | None = None,
    **extra_args: Any,
) -> tuple[PyTree, MomentumState]:
    del params
    memory, nesterov, _, batch_scale = options
    scale = scale_of(batch_scale, **extra_args)
    mean, mu, steps = average(memory, grads, state.mu, state.mu_steps, scale, nesterov)
    return mean, MomentumState(cast_like(mu, state.mu), steps)


# Muon's other options are for its momentum or its Adam, which are not used here. Those
# that the installed optax does not have are not offered.
_SHAPING = (
    "ns_coeffs",
    "ns_steps",
    "adaptive",
    "preconditioning",
    "consistent_rms",
    "muon_weight_dimension_numbers",
)
# The arguments of `lena_muon` that have another name in Muon.
_OWN_NAMES = {"adam_learning_rate": "learning_rate"}


def check_options(options: Any, own: tuple[str, ...]) -> None:
    """Raises a `ValueError` for options that do not shape the orthogonalisation.

    Args:
      options: names and values, or None.
      own: the names of the arguments of `lena_muon`.

    Raises:
      ValueError: that names `options`, and the argument to give instead, if any.
    """
    known = inspect.signature(optax.contrib.muon).parameters
    allowed = tuple(name for name in _SHAPING if name in known)
    if options is not None and not isinstance(options, Mapping):
        raise ValueError(
            f"`options` must be a dictionary of {allowed}, or None, got {options!r}."
        )
    for name in options or {}:
        if name in allowed:
            continue
        same = _OWN_NAMES.get(name, name)
        remedy = (
            f": give `{same}` to lena_muon itself."
            if same in own
            else f", which optax {optax.__version__} does not have, or which does not "
            "shape the orthogonalisation."
        )
        raise ValueError(
            f"`options` may only hold what shapes the orthogonalisation, {allowed}, "
            f"got {name!r}{remedy}"
        )


def orthogonaliser(**options: Any) -> optax.GradientTransformation:
    """Returns `optax.contrib.muon` without its momentum: it only orthogonalises.

    Args:
      **options: `eps`, and those of `optax.contrib.muon` that shape the
        orthogonalisation.

    Returns:
      A transformation. What its Adam makes of other parameters is not used.
    """
    return optax.contrib.muon(-1.0, beta=0.0, nesterov=False, **options)


def orthogonalise(
    orthogonal: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Orthogonalises matrices that are averaged already; other parameters pass."""
    return transformation(
        optax.init_empty_state,
        functools.partial(_orthogonalise, orthogonal),
    )


def _orthogonalise(
    orthogonal: optax.GradientTransformation,
    averaged: PyTree,
    state: optax.EmptyState,
    params: PyTree | None = None,
    *,
    moments: Any = None,
    **extra_args: Any,
) -> tuple[PyTree, optax.EmptyState]:
    del params, extra_args
    is_matrix = are_matrices(orthogonal, averaged)
    matrices = jax.tree.map(lambda own, x: x if own else None, is_matrix, averaged)
    check_no_shards("lena_muon", matrices, moments)
    # Where mesh axes are explicit, a product of shards has no definite type.
    whole = jax.tree.map(
        lambda own, x: replicated(x) if own else x, is_matrix, averaged
    )
    # Muon divides by the sides of a matrix, which may be 0.
    some = optax.masked(orthogonal, _have_entries)
    directions, _ = some.update(whole, some.init(whole), whole)
    updates = jax.tree.map(
        lambda own, new, old: new if own else old, is_matrix, directions, averaged
    )
    return shard_like(updates, averaged), state


def _have_entries(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: x.size > 0, tree)


def are_matrices(orthogonal: optax.GradientTransformation, params: PyTree) -> PyTree:
    """Returns booleans like the parameters: which of them Muon orthogonalises."""
    state = jax.eval_shape(orthogonal.init, params)
    leaves = jax.tree.leaves(state, is_leaf=_is_muon)
    (mu,) = [leaf.mu for leaf in leaves if _is_muon(leaf)]
    return jax.tree.map(lambda x: not is_masked(x), mu, is_leaf=is_masked)


def _is_muon(node: Any) -> bool:
    return isinstance(node, optax.contrib.MuonState)
