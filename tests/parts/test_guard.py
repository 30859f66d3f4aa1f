"""A spike cuts the rate by what the last updates' gradients say, and no further."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_lena
from optax_lena import _spikes
from optax_lena._noise import Averages
from tests import helpers

ONE = jnp.ones(())


def after(noise, signal, updates=50):
    """What is remembered of so many equal updates."""
    recent = Averages(*jnp.zeros(3))
    for _ in range(updates):
        recent = _spikes.remember(
            recent, jnp.float32(noise), jnp.float32(signal), ONE, jnp.bool(True)
        )
    return recent


@pytest.mark.parametrize("updates", [1, 50])
@pytest.mark.parametrize("times", [0.5, 1.0, 2.0, 8.0, 1e6])
def test_the_factor_brings_the_norm_to_its_limit(times, updates):
    recent = after(32.0, 1.0, updates)  # at S = 16 a squared norm of 3
    noise, signal = jnp.float32(32 * times), jnp.float32(times)
    factor = _spikes.factor(recent, noise, signal, 16, 2)
    np.testing.assert_allclose(factor, min(1, np.sqrt(2 / times)), rtol=1e-5)


def test_the_expectation_follows_the_batch():
    """A quarter of the batch has four times the noise, which is no spike."""
    recent = after(32.0, 1.0)
    for scale in (4, 16, 64):
        usual = _spikes.factor(recent, jnp.float32(32), ONE, scale, 1)
        np.testing.assert_allclose(usual, 1, rtol=1e-5)
    assert _spikes.factor(recent, jnp.float32(64), 2 * ONE, 4, 1) < 1


def test_a_batch_whose_signal_is_hidden_is_expected_to_have_noise():
    recent = after(32.0, -1.0)
    assert _spikes.factor(recent, jnp.float32(32), jnp.zeros(()), 64, 1.5) == 1


@pytest.mark.parametrize("recent", [Averages(*jnp.zeros(3)), after(0.0, 0.0)])
def test_without_a_gradient_before_nothing_is_a_spike(recent):
    assert _spikes.factor(recent, ONE, ONE, 4, 2) == 1


def test_a_spike_is_remembered_as_it_was_cut():
    recent, tenfold = after(32.0, 1.0), jnp.float32(320)
    cut = _spikes.factor(recent, tenfold, 10 * ONE, 16, 2)
    moved = _spikes.remember(recent, tenfold, 10 * ONE, cut, jnp.bool(True))
    np.testing.assert_allclose(moved.noise / recent.noise, 1.1, rtol=1e-2)


@pytest.mark.parametrize("cut", [0.0, 0.25, 1.0])
def test_the_ratio_is_not_cut_below_the_base_batchs(cut):
    ratios = jnp.array([0.5, 1.0, 2.0, 64.0])
    got = _spikes.cut_ratio(ratios, jnp.float32(cut))
    np.testing.assert_array_equal(got, [0.5, 1.0, max(2 * cut, 1), max(64 * cut, 1)])


def test_gradients_that_all_grow_by_one_factor_are_cut_alike():
    """The layers' rates keep their proportions."""
    stacks = helpers.random_stacks(3, 4)
    grown = jax.tree.map(lambda x: 5 * x, stacks)
    tx = optax_lena.scale_by_lena(16, averages="relative", spike_limit=2)
    state = tx.init(helpers.example_params())
    ratios = []
    for batch in (stacks, stacks, grown):
        grads, moments = optax_lena.moments_from_stack(batch)
        _, state = tx.update(grads, state, moments=moments)
        ratios.append(state.applied.trust_ratio)
    np.testing.assert_allclose(ratios[0], ratios[1], rtol=1e-6)
    factor = np.sqrt(2) / 5
    np.testing.assert_allclose(state.applied.spike_factor, factor, rtol=1e-5)
    expected = np.maximum(factor * np.asarray(ratios[0]), 1)
    np.testing.assert_allclose(ratios[2], expected, rtol=1e-4)


def test_sums_that_overflow_leave_the_memory_as_it_was():
    tx = optax_lena.scale_by_lena(4, averages="relative", spike_limit=2)
    mild, huge = {"a": jnp.ones((4, 2)), "b": jnp.ones((4, 2))}, 1e19
    state = tx.init({"a": jnp.ones(2), "b": jnp.ones(2)})
    states = [state]
    for stack in (mild, jax.tree.map(lambda x: huge * x, mild)):
        grads, moments = optax_lena.moments_from_stack(stack)
        _, state = tx.update(grads, states[-1], moments=moments)
        states.append(state)
    assert 2 * huge**2 < float(np.finfo("f").max) < 4 * huge**2
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(states))
    np.testing.assert_array_equal(states[2].recent, states[1].recent)
    assert states[2].applied.trust_ratio.max() == 1


def test_a_rate_that_is_too_large_does_not_run_away():
    """On a quadratic whose steep direction bears a ratio of 4 of the 16."""
    curvature = jnp.array([1.0, 0.1, 0.01])

    def farthest(spike_limit, key):
        tx = optax_lena.lena_amplified(1.0, 16, spike_limit=spike_limit)

        def step(carry, key):
            params, state = carry
            noise = jax.random.normal(key, (16, 3)) / 10
            stack = jnp.expand_dims(curvature * params, 0) + noise
            grads, moments = optax_lena.moments_from_stack(stack)
            updates, state = tx.update(grads, state, params, moments=moments)
            params = optax.apply_updates(params, updates)
            return (params, state), jnp.linalg.norm(params)

        start = jnp.ones(3)
        keys = jax.random.split(key, 300)
        return jax.lax.scan(step, (start, tx.init(start)), keys)[1].max()

    keys = jax.random.split(jax.random.key(0), 8)
    assert jax.vmap(lambda key: farthest(None, key))(keys).max() > 100
    assert jax.vmap(lambda key: farthest(2.0, key))(keys).max() < 20
