"""The optimizer: the small batch's recipe, and S."""

from typing import Any

import jax
import optax

import optax_lena
from examples.pod_training.config import Config


def make_optimizer(
    config: Config, layers: optax_lena.Layers
) -> optax.GradientTransformationExtraArgs:
    """Returns the optimizer; schedule and warm-up count the small batch's steps."""
    recipe = config.recipe
    rate, steps = recipe.learning_rate, recipe.base_steps
    schedule = optax.cosine_decay_schedule(rate, decay_steps=steps)
    return getattr(optax_lena, recipe.optimizer)(
        schedule,
        config.batch_scale,
        warmup_steps=steps // 20,
        weight_decay=recipe.weight_decay,
        weight_decay_mask=_decays,
        layers=layers,
    )


def metric(config: Config, opt_state: Any, params: Any) -> Any:
    """Returns the gatherer's `preconditioner`: Adam's, or none."""
    if config.recipe.optimizer != "lena_adamw":
        return None
    return optax_lena.adam_preconditioner(opt_state, params)


def _decays(params: Any) -> Any:
    """Biases and norms do not decay; a stack of them has two axes, so names tell."""
    names = ("kernel", "embedding")
    return jax.tree_util.tree_map_with_path(
        lambda path, _: any(name in jax.tree_util.keystr(path) for name in names),
        params,
    )
