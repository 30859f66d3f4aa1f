"""The base recipe, as optax has its optimizer."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import optax

from benchmarks.methods.method import Method
from benchmarks.tasks.recipe import ADAMW, MUON, SGD, Recipe


def momentum_sgd(
    learning_rate: optax.ScalarOrSchedule, weight_decay: float, momentum: float
) -> optax.GradientTransformation:
    """Momentum SGD whose decay joins the gradient, as torch and the paper have it."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate, momentum)
    )


def _adamw(
    learning_rate: optax.ScalarOrSchedule, weight_decay: float, momentum: float
) -> optax.GradientTransformation:
    """AdamW, whose β1 the recipe calls momentum."""
    return optax.adamw(learning_rate, momentum, weight_decay=weight_decay)


def muon(
    learning_rate: optax.ScalarOrSchedule,
    weight_decay: float,
    momentum: float,
    **options: Any,
) -> optax.GradientTransformation:
    """Muon for matrices and AdamW for all else, at one rate."""
    return optax.contrib.muon(
        learning_rate,
        beta=momentum,
        weight_decay=weight_decay,
        adam_weight_decay=weight_decay,
        **MUON_OPTIONS,
        **options,
    )


# Updates of matrices get the size of Adam's (Liu et al., 2025, section 2.2), so that
# one rate fits both.
MUON_OPTIONS: Mapping[str, Any] = {"consistent_rms": 0.2}
_OPTIMIZERS: Mapping[str, Callable[..., optax.GradientTransformation]] = {
    SGD: momentum_sgd,
    ADAMW: _adamw,
    MUON: muon,
}


def _base(
    recipe: Recipe, batch_scale: int, base_steps: int
) -> optax.GradientTransformation:
    del batch_scale
    make = functools.partial(_OPTIMIZERS[recipe.optimizer], momentum=recipe.momentum)
    return make(recipe.rate(base_steps), weight_decay=recipe.weight_decay)


BASE = Method("base recipe", _base, "#666666", needs_moments=False)
