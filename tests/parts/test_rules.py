"""Rules: what they make of noise and signal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optax_lena
from optax_lena import Estimate
from tests import helpers

NOISE, SIGNAL = jnp.array([0.0, 1e-3, 1, 50, 1e6]), jnp.array([1.0, 1, 1, 1, 0])


@pytest.mark.parametrize("scale", [1.0, 2.0, 64.0, 3000.0])
def test_an_amplified_gain_is_the_gain_at_four_times_the_noise(scale):
    estimate = Estimate(NOISE, SIGNAL)
    amplified = optax_lena.amplified_gain.trust_ratio(estimate, jnp.float32(scale))
    expected = Estimate(4 * NOISE, SIGNAL).gain(scale)
    np.testing.assert_allclose(amplified, expected, rtol=1e-6)
    assert amplified[0] == 1
    assert amplified[-1] == scale
    gain = estimate.gain(scale)
    assert (amplified >= gain).all() and (amplified <= 4 * gain).all()


@pytest.mark.parametrize("noise", [1.0, 1e37, 3e38])
def test_a_noise_that_eightfold_overflows_is_worth_as_much(noise):
    estimate = Estimate(jnp.array([noise]), jnp.array([0.0]))
    ratio = optax_lena.normalised_gain.trust_ratio(estimate, jnp.float32(16))
    np.testing.assert_allclose(ratio, 4.0, rtol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_the_other_rules(scale):
    estimate, scale = Estimate(NOISE, SIGNAL), jnp.float32(scale)
    gain = estimate.gain(scale)
    ratio = lambda rule: rule.trust_ratio(estimate, scale)
    np.testing.assert_array_equal(ratio(optax_lena.capped_gain), gain)
    np.testing.assert_allclose(ratio(optax_lena.square_root_gain), np.sqrt(gain))
    np.testing.assert_array_equal(ratio(optax_lena.linear), np.full(5, scale))
    worth = Estimate(8 * NOISE, SIGNAL).gain(scale) / np.sqrt(gain)
    limited = np.minimum(worth, np.sqrt(scale))
    np.testing.assert_allclose(ratio(optax_lena.normalised_gain), limited, rtol=1e-6)


@pytest.mark.parametrize("scale", [0.25, 1.0, 4.0, 64.0, 1024.0])
def test_a_normalised_gain_stays_between_one_and_the_root_of_the_scale(scale):
    noise = jnp.logspace(-6, 6, 200)
    estimate = Estimate(noise, jnp.ones_like(noise))
    ratio = optax_lena.normalised_gain.trust_ratio(estimate, jnp.float32(scale))
    root = np.sqrt(np.float32(scale))
    assert ratio.min() >= min(root, 1) and ratio.max() <= max(root, 1)
    np.testing.assert_allclose(ratio[jnp.array([0, -1])], [1, root], rtol=1e-3)


def test_only_linear_scaling_needs_no_moments():
    needs = {
        name: getattr(optax_lena, name).needs_moments
        for name in ("capped_gain", "amplified_gain", "square_root_gain", "linear")
    }
    assert [name for name, value in needs.items() if not value] == ["linear"]


def test_a_rule_of_ones_own():
    half = optax_lena.Rule(lambda estimate, scale: estimate.gain(scale) / 2)
    stack = helpers.random_stacks(14, 4)
    plain, _ = helpers.updated(optax_lena.scale_by_lena(4), stack)
    halved, _ = helpers.updated(optax_lena.scale_by_lena(4, rule=half), stack)
    helpers.assert_trees_close(halved, jax.tree.map(lambda u: u / 2, plain))
