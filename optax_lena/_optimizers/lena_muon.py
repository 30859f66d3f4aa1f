"""Muon for matrices and AdamW for the rest, with a rate for every layer."""

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax
from jax.typing import ArrayLike

from optax_lena._checks import check_beta, check_weight_decay
from optax_lena._masks import is_masked
from optax_lena._measure.layers import Layers, per_parameter, whole_model
from optax_lena._measure.layout import layout_of
from optax_lena._optimizers import links
from optax_lena._parts.guard import GrowthLimit
from optax_lena._transform.muon import (
    are_matrices,
    check_options,
    momentum_of_examples,
    orthogonalise,
    orthogonaliser,
)
from optax_lena._transform.scale_by_adam import scale_by_adam
from optax_lena._types import PyTree

# Seven updates from the base batch's rate to eight times it. The tenth in an update of
# `lena_adamw` is for Adam, whose metric hardly knows a gradient at first; matrices are
# measured as they are (docs/adamw_results.md).
_GROWTH = 1.4


def lena_muon(
    learning_rate: optax.ScalarOrSchedule,
    batch_scale: ArrayLike | None = None,
    *,
    warmup_steps: ArrayLike = 0,
    layers: Layers = per_parameter,
    beta: ArrayLike = 0.95,
    eps: ArrayLike = 1e-8,
    mu_dtype: Any = None,
    nesterov: bool = True,
    weight_decay: float | jax.Array = 0.0,
    weight_decay_mask: Any = None,
    adam_b1: ArrayLike = 0.9,
    adam_b2: ArrayLike = 0.999,
    adam_weight_decay: float | jax.Array = 0.0,
    options: Mapping[str, Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Muon in which every layer finds its own rate, and averages count examples.

    $$w_k \leftarrow w_k - \eta \cdot \text{ratio}_k \cdot
      \min(1, \text{progress}_k / \theta) \cdot
      \left( \operatorname{orthogonal}(\hat m_k) + \lambda w_k \right)$$

    for matrices, and `lena_adamw` for all other parameters. Like Adam's updates, those
    of Muon have a fixed length, so the ratio is the same (`normalised_gain` and
    `LossLimit`), but it may grow by 40 % per update (`GrowthLimit`); the noise of
    matrices is the raw gradient's.

    Take the moments with `preconditioner=adam_preconditioner(opt_state, params)`, which
    divides only the gradients that go through Adam. So no layer should hold parameters
    of both kinds, which are measured in different units; the whole model's row in
    reports does, and means little.

    With a `batch_scale` of 1 and no warm-up it is `optax.contrib.muon`, to the last
    bit.

    Args:
      learning_rate: η, the rate of Muon at the base batch, or its schedule over base
        batches (`optax.inject_hyperparams` calls it with updates, unless `static_args`
        names it).
      batch_scale: S, the global batch over the base batch that the recipe was tuned at,
        above 0; None: the number of microbatches.
      warmup_steps: θ, the length of the warm-up in base-batch steps; 0: no warm-up.
        It ends for a layer once the layer's gains sum to θ.
      layers: which parameters are one layer; none should hold both kinds, as those of
        `optax_lena.per_module` do.
      beta: β, the share of the momentum that is kept at the base batch; β^S at another,
        though at least 0.9.
      eps: ε, in the orthogonalisation and in Adam.
      mu_dtype: the dtype of both first averages; None: the parameters' dtype.
      nesterov: whether to use Nesterov momentum, for matrices and the rest.
      weight_decay: λ for the matrices, decoupled, and scaled by the layer's rate.
      weight_decay_mask: which matrices decay: a pytree of booleans, or a function of
        the parameters that returns one; None: all.
      adam_b1: Adam's β1, as in `lena_adamw`.
      adam_b2: Adam's β2, as in `lena_adamw`.
      adam_weight_decay: λ for the parameters that are not matrices.
      options: what `optax.contrib.muon` takes to shape its orthogonalisation, such as
        `{"ns_steps": 6}`, or `muon_weight_dimension_numbers`, which says what a matrix
        is.

    Returns:
      An optimizer that needs the moments of the gradient, and is safer with the loss of
      the whole batch: `update(..., moments=moments, value=loss)`.

    Raises:
      ValueError: where an argument is out of its range.
      TypeError: from `update`, if it is given no moments.

    Warns:
      RuntimeWarning: from `init`, if a layer holds parameters of both kinds; from
        `update`, if Adam trains some and the moments are without its preconditioner.

    Example:
      >>> import jax.numpy as jnp, optax, optax_lena
      >>> stack = {"w": jnp.array([[[2.0, 0.0], [0.0, 1.0]], [[1.0, 1.0], [0.0, 3.0]]])}
      >>> grads, moments = optax_lena.moments_from_stack(stack)
      >>> ours = optax_lena.lena_muon(0.02, batch_scale=1)
      >>> got, _ = ours.update(grads, ours.init(grads), grads, moments=moments)
      >>> theirs = optax.contrib.muon(0.02)
      >>> expected, _ = theirs.update(grads, theirs.init(grads), grads)
      >>> print(bool((got["w"] == expected["w"]).all()))
      True

    References:
      Jordan et al., *Muon*, 2024; Hao et al., *LANTON*, 2025, who set the rates of
      Muon's layers against each other by their noise, at one batch.
    """
    rate = links.normalised_rate(learning_rate, warmup_steps, GrowthLimit(_GROWTH))
    check_options(options, tuple(inspect.signature(lena_muon).parameters))
    orthogonal = orthogonaliser(eps=eps, **(options or {}))
    momentum = momentum_of_examples(batch_scale, beta, nesterov, mu_dtype)
    matrices = _matrices(orthogonal, momentum, weight_decay, weight_decay_mask)
    adam = functools.partial(scale_by_adam, batch_scale, eps=eps, nesterov=nesterov)
    rest = _rest(orthogonal, adam, adam_b1, adam_b2, mu_dtype, adam_weight_decay)
    others = functools.partial(_has_others, orthogonal)
    scale = links.scale_by_normalised_rate(rate, batch_scale, layers, others)
    tx = optax.chain(matrices, rest, scale, links.descent)
    init = functools.partial(_init, tx, orthogonal, layers)
    return optax.GradientTransformationExtraArgs(init, tx.update)


def _init(
    tx: optax.GradientTransformation,
    orthogonal: optax.GradientTransformation,
    layers: Layers,
    params: PyTree,
) -> optax.OptState:
    _warn_of_mixed_layers(orthogonal, layers, params)
    return tx.init(params)


def _warn_of_mixed_layers(
    orthogonal: optax.GradientTransformation, layers: Layers, params: PyTree
) -> None:
    layout = layout_of(layers, params)
    kinds: dict[int, set[bool]] = {}
    for rows, is_muons in zip(layout.rows, _kinds(orthogonal, params), strict=True):
        for row in np.ravel(rows):
            kinds.setdefault(int(row), set()).add(is_muons)
    mixed = [layout.names[row] for row, kind in kinds.items() if len(kind) > 1]
    if mixed and layers != whole_model:
        warnings.warn(
            "`layers` of `lena_muon` must keep matrices and other parameters apart, "
            f"got both in {mixed[:4]}: their gradients are measured in different "
            "units, and the layer's noise would be that of the larger. Take "
            "`per_parameter`, or `by_regex` with one expression for each kind.",
            RuntimeWarning,
            stacklevel=3,
        )


def _matrices(
    orthogonal: optax.GradientTransformation,
    momentum: optax.GradientTransformation,
    weight_decay: Any,
    mask: Any,
) -> optax.GradientTransformation:
    """Muon's direction, and the decay of matrices."""
    only = functools.partial(are_matrices, orthogonal)
    return optax.chain(
        optax.masked(momentum, only),
        orthogonalise(orthogonal),
        optax.masked(links.decay(weight_decay, mask), only),
    )


def _rest(
    orthogonal: optax.GradientTransformation,
    adam: Callable[..., optax.GradientTransformation],
    b1: ArrayLike,
    b2: ArrayLike,
    mu_dtype: Any,
    weight_decay: Any,
) -> optax.GradientTransformation:
    """Adam's direction, and the decay of what is no matrix."""
    check_beta("adam_b1", b1)
    check_beta("adam_b2", b2)
    check_weight_decay(weight_decay, "adam_weight_decay")
    only = functools.partial(_are_others, orthogonal)
    return optax.chain(
        optax.masked(adam(b1=b1, b2=b2, mu_dtype=mu_dtype), only),
        optax.masked(links.decay(weight_decay, None), only),
    )


def _are_others(orthogonal: optax.GradientTransformation, params: PyTree) -> PyTree:
    return jax.tree.map(lambda x: not x, are_matrices(orthogonal, params))


def _has_others(orthogonal: optax.GradientTransformation, params: PyTree) -> bool:
    return not all(_kinds(orthogonal, params))


def _kinds(orthogonal: optax.GradientTransformation, params: PyTree) -> list[bool]:
    """Whether each parameter is a matrix; nothing of those that a wrapper masks."""
    nodes = jax.tree.leaves(params, is_leaf=is_masked)
    found = jax.tree.leaves(are_matrices(orthogonal, params))
    return [bool(m) for m, x in zip(found, nodes, strict=True) if not is_masked(x)]
