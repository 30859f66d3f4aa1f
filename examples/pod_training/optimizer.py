"""The optimizer: the small batch's recipe, and S."""

from typing import Any

import jax
import optax

import optax_lena
from examples.pod_training.config import Config

ADAM = {"b1": 0.9, "b2": 0.95, "eps": 1e-8}


def make_optimizer(
    config: Config, layers: optax_lena.Layers
) -> optax.GradientTransformationExtraArgs:
    """Returns the optimizer; schedule and warm-up count the small batch's steps."""
    recipe = config.recipe
    rate, steps = recipe.learning_rate, recipe.base_steps
    schedule = optax.cosine_decay_schedule(rate, decay_steps=steps)
    # What is no vector, in a stack of blocks too: biases and norms do not decay.
    make = getattr(optax_lena, recipe.optimizer)
    options = ADAM if is_adam(config) else {"momentum": 0.9}
    return make(
        schedule,
        config.batch_scale,
        warmup_steps=steps // 20,
        weight_decay=recipe.weight_decay,
        weight_decay_mask=_decays,
        layers=layers,
        **options,
    )


def is_adam(config: Config) -> bool:
    """Whether noise is measured in Adam's metric."""
    return config.recipe.optimizer == "lena_adamw"


def metric(config: Config, opt_state: Any, params: Any) -> Any:
    """Returns the gatherer's `preconditioner`: Adam's, or none."""
    if not is_adam(config):
        return None
    b2, eps = ADAM["b2"], ADAM["eps"]
    return optax_lena.adam_preconditioner(opt_state, params, b2=b2, eps=eps)


def _decays(params: Any) -> Any:
    names = ("kernel", "embedding")
    return jax.tree_util.tree_map_with_path(
        lambda path, _: any(name in jax.tree_util.keystr(path) for name in names),
        params,
    )
