"""Other recipes: every method has all of a recipe, and the block counts rows."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_lena
from benchmarks.pages import recipes_block
from benchmarks.unseen.recipes import FAMILIES, OF_ADAMW, OF_SGD, adamw, sgd
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


@pytest.mark.parametrize("name", sgd.RECIPES)
def test_a_recipe_at_the_base_batch_is_plain_optax(name):
    """Linear scaling at S = 1 is the recipe itself, but for its warm-up."""
    recipe = sgd.RECIPES[name]
    plain = recipe.method("linear", optax_lena.linear_scaling).make
    agree(plain(recipe.schedule(0.1), 1), recipe.base(recipe.schedule(0.1)))


@pytest.mark.parametrize("name", adamw.RECIPES)
def test_our_adamw_at_the_base_batch_is_that_of_a_recipe(name):
    recipe = adamw.RECIPES[name]
    agree(recipe.lena(recipe.schedule(0.1), 1), recipe.base(recipe.schedule(0.1)))


def agree(tx, other):
    pairs = zip(updates_of(tx), updates_of(other), strict=True)
    for update, expected in pairs:
        np.testing.assert_allclose(update["w"], expected["w"], rtol=1e-5)


@pytest.mark.parametrize("method", OF_SGD["sgd_clipped"].methods)
def test_gradients_are_clipped_for_every_method(method):
    family = OF_SGD["sgd_clipped"]
    first, _ = updates_of(family.optimizer(method, 1.0, 16))
    assert optax.tree.norm(MEAN) > 6
    assert optax.tree.norm(first) <= 16 * (1 + 1e-5)


@pytest.mark.parametrize("method", OF_ADAMW["adamw_control"].methods)
def test_adam_clips_for_every_method(method):
    """The second moment keeps a share of the squares of what was clipped."""
    family = OF_ADAMW["adamw_control"]
    tx = optax.with_extra_args_support(family.optimizer(method, 1.0, 16))
    state = tx.init(PARAMS)
    divided = {}
    if method == "lena_adamw":
        divided["preconditioner"] = optax_lena.adam_preconditioner(state, PARAMS)
    _, moments = optax_lena.moments_from_stack(STACK, **divided)
    _, state = tx.update(MEAN, state, PARAMS, moments=moments, value=1.0)
    b2 = 0.999 if method in ("constant", "square_root", "linear") else 0.999**16
    (nu,) = optax.tree_utils.tree_get_all_with_path(state, "nu")
    squares = sum(jnp.sum(leaf) for leaf in jax.tree.leaves(nu[1]))
    np.testing.assert_allclose(squares, (1 - b2) * 0.5**2, rtol=1e-4)


def test_what_averages_keep_at_a_scale_is_of_the_recipe():
    family = OF_ADAMW["adamw_adversarial"]
    tx = family.optimizer("square_root_memories", 1.0, 16)
    expected = optax.adamw(lambda _: 4.0, b1=0.5, b2=0.9, eps=1e-8 / 4, weight_decay=0)
    # The rate falls by a ten thousandth, and the warm-up is at its start.
    first, _ = updates_of(tx)
    other, _ = updates_of(expected)
    share = 16 / (0.05 * BASE_STEPS)
    np.testing.assert_allclose(first["w"], share * other["w"], rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "at", "rates"),
    [
        ("language", (0, 409, BASE_STEPS), (0, 1, 0.1)),
        ("control", (0, BASE_STEPS // 2, BASE_STEPS), (1, 0.5, 0)),
        ("adversarial", (0, BASE_STEPS), (1, 0.1)),
        ("nesterov", (0, 409, 6554, 7373, BASE_STEPS), (0, 1, 1, 0.5, 0)),
    ],
)
def test_the_rates_of_adamw(name, at, rates):
    schedule = adamw.RECIPES[name].schedule(1.0)
    found = [schedule(step) for step in at]
    np.testing.assert_allclose(found, rates, rtol=1e-3, atol=1e-6)


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
    label = sgd.RECIPES["constant"].label
    assert f"| {label} | 1 of 3 | 1 | +3.0 | -10.0 |  |" in text
    assert "In all 1 rows of 3 hold the bar." in text
    short = recipes_block.sentence({"sgd_constant": recorded}, link="page.md")
    assert "on 1 of the small tasks `lena_amplified` holds in 1 of 3 rows" in short
    assert short.endswith("loses runs in 1.")
    assert not recipes_block.sentence({"sgd_constant": []}, link="page.md")
