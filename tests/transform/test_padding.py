"""A batch of padding alone: every weight is 0, and nothing is measured."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_lena
from tests import helpers

pytestmark = helpers.PLAIN_MOMENTS

MAKERS = {
    name: getattr(optax_lena, name)
    for name in (
        "lena",
        "lena_amplified",
        "lena_adamw",
        "lena_muon",
        "lena_lars",
        "adascale",
    )
}


def run(tx, order):
    """Trains on batches of noise or of padding; returns parameters and LENA's state."""

    @helpers.jit
    def update(params, state, stack, weights):
        grads, moments = optax_lena.moments_from_stack(stack, weights=weights)
        updates, state = tx.update(grads, state, params, moments=moments)
        return optax.apply_updates(params, updates), state

    params = helpers.example_params()
    state = tx.init(params)
    for seed, is_padding in enumerate(order):
        weights = jnp.full(4, 0.0 if is_padding else 2.0)
        stack = helpers.random_stacks(seed, 4)
        params, state = update(params, state, stack, weights)
    return params, helpers.lena_state(state)


@pytest.mark.parametrize("batch_scale", [None, 4])
@pytest.mark.parametrize("name", MAKERS)
def test_a_batch_of_padding_leaves_what_was_measured(name, batch_scale):
    tx = MAKERS[name](0.01, batch_scale, warmup_steps=100)
    _, before = run(tx, (False, False))
    _, after = run(tx, (False, False, True))
    for part in ("averages", "guard", "progress"):
        helpers.assert_trees_equal(getattr(after, part), getattr(before, part))
    for clock in ("gain_steps", "rate_steps"):
        now, then = (float(getattr(s.clocks, clock)) for s in (after, before))
        assert now == then
    # Its examples are counted all the same: the schedule's clock is that of batches.
    assert float(after.clocks.base_steps.read()) == 8 + (batch_scale or 1)


@pytest.mark.parametrize("name", ["lena_adamw", "lena_muon"])
@pytest.mark.parametrize("order", [(True, False), (False, True, False)])
def test_numbers_stay_finite_after_a_batch_of_padding(name, order):
    """S of nothing is 0, at which Adam's averages and the rule are 0 over 0."""
    params, state = run(MAKERS[name](0.01), order)
    for leaf in jax.tree.leaves((params, state)):
        assert np.isfinite(leaf).all()
    assert state.applied.base_batches == 4


@pytest.mark.parametrize("batch_scale", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", MAKERS)
def test_an_injected_scale_that_is_none_counts_as_a_base_batch(name, batch_scale):
    """The FAQ's S of a short batch, real examples over the base batch, may be 0."""
    maker = optax.inject_hyperparams(MAKERS[name], static_args="learning_rate")
    tx = maker(0.01, batch_scale=4.0)
    params = helpers.example_params()
    state, update = tx.init(params), helpers.jit(tx.update)
    for seed, scale in enumerate((batch_scale, 4.0, batch_scale, 4.0)):
        weights = jnp.full(4, 2.0 if scale == 4 else 0.0)
        stack = helpers.random_stacks(seed, 4)
        grads, moments = optax_lena.moments_from_stack(stack, weights=weights)
        state.hyperparams["batch_scale"] = jnp.float32(scale)
        updates, state = update(grads, state, params, moments=moments)
        params = optax.apply_updates(params, updates)
    lena = helpers.lena_state(state)
    for leaf in jax.tree.leaves((params, lena)):
        assert np.isfinite(leaf).all()
    assert lena.clocks.base_steps.read() == 1 + 4 + 1 + 4
