"""Noise, signal and gain as functions of arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optax_lena._parts.estimate import Estimate, measure, not_measured
from tests import oracle


def measured(micro, batch, n, batch_scale):
    return measure(
        jnp.asarray(micro, jnp.float32),
        jnp.asarray(batch, jnp.float32),
        n,
        jnp.float32(batch_scale),
    )


def test_noise_and_signal_of_two_numbers():
    """Microbatches 1 and 3: sample variance 2, of a base batch if n = S."""
    noise, signal = measured([5.0], [4.0], 2, 2).estimate
    np.testing.assert_array_equal([noise, signal], [[2, 2], [3, 3]])


@pytest.mark.parametrize(("n", "batch_scale"), [(2, 2), (5, 2), (3, 9), (4, 2.5)])
def test_agrees_with_the_oracle(n, batch_scale):
    grads = np.random.default_rng(0).standard_normal((2, n, 6)) + 0.5
    micro, batch = (grads**2).sum(-1).mean(-1), (grads.mean(1) ** 2).sum(-1)
    got = measured(micro, batch, n, batch_scale).estimate
    shares = np.full(n, 1 / n)
    layers = [oracle.noise_and_signal(g, shares, batch_scale) for g in grads]
    expected = np.array([*layers, np.sum(layers, axis=0)])
    np.testing.assert_allclose(np.stack(got, axis=1), expected, rtol=1e-5)


def test_a_batch_scale_may_be_an_integer_that_is_none_of_jax():
    noise_only = Estimate(noise=jnp.ones(1), signal=jnp.zeros(1))
    np.testing.assert_array_equal(noise_only.gain(2**40), [2.0**40])
    np.testing.assert_array_equal(noise_only.sq_norm(2**40), [2.0**-40])


def test_rounding_never_makes_the_noise_negative():
    noise, signal = measured([1], [np.float32(1.0000001)], 4, 4).estimate
    assert (noise == 0).all() and (signal == np.float32(1.0000001)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_model_is_the_sum_of_the_layers_that_are_finite(bad):
    got = measured([5.0, bad, 5.0], [4.0, 4.0, 4.0], 2, 2)
    np.testing.assert_array_equal(got.is_finite, [True, False, True, True])
    np.testing.assert_array_equal(got.is_usable, got.is_finite)
    np.testing.assert_array_equal(got.estimate.noise[-1], 4)
    np.testing.assert_array_equal(got.estimate.signal[-1], 6)
    assert got.overflows == np.isinf(bad)


def test_without_a_finite_layer_there_is_no_model():
    got = measured([np.nan, np.inf], [1.0, 1.0], 2, 2)
    assert not got.is_finite.any() and not got.is_usable.any()


def test_a_sum_that_overflows_is_no_model_though_its_layers_are_finite():
    got = measured([3e38, 3e38], [3e38, 3e38], 2, 2)
    np.testing.assert_array_equal(got.is_finite, [True, True, False])
    assert got.overflows


def test_noise_and_signal_that_only_overflow_together_are_not_finite():
    """Their sum is what every gain is made of; the model is what the others are."""
    micro, batch = jnp.array([3e38, 3.0]), jnp.array([2.5e38, 2.0])
    update = measure(micro, batch, 2, jnp.float32(5))
    noise, signal = (x[0] for x in update.estimate)
    assert np.isfinite([noise, signal]).all() and np.isinf(noise + signal)
    np.testing.assert_array_equal(update.is_finite, [False, True, True])
    np.testing.assert_array_equal([x[-1] for x in update.estimate], [5, 1])
    assert update.overflows


def test_sums_that_only_overflow_together_are_no_model():
    """Of two layers that are fine, noise and signal each fit as well."""
    micro, batch = jnp.full(2, 1.8e38), jnp.full(2, 1.5e38)
    update = measure(micro, batch, 2, jnp.float32(4))
    noise, signal = (x[-1] for x in update.estimate)
    assert np.isfinite([noise, signal]).all() and np.isinf(noise + signal)
    np.testing.assert_array_equal(update.is_finite, [True, True, False])
    assert update.overflows


def test_one_microbatch_is_finite_and_measures_nothing():
    got = measured([5.0], [5.0], 1, 4)
    assert got.is_finite.all() and not got.is_usable.any()


def test_what_is_not_measured_is_finite_and_of_no_use():
    got = not_measured(2, jnp.float32(4))
    assert got.is_finite.shape == (3,) and got.is_finite.all()
    assert not got.is_usable.any() and not got.overflows and got.batch_scale == 4
    np.testing.assert_array_equal(got.estimate, np.zeros((2, 3)))


def test_an_update_without_moments_is_as_long_as_one_with():
    nothing = not_measured(2, jnp.float32(4))
    something = measure(jnp.ones(2), jnp.ones(2), 2, jnp.float32(4))
    for a, b in zip(nothing[:3], something[:3], strict=True):
        assert jax.tree.map(jnp.shape, a) == jax.tree.map(jnp.shape, b)


@pytest.mark.skipif(
    jax.__version_info__ < (0, 10), reason="multiplies by 1/6 there to divide by 6"
)
def test_a_compiled_estimate_has_the_bits_of_one_that_is_not():
    """Of each layer. Alone, a division has nothing that it could be fused with."""
    batch, spread = np.random.default_rng(0).random((2, 40))
    norms = batch + 3 * spread, batch
    estimate = lambda micro, batch: measured(micro, batch, 7, 7).estimate
    for got, expected in zip(jax.jit(estimate)(*norms), estimate(*norms), strict=True):
        np.testing.assert_array_equal(got[:-1], expected[:-1])


def test_gain_at_its_ends():
    noise, signal = jnp.array([0.0, 0, 1, 1, 3]), jnp.array([0.0, 1, 0, -0.5, 1])
    gain = Estimate(noise, signal).gain(8)
    np.testing.assert_allclose(gain, [1, 1, 8, 8, 4 / (3 / 8 + 1)], rtol=1e-6)


def test_gain_grows_with_the_batch_and_with_the_noise():
    scales = jnp.array([1.0, 2, 4, 64])
    gains = Estimate(jnp.float32(2), jnp.float32(1)).gain(scales)
    assert gains[0] == 1 and (jnp.diff(gains) > 0).all()
    assert (jnp.diff(Estimate(scales, jnp.ones(4)).gain(8)) > 0).all()


def test_the_squared_norm_of_any_batch_and_no_signal_below_zero():
    estimate = Estimate(jnp.array([6.0, 6]), jnp.array([1.0, -1]))
    np.testing.assert_array_equal(estimate.sq_norm(1), [7, 6])
    np.testing.assert_array_equal(estimate.sq_norm(3), [3, 2])


def test_batches_of_one_and_of_less_are_allowed():
    one = Estimate(jnp.ones(1), jnp.ones(1))
    assert (one.gain(1), one.sq_norm(0.5)) == (1, 3)


def test_the_noise_scale_is_finite_also_where_no_signal_was_seen():
    """Logs hold finite numbers; people read "inf" in a report."""
    largest = np.finfo(np.float32).max
    noise, signal = jnp.array([3.0, 3, 0, 3, 3e38]), jnp.array([1.5, 0, 0, -1, 1e-3])
    scale = Estimate(noise, signal).noise_scale()
    np.testing.assert_array_equal(scale, [2, largest, 0, largest, largest])


@pytest.mark.parametrize(
    ("noise", "signal", "scale", "gain"),
    [
        (0.5, 0.25, 2, 2),
        (0.5, 0.0, np.finfo(np.float32).max, 4),
        (0.5, -0.25, np.finfo(np.float32).max, 4),
        (0.0, 0.0, 0, 1),
        (0.0, -0.25, 0, 1),
        (0.0, 0.25, 0, 1),
    ],
)
def test_estimates_below_one_are_as_good_as_those_above(noise, signal, scale, gain):
    estimate = Estimate(jnp.array([noise]), jnp.array([signal]))
    assert estimate.noise_scale() == np.float32(scale)
    np.testing.assert_allclose(estimate.gain(4), gain, rtol=1e-6)


@pytest.mark.parametrize("noise", [0.0, 1.0, 7.0])
@pytest.mark.parametrize("batch_scale", [0.125, 0.5, 1, 2.5])
def test_the_gain_below_the_base_batch(noise, batch_scale):
    """An update with fewer examples is worth less than a step, and at least S."""
    estimate = Estimate(jnp.array([noise]), jnp.array([1.0]))
    (gain,) = estimate.gain(batch_scale)
    np.testing.assert_allclose(gain, (noise + 1) / (noise / batch_scale + 1), rtol=1e-6)
    assert min(batch_scale, 1) <= gain <= max(batch_scale, 1)


def test_only_noise_below_the_base_batch_is_worth_its_share():
    estimate = Estimate(jnp.array([1.0]), jnp.array([-0.3]))
    np.testing.assert_array_equal(estimate.gain(0.25), 0.25)


@pytest.mark.parametrize("noise, signal", [(1.3e36, 3.35e38), (3e38, 1e30), (1.0, 1.0)])
def test_amplified_noise_overflows_nowhere(noise, signal):
    estimate = Estimate(jnp.float32([noise]), jnp.float32([signal])).amplified(4)
    expected = oracle.gain_ratio(4 * noise, signal, 64)
    np.testing.assert_allclose(estimate.gain(64), expected, rtol=1e-5)
