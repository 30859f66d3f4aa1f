r"""Muon's direction, whose momentum counts examples and not updates.

In: gradients, and S. Out: for every matrix the orthogonal one nearest to its averaged
gradient; other parameters pass. The orthogonalisation is `optax.contrib.muon`'s own, of
gradients that have been averaged here, so that S may change in mid-run.
"""

import functools
from typing import Any, NamedTuple

import jax
import optax
from jax.typing import ArrayLike

from optax_lena._checks import check_batch_scale, check_beta, check_dtype, check_flag
from optax_lena._measure.layout import PyTree
from optax_lena._parts.clocks import Count
from optax_lena._parts.memory import FIRST_FLOOR, Memory
from optax_lena._transform.scale_by_adam import average, scale_of


class MuonState(NamedTuple):
    """State of `scale_by_muon`.

    Attributes:
      mu: the average of the matrices' gradients; `optax.MaskedNode` elsewhere.
      mu_steps: how many base-batch steps it has forgotten.
    """

    mu: PyTree
    mu_steps: Count


class _Options(NamedTuple):
    orthogonal: optax.GradientTransformation
    memory: Memory
    nesterov: bool
    mu_dtype: Any
    batch_scale: ArrayLike | None


def orthogonaliser(**options: Any) -> optax.GradientTransformation:
    """`optax.contrib.muon` without its momentum: it orthogonalises what it gets.

    Args:
      **options: of `optax.contrib.muon`.

    Returns:
      A transformation. Its Adam gets what is no matrix, and nothing of that is used.
    """
    return optax.contrib.muon(
        -1.0, beta=0.0, nesterov=False, adam_b1=0.0, adam_b2=0.0, **options
    )


def are_matrices(orthogonal: optax.GradientTransformation, params: PyTree) -> PyTree:
    """Returns booleans like the parameters: which of them Muon orthogonalises."""
    state = jax.eval_shape(orthogonal.init, params)
    leaves = jax.tree.leaves(state, is_leaf=_is_muon)
    (mu,) = [leaf.mu for leaf in leaves if _is_muon(leaf)]
    return jax.tree.map(lambda x: not _is_masked(x), mu, is_leaf=_is_masked)


def scale_by_muon(
    orthogonal: optax.GradientTransformation,
    batch_scale: ArrayLike | None,
    beta: ArrayLike,
    nesterov: bool,
    mu_dtype: Any,
) -> optax.GradientTransformationExtraArgs:
    """Muon's direction for matrices; other parameters keep their gradient.

    Args:
      orthogonal: of `orthogonaliser`.
      batch_scale: S; None: the number of microbatches.
      beta: β at the base batch.
      nesterov: whether the average looks ahead.
      mu_dtype: of the average; None: that of the parameters.

    Returns:
      The transformation.
    """
    check_batch_scale(batch_scale)
    check_beta("beta", beta)
    check_flag("nesterov", nesterov)
    check_dtype("mu_dtype", mu_dtype)
    memory = Memory(beta, FIRST_FLOOR)
    options = _Options(orthogonal, memory, nesterov, mu_dtype, batch_scale)
    return optax.GradientTransformationExtraArgs(
        functools.partial(_init, options),  # pyrefly: ignore[bad-argument-type]
        functools.partial(_update, options),  # pyrefly: ignore[bad-argument-type]
    )


def _init(options: _Options, params: PyTree) -> MuonState:
    matrices = _matrices(options.orthogonal, params)
    mu = optax.tree.zeros_like(matrices, dtype=options.mu_dtype)
    return MuonState(mu, Count.zeros())


def _update(
    options: _Options,
    grads: PyTree,
    state: MuonState,
    params: PyTree | None = None,
    **extra_args: Any,
) -> tuple[PyTree, MuonState]:
    del params
    mean, mu, steps = average(
        options.memory,
        _matrices(options.orthogonal, grads),
        state.mu,
        state.mu_steps,
        scale_of(options.batch_scale, **extra_args),
        options.nesterov,
    )
    averaged = _filled(mean, grads)
    start = options.orthogonal.init(averaged)
    directions, _ = options.orthogonal.update(averaged, start, averaged)
    updates = _filled(_matrices(options.orthogonal, directions), grads)
    mu = jax.tree.map(lambda new, old: new.astype(old.dtype), mu, state.mu)
    return updates, MuonState(mu, steps)


def _matrices(orthogonal: optax.GradientTransformation, tree: PyTree) -> PyTree:
    return jax.tree.map(
        lambda is_matrix, x: x if is_matrix else optax.MaskedNode(),
        are_matrices(orthogonal, tree),
        tree,
    )


def _filled(tree: PyTree, others: PyTree) -> PyTree:
    """Returns the tree with `others` where it is masked."""
    return jax.tree.map(
        lambda x, other: other if _is_masked(x) else x,
        tree,
        others,
        is_leaf=_is_masked,
    )


def _is_muon(node: Any) -> bool:
    return isinstance(node, optax.contrib.MuonState)


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)
