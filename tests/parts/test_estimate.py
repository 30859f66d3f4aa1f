"""Noise, signal and gain as functions of arrays."""

import jax.numpy as jnp
import numpy as np
import pytest

import optax_lena
from optax_lena import _noise
from tests import oracle


def test_noise_and_signal_of_two_numbers():
    """Microbatches 1 and 3: sample variance 2, of a base batch if n = S."""
    noise, signal = _noise.noise_and_signal(5.0, 4.0, 2, 2)
    assert (noise, signal) == (2.0, 3.0)


@pytest.mark.parametrize(("n", "batch_scale"), [(2, 2), (5, 2), (3, 9), (4, 2.5)])
def test_agrees_with_the_oracle(n, batch_scale):
    grads = np.random.default_rng(0).standard_normal((n, 6)) + 0.5
    micro, batch = (grads**2).sum(1).mean(), (grads.mean(0) ** 2).sum()
    got = _noise.noise_and_signal(np.float32(micro), np.float32(batch), n, batch_scale)
    expected = oracle.noise_and_signal(grads, np.full(n, 1 / n), batch_scale)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_rounding_never_makes_the_noise_negative():
    noise, signal = _noise.noise_and_signal(np.float32(1), np.float32(1.0000001), 4, 4)
    assert noise == 0 and signal == np.float32(1.0000001)


def test_gain_at_its_ends():
    noise, signal = jnp.array([0.0, 0, 1, 1, 3]), jnp.array([0.0, 1, 0, -0.5, 1])
    gain = _noise.gain_ratio(noise, signal, 8)
    np.testing.assert_allclose(gain, [1, 1, 8, 8, 4 / (3 / 8 + 1)], rtol=1e-6)


def test_gain_grows_with_the_batch_and_with_the_noise():
    scales = jnp.array([1.0, 2, 4, 64])
    gains = _noise.gain_ratio(2.0, 1.0, scales)
    assert gains[0] == 1 and (jnp.diff(gains) > 0).all()
    assert (jnp.diff(_noise.gain_ratio(scales, 1.0, 8.0)) > 0).all()


def test_noise_scale():
    noise, signal = jnp.array([3.0, 3, 0, 3]), jnp.array([1.5, 0, 0, -1])
    scale = _noise.noise_scale(noise, signal)
    np.testing.assert_array_equal(scale, [2, np.inf, 0, np.inf])


def test_reference_gain_has_an_epsilon_and_no_cap():
    assert _noise.reference_gain_ratio(0.0, 0.0, 4) == 1
    tiny = _noise.reference_gain_ratio(1e-6, 0.0, 4)
    np.testing.assert_allclose(tiny, 2 / 1.25, rtol=1e-6)
    assert _noise.reference_gain_ratio(1.0, -0.1, 4) > 4


def test_averages_move_only_where_measured():
    start = _noise.Averages(*jnp.array([[1.0, 1], [2, 2], [0.5, 0.5]]))
    measured = jnp.array([True, False])
    nan = jnp.array([3.0, jnp.nan])
    noise, signal, weight = start.update(nan, nan, 0.25, measured)
    np.testing.assert_array_equal(noise, [1.5, 1])
    np.testing.assert_array_equal(signal, [2.25, 2])
    np.testing.assert_array_equal(weight, [0.625, 0.5])


def test_constant_averages_have_no_bias_at_any_time():
    averages = _noise.Averages(*jnp.zeros((3, 1)))
    for _ in range(3):
        averages = averages.update(3.0, 2.0, 0.125, jnp.array([True]))
        np.testing.assert_allclose(averages.unbiased(), [[3.0], [2.0]], rtol=1e-6)


def test_shares_of_the_model_sum_to_one_and_keep_every_gain():
    noise, signal = jnp.array([3.0, 8.0]), jnp.array([1.0, 4.0])
    shares = _noise.relative_to_model(noise, signal)
    assert sum(share.sum() for share in shares) == pytest.approx(1)
    np.testing.assert_allclose(
        _noise.gain_ratio(*shares, 16), _noise.gain_ratio(noise, signal, 16), rtol=1e-6
    )


def test_a_layer_that_is_not_finite_has_no_share_in_the_others():
    noise, signal = jnp.array([3.0, jnp.nan]), jnp.array([1.0, jnp.inf])
    shares = _noise.relative_to_model(noise, signal)
    np.testing.assert_allclose([share[0] for share in shares], [0.75, 0.25])
    assert not np.isfinite(shares[0][1])


def test_no_gradient_has_no_share():
    zeros = jnp.zeros(2)
    np.testing.assert_array_equal(_noise.relative_to_model(zeros, zeros), 0)


@pytest.mark.parametrize("scale", [1.0, 2.0, 64.0, 3000.0])
def test_an_amplified_gain_is_the_gain_at_eight_times_the_noise(scale):
    noise, signal = jnp.array([0.0, 1e-3, 1, 50, 1e6]), jnp.array([1.0, 1, 1, 1, 0])
    gain = _noise.gain_ratio(noise, signal, scale)
    amplified = optax_lena.amplified_gain.trust_ratio(gain, jnp.float32(scale))
    expected = _noise.gain_ratio(8 * noise, signal, scale)
    np.testing.assert_allclose(amplified, expected, rtol=2e-4)
    assert amplified[0] == 1
    assert amplified[-1] == scale
