"""What one update moves and holds in memory, by XLA's own account."""

import jax
import jax.numpy as jnp
import optax

import optax_lena
from benchmarks.cost import trees
from tests import helpers

PARAMS = trees.resnet50_shapes()
SIZE = trees.size(PARAMS)
NORMS = jax.tree.map(lambda _: jax.ShapeDtypeStruct((), jnp.float32), PARAMS)
MOMENTS = optax_lena.GradMoments(NORMS, NORMS, 32)


def cost(tx, donate=False, **extra):
    """Words (of 4 bytes) moved per parameter, and temporary megabytes."""

    compiled = compile_update(tx, PARAMS, donate, **extra)
    words = compiled.cost_analysis()["bytes accessed"] / 4 / SIZE
    return words, compiled.memory_analysis().temp_size_in_bytes / 1e6


def compile_update(tx, params, donate=False, **extra):
    # Donated buffers find their results by shape, in this order; with another one the
    # momentum would be written where the parameters were, by way of copies.
    def update(params, state, grads, extra):
        updates, state = tx.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state

    step = helpers.jit(update, donate_argnums=(0, 1) if donate else ())
    state = jax.eval_shape(tx.init, params)
    return step.lower(params, state, params, extra).compile()
