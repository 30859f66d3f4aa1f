"""Guards that were tried: to the base rate only, and with a memory of spikes."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_lena
from benchmarks.methods.guards import LimitToBase, RememberedSpikes, with_less_noise
from benchmarks.methods.rates import REMEMBERED_AMPLIFIED
from optax_lena import Estimate


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_a_ratio_of_less_noise_is_the_gain_that_such_noise_has(share):
    noise, scale = jnp.array([0.0, 1e-3, 1.0, 30.0, 1e4]), jnp.float32(16)
    ratios = Estimate(noise, jnp.ones(5)).gain(scale)
    got = with_less_noise(ratios, jnp.float32(share), scale)
    expected = Estimate(share * noise, jnp.ones(5)).gain(scale)
    np.testing.assert_allclose(got, expected, rtol=1e-3)


def test_a_ratio_is_not_cut_below_the_base_batchs():
    rate = optax_lena.LayerRate(rule=optax_lena.linear, guard=LimitToBase(1.0))
    tx = optax_lena.scale_by_layer_rate(rate, 16)
    stack = jnp.array([[1.0, 0], [-1, 0], [1, 1], [-1, 1]])
    state, ratios = tx.init(jnp.ones(2)), []
    for factor in (1, 2, 100):
        grads, moments = optax_lena.moments_from_stack(factor * stack)
        _, state = tx.update(grads, state, moments=moments)
        ratios.append(state.applied.trust_ratio[0])
    assert ratios[0] == 16 > ratios[1] > 1 == ratios[2]


def test_a_spike_halves_the_noise_that_counts_and_a_calm_update_gives_some_back():
    tx = optax_lena.scale_by_layer_rate(REMEMBERED_AMPLIFIED, 16)
    stack = {"w": jnp.array([[1.0, 0], [-1, 0], [1, 1], [-1, 1]])}
    state, shares = tx.init({"w": jnp.ones(2)}), []
    for factor in (1, 1, 5, 1, 5, jnp.nan, 20):
        grown = optax.tree.scale(factor, stack)
        grads, moments = optax_lena.moments_from_stack(grown)
        _, state = tx.update(grads, state, moments=moments)
        shares.append(float(state.guard.share))
    expected = [1, 1, 0.5, 0.55, 0.275, 0.275, RememberedSpikes().floor]
    np.testing.assert_allclose(shares, expected, rtol=1e-5)
