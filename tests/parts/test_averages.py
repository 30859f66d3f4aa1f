"""Moving averages: where they move, without bias, and as shares of the model."""

import jax.numpy as jnp
import numpy as np
import pytest

from optax_lena import Averages, Estimate
from optax_lena._parts.averages import AveragesState, relative_to_model
from optax_lena._parts.estimate import measure


def test_averages_move_only_where_they_may():
    start = AveragesState(*jnp.array([[1.0, 1], [2, 2], [0.5, 0.5]]))
    nan = jnp.array([3.0, jnp.nan])
    noise, signal, weight = start.move(
        Estimate(nan, nan), 0.25, jnp.array([True, False])
    )
    np.testing.assert_array_equal(noise, [1.5, 1])
    np.testing.assert_array_equal(signal, [2.25, 2])
    np.testing.assert_array_equal(weight, [0.625, 0.5])


def test_constant_averages_have_no_bias_at_any_time():
    averages = AveragesState.zeros(1)
    for _ in range(3):
        averages = averages.move(
            Estimate(jnp.float32(3), jnp.float32(2)), 0.125, jnp.array([True])
        )
        np.testing.assert_allclose(averages.unbiased(), [[3.0], [2.0]], rtol=1e-6)


def test_nothing_averaged_reads_as_nothing():
    estimator = Averages()
    np.testing.assert_array_equal(estimator.read(estimator.init(2)), np.zeros((2, 2)))


@pytest.mark.parametrize(("batch_scale", "step"), [(5, 0.25), (20, 1), (99, 1)])
def test_the_horizon_counts_base_batches(batch_scale, step):
    """Two updates, of noise S and 2 S and signal 0 and 3."""
    estimator = Averages(horizon=20)
    state = estimator.init(2)
    for micro, batch in ((1.0, 0.0), (5.0, 3.0)):
        moments = jnp.float32([[micro], [batch]])
        measured = measure(*moments, 2, jnp.float32(batch_scale))
        state = estimator.update(state, measured)
    keep = 1 - step
    weight = 1 - keep**2
    signal = (keep * step * -1 + step * 1) / weight
    noise = batch_scale * (keep * step * 1 + step * 2) / weight
    got = estimator.read(state)
    np.testing.assert_allclose(got, [[noise] * 2, [signal] * 2], rtol=1e-5)


@pytest.mark.parametrize("relative", [False, True])
def test_a_batch_beyond_the_horizon_is_the_average(relative):
    averages = Averages(horizon=2, relative=relative)
    update = measure(jnp.array([0.25]), jnp.array([0.125]), 2, jnp.float32(8))
    state = averages.update(averages.init(2), update)
    np.testing.assert_array_equal(state.weight, 1)
    noise, signal = averages.read(averages.update(state, update))
    # 8 * 0.125 of noise to no signal: the model's squared norm, whatever its size.
    np.testing.assert_allclose(noise, 1)
    np.testing.assert_allclose(signal, 0)


def test_a_horizon_of_one_is_allowed():
    assert Averages(1).horizon == 1


def test_shares_of_the_model_sum_to_one_and_keep_every_gain():
    estimate = Estimate(jnp.array([3.0, 8.0, 11.0]), jnp.array([1.0, 4.0, 5.0]))
    shares = relative_to_model(estimate, jnp.float32(16))
    assert sum(share[:-1].sum() for share in shares) == pytest.approx(1)
    assert sum(share[-1] for share in shares) == pytest.approx(1)
    np.testing.assert_allclose(shares.gain(16), estimate.gain(16), rtol=1e-6)


def test_a_layer_that_is_not_finite_has_no_share_in_the_others():
    micro, batch = jnp.array([4.0, jnp.nan]), jnp.array([2.5, jnp.inf])
    measured = measure(micro, batch, 2, jnp.float32(2))
    np.testing.assert_array_equal([x[0] for x in measured.estimate], [3, 1])
    noise, signal = relative_to_model(measured.estimate, jnp.float32(2))
    np.testing.assert_allclose([noise[0], signal[0]], [0.75, 0.25])
    np.testing.assert_allclose([noise[-1], signal[-1]], [0.75, 0.25])
    assert not np.isfinite(noise[1])


def test_no_gradient_has_no_share():
    zeros = jnp.zeros(3)
    shares = relative_to_model(Estimate(zeros, zeros), jnp.float32(2))
    np.testing.assert_array_equal(shares, 0)


def test_a_norm_without_a_reciprocal_has_no_share(monkeypatch):
    """On GPUs: they keep subnormal numbers as NumPy does, and XLA's CPUs do not."""
    monkeypatch.setattr("optax_lena._parts.averages.jnp", np)
    subnormal, normal = np.float32(1e-40), np.finfo(np.float32).tiny
    for size, share in ((subnormal, subnormal), (normal, 0.5)):
        estimate = Estimate(np.full(2, size), np.full(2, size))
        noise, _ = relative_to_model(estimate, np.float32(2))
        np.testing.assert_allclose(noise, share)


def test_relative_averages_of_small_gradients_sum_to_one():
    averages = Averages(relative=True)
    micro, batch = jnp.array([0.02, 0.03]), jnp.array([0.015, 0.025])
    update = measure(micro, batch, 4, jnp.float32(4))
    noise, signal = averages.read(averages.update(averages.init(3), update))
    np.testing.assert_allclose(noise[-1] + signal[-1], 1, rtol=1e-6)
    nothing = measure(jnp.zeros(2), jnp.zeros(2), 4, jnp.float32(4))
    state = averages.update(averages.init(3), nothing)
    np.testing.assert_array_equal(averages.read(state), np.zeros((2, 3)))


def test_relative_averages_weigh_every_update_alike():
    """One update a million times as long as the other, of the opposite proportions."""
    estimator = Averages(horizon=10, relative=True)
    state = estimator.init(2)
    for unit, micro, batch in ((1e6, 2.0, 1.0), (1.0, 1.0, 1.0)):
        moments = jnp.float32([[unit * micro], [unit * batch]])
        state = estimator.update(state, measure(*moments, 2, jnp.float32(2)))
    # Noise 2 and signal 0 at first, then noise 0 and signal 1; of weights 0.16 and 0.2.
    np.testing.assert_allclose(
        estimator.read(state), [[0.16 / 0.36] * 2, [0.2 / 0.36] * 2], rtol=1e-5
    )


@pytest.mark.parametrize("batch_scale", [0.5, 2.0])
def test_relative_averages_do_not_depend_on_the_unit_of_the_loss(batch_scale):
    """Below S = 1 noise and signal of a base batch may sum to less than nothing."""
    scale, rng = jnp.float32(batch_scale), np.random.default_rng(0)
    stacks = rng.standard_normal((20, 2, 3)).astype(np.float32)
    found = []
    for unit in (1.0, 2.0**20):
        estimator = Averages(horizon=10, relative=True)
        state = estimator.init(2)
        for stack in stacks:
            micro = unit * np.square(stack).sum(1, keepdims=True).mean(0)
            batch = unit * np.square(stack.mean(0)).sum(keepdims=True)
            state = estimator.update(state, measure(micro, batch, 2, scale))
        found.append(estimator.read(state))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)
    assert np.all(np.abs(found[0]) < 100)
