"""Edges of the parts: what only a mutation test has asked about."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optax_lena
from optax_lena import Estimate, SpikeLimit
from optax_lena._parts.averages import AveragesState
from optax_lena._parts.clocks import Count
from optax_lena._parts.estimate import measure, not_measured
from optax_lena._parts.warmup import ramp

MILD = {"a": jnp.array([1.0, -1.0, 2.0]), "b": jnp.array([1.0, 3.0, 2.0])}


def guarded(*stacks):
    """Returns the guard's memory after each batch."""
    tx = optax_lena.scale_by_layer_rate(optax_lena.LayerRate(guard=SpikeLimit()), 4)
    state = tx.init({"a": jnp.ones(()), "b": jnp.ones(())})
    memories = []
    for stack in stacks:
        grads, moments = optax_lena.moments_from_stack(stack)
        _, state = tx.update(grads, state, moments=moments)
        memories.append(state.guard)
    return memories


def test_the_guard_forgets_a_batch_without_a_finite_layer():
    none = {k: x + jnp.nan for k, x in MILD.items()}
    before, after = guarded(MILD, none)
    np.testing.assert_array_equal(after, before)
    assert np.isfinite(after).all() and before.weight > 0


def test_the_guard_remembers_what_one_bad_layer_leaves():
    before, after = guarded(MILD, MILD | {"b": MILD["b"] + jnp.nan})
    assert after.weight > before.weight
    assert np.isfinite(after).all() and after.noise != before.noise


@pytest.mark.parametrize("usable", [True, False])
@pytest.mark.parametrize("overflows", [True, False])
def test_the_guards_memory_moves_only_where_the_model_is_usable(usable, overflows):
    update = measure(jnp.ones(1), jnp.ones(1), 2, jnp.float32(4))._replace(
        is_usable=jnp.array([True, usable]), overflows=jnp.array(overflows)
    )
    moved = SpikeLimit().remember(SpikeLimit().init(2), jnp.ones(()), update)
    assert (moved.weight > 0) == (usable and not overflows)


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


def test_defaults_are_the_papers():
    rate = optax_lena.LayerRate()
    assert (rate.learning_rate, rate.clock, rate.guard) == (1, "base_steps", None)
    assert rate.estimator == optax_lena.Averages(horizon=1000, relative=False)
    assert rate.warmup == optax_lena.StateAwareWarmup(steps=0)
    assert (SpikeLimit().limit, optax_lena.FixedWarmup().steps) == (1.25, 0)


def test_the_least_values_are_allowed():
    assert optax_lena.Averages(1).horizon == SpikeLimit(1).limit == 1
    one = Estimate(jnp.ones(1), jnp.ones(1))
    assert (one.gain(1), one.sq_norm(0.5)) == (1, 3)
    optax_lena.lena(0, 1, warmup_steps=0, momentum=0, weight_decay=0)
    optax_lena.lena(0.1, 1000, reference=True)


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


def test_averages_of_nothing_are_zero():
    np.testing.assert_array_equal(AveragesState.zeros(2).unbiased(), np.zeros((2, 2)))


@pytest.mark.parametrize("relative", [False, True])
def test_a_batch_beyond_the_horizon_is_the_average(relative):
    averages = optax_lena.Averages(horizon=2, relative=relative)
    update = measure(jnp.array([0.25]), jnp.array([0.125]), 2, jnp.float32(8))
    state = averages.update(averages.init(2), update)
    np.testing.assert_array_equal(state.weight, 1)
    noise, signal = averages.read(averages.update(state, update))
    # 8 * 0.125 of noise to no signal: the model's squared norm, whatever its size.
    np.testing.assert_allclose(noise, 1)
    np.testing.assert_allclose(signal, 0)


def test_relative_averages_of_small_gradients_sum_to_one():
    averages = optax_lena.Averages(relative=True)
    micro, batch = jnp.array([0.02, 0.03]), jnp.array([0.015, 0.025])
    update = measure(micro, batch, 4, jnp.float32(4))
    noise, signal = averages.read(averages.update(averages.init(3), update))
    np.testing.assert_allclose(noise[-1] + signal[-1], 1, rtol=1e-6)
    nothing = measure(jnp.zeros(2), jnp.zeros(2), 4, jnp.float32(4))
    state = averages.update(averages.init(3), nothing)
    np.testing.assert_array_equal(averages.read(state), np.zeros((2, 3)))


@pytest.mark.parametrize("steps", [0.25, 1, 1.5])
@pytest.mark.parametrize("kind", [optax_lena.StateAwareWarmup, optax_lena.FixedWarmup])
def test_warmups_may_be_short(kind, steps):
    warmup = kind(steps)
    np.testing.assert_array_equal(warmup.init(2), 0)
    progress = Count.zeros(2).add(jnp.full(2, 0.125))
    np.testing.assert_allclose(ramp(progress.read(), steps), 0.125 / steps)


@pytest.mark.parametrize("steps", [2.0**31, 1e12])
def test_a_clock_adds_at_most_what_converts_exactly(steps):
    count = Count.zeros().add(jnp.float32(steps))
    assert (count.whole, count.whole.dtype) == (2**30, jnp.int32)


def test_an_update_without_moments_is_as_long_as_one_with():
    nothing = not_measured(2, jnp.float32(4))
    something = measure(jnp.ones(2), jnp.ones(2), 2, jnp.float32(4))
    for a, b in zip(nothing[:3], something[:3], strict=True):
        assert jax.tree.map(jnp.shape, a) == jax.tree.map(jnp.shape, b)
    assert nothing.is_finite.all() and not nothing.is_usable.any()
    assert not nothing.overflows


def test_a_warmup_of_your_own_needs_moments_unless_it_says_otherwise():
    """It may read the gain, which they are needed for."""

    class Own:
        init = update = lambda *given: given

    rate = optax_lena.LayerRate(rule=optax_lena.linear, warmup=Own())
    assert rate.needs_moments
    Own.needs_moments = False
    assert not rate.needs_moments


def test_the_end_of_a_warmup_is_kept_once_it_came():
    rate = optax_lena.LayerRate(warmup=optax_lena.FixedWarmup(8))
    update = measure(jnp.ones(2), jnp.ones(2), 2, jnp.float32(4))
    state = rate.init(3)
    ends = [state.warmup_end]
    for _ in range(4):
        state = rate.update(state, update)
        ends.append(state.warmup_end)
    np.testing.assert_array_equal(ends, np.tile([[-1], [-1], [8], [8], [8]], 3))
