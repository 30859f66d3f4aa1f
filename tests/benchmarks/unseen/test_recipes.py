"""Other recipes of SGD: every method has all of it, and the block counts rows."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_lena
from benchmarks.pages import recipes_block
from benchmarks.unseen.recipes import FAMILIES, RECIPES
from benchmarks.unseen.run import BASE_STEPS, Score

PARAMS = {"w": jnp.array([3.0, -4.0])}
STACK = {"w": jnp.array([[5.0, 1.0], [7.0, 3.0]])}
MEAN, MOMENTS = optax_lena.moments_from_stack(STACK)


def updates_of(tx, count=2):
    tx, params, made = optax.with_extra_args_support(tx), PARAMS, []
    state = tx.init(params)
    for _ in range(count):
        updates, state = tx.update(MEAN, state, params, moments=MOMENTS, value=1.0)
        params = optax.apply_updates(params, updates)
        made.append(updates)
    return made


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_at_the_base_batch_is_plain_optax(name):
    """Linear scaling at S = 1 is the recipe itself, but for its warm-up."""
    recipe = RECIPES[name]
    plain = recipe.method("linear", optax_lena.linear_scaling).make
    ours = updates_of(plain(recipe.schedule(0.1), 1))
    expected = updates_of(recipe.base(recipe.schedule(0.1)))
    for update, other in zip(ours, expected, strict=True):
        np.testing.assert_allclose(update["w"], other["w"], rtol=1e-5)


@pytest.mark.parametrize("method", FAMILIES["sgd_clipped"].methods)
def test_gradients_are_clipped_for_every_method(method):
    family = FAMILIES["sgd_clipped"]
    first, _ = updates_of(family.optimizer(method, 1.0, 16))
    assert optax.tree.norm(MEAN) > 6
    assert optax.tree.norm(first) <= 16 * (1 + 1e-5)


def test_the_rate_falls_in_steps():
    schedule = FAMILIES["sgd_nesterov"].schedule(1.0)
    steps = [0, BASE_STEPS // 2 + 1, 3 * BASE_STEPS // 4 + 1]
    np.testing.assert_allclose([schedule(step) for step in steps], [1, 0.1, 0.01])


def test_the_block_counts_the_rows_that_hold_and_those_with_lost_runs():
    where = {"commit": "c", "cpus": "2", "device": "cpu", "jax": "0"}

    def runs(method, scale, values):
        return [
            Score("gaps", method, scale, seed, 0.1, value, where)
            for seed, value in enumerate(values)
        ]

    recorded = [
        *runs("base", 1, (90.0, 90.0, 90.0)),
        *runs("lena", 16, (80.0, 80.0, 80.0)),
        *runs("lena_amplified", 16, (82.0, 83.0, 84.0)),
        *runs("lena", 32, (80.0, 80.0, 80.0)),
        *runs("lena_amplified", 32, (70.0, 70.0, 70.0)),
        *runs("lena", 64, (80.0, 80.0, 80.0)),
        *runs("lena_amplified", 64, (70.0, None, 70.0)),
    ]
    text = recipes_block.block({"sgd_constant": recorded, "sgd_clipped": []})
    label = RECIPES["constant"].label
    assert f"| {label} | 1 of 3 | 1 | +3.0 | -10.0 |  |" in text
    assert "In all 1 rows of 3 hold the bar." in text
    short = recipes_block.sentence({"sgd_constant": recorded}, link="page.md")
    assert "[1 other recipes](page.md) on 1 of them it holds in 1 of 3 rows" in short
    assert short.endswith("loses runs in 1.")
    assert not recipes_block.sentence({"sgd_constant": []}, link="page.md")
