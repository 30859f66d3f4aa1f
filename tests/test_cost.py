"""What one update moves and holds in memory, by XLA's own account."""

import jax
import jax.numpy as jnp
import optax
import pytest

import optax_lena
from tests import helpers


def resnet50():
    """Shapes of ResNet-50's parameters: 161 tensors, 25.6 million numbers."""
    tree, width = {}, 64

    def convolution(name, size, inputs, outputs):
        tree[f"{name}/conv"] = {"kernel": (size, size, inputs, outputs)}
        tree[f"{name}/norm"] = {"scale": (outputs,), "bias": (outputs,)}

    convolution("stem", 7, 3, width)
    for stage, (blocks, inner) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)]):
        for block in range(blocks):
            name = f"stage{stage}/block{block}"
            convolution(f"{name}/a", 1, width, inner)
            convolution(f"{name}/b", 3, inner, inner)
            convolution(f"{name}/c", 1, inner, 4 * inner)
            if block == 0:
                convolution(f"{name}/shortcut", 1, width, 4 * inner)
            width = 4 * inner
    tree["head"] = {"kernel": (width, 1000), "bias": (1000,)}
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        tree,
        is_leaf=lambda x: isinstance(x, tuple),
    )


PARAMS = resnet50()
SIZE = sum(p.size for p in jax.tree.leaves(PARAMS))
NORMS = jax.tree.map(lambda _: jax.ShapeDtypeStruct((), jnp.float32), PARAMS)
MOMENTS = optax_lena.GradMoments(NORMS, NORMS, 32)


def cost(tx, donate=False, **extra):
    """Words (of 4 bytes) moved per parameter, and temporary megabytes."""

    # Donated buffers find their results by shape, in this order; with another one the
    # momentum would be written where the parameters were, by way of copies.
    def update(params, state, grads, extra):
        updates, state = tx.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state

    step = helpers.jit(update, donate_argnums=(0, 1) if donate else ())
    lowered = step.lower(PARAMS, jax.eval_shape(tx.init, PARAMS), PARAMS, extra)
    compiled = lowered.compile()
    words = compiled.cost_analysis()["bytes accessed"] / 4 / SIZE
    return words, compiled.memory_analysis().temp_size_in_bytes / 1e6


def test_the_tree_is_that_of_resnet50():
    assert len(jax.tree.leaves(PARAMS)) == 161
    assert SIZE == 25_557_032


def test_the_yardstick():
    words, megabytes = cost(optax.sgd(0.1, 0.9))
    assert 5.99 < words < 6.01 and megabytes < 0.1


COSINE = optax.cosine_decay_schedule(0.1, 1000)


@pytest.mark.parametrize(
    ("tx", "donate"),
    [
        (optax_lena.lena(0.1, 32, warmup_steps=100), False),
        (optax_lena.lena(COSINE, 32, warmup_steps=100), True),
        (optax_lena.lena(0.1, 32, layers=optax_lena.per_module), True),
    ],
    ids=["lena", "lena, schedule, donated", "lena, per module, donated"],
)
def test_an_update_costs_hardly_more_than_momentum_sgd(tx, donate):
    words, megabytes = cost(tx, donate, moments=MOMENTS)
    assert words <= 7.02
    assert megabytes <= 1


def test_the_state_is_small():
    """Beside the momentum buffer: a few numbers for each layer."""
    state = jax.eval_shape(optax_lena.scale_by_lena(32).init, PARAMS)
    assert sum(x.size for x in jax.tree.leaves(state)) <= 8 * 161 + 4
