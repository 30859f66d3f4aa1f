"""Squared norms that overflow float32 do not make the guard fail open."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_lena
from tests import helpers

S = 32
MILD = {
    "a": np.float32([[1, 0], [-1, 0], [1, 1], [-1, 1]]),
    "b": np.float32([[2, 0], [0, 2], [1, 1], [1, 1]]),
}


def times(factors, dtype=jnp.float32):
    """Multiplies layers; zeros stay zeros, also times infinity."""
    by = lambda x, factor: jnp.where(x == 0, 0, x * factor).astype(dtype)
    return {k: by(jnp.asarray(x), factors.get(k, 1)) for k, x in MILD.items()}


def stepper(tx, dtype=jnp.float32):
    """Returns the state after a few mild updates, and one update as a function."""

    @helpers.jit
    def step(stack, state):
        grads, moments = optax_lena.moments_from_stack(stack)
        return tx.update(grads, state, grads, moments=moments)

    _, state = step(times({}, dtype), tx.init({k: jnp.ones(2, dtype) for k in MILD}))
    for _ in range(3):
        _, state = step(times({}, dtype), state)
    return state, step


def amplified(**options):
    return optax_lena.lena_amplified(0.1, S, momentum=None, warmup_steps=8, **options)


# Each too large in its own way: as a norm, as S times one, as the model's sum, or as
# a number.
HUGE = {
    "a squared norm": {"b": 1e19},
    "a squared norm, of all layers": {"a": 1e20, "b": 1e20},
    "S times a squared norm": {"b": 7e18},
    "the model's sum": {"a": 4.3e18, "b": 4.3e18},
    "infinity": {"b": np.inf},
}


@pytest.mark.parametrize("how", HUGE)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_what_overflows_cuts_every_ratio_all_the_way(how, dtype):
    before, step = stepper(amplified(), dtype)
    mild = helpers.lena_state(before)
    assert mild.applied.trust_ratio.max() > 4
    _, after = step(times(HUGE[how], dtype), before)
    state = helpers.lena_state(after)
    np.testing.assert_array_equal(state.applied.trust_ratio, 1 / S)
    assert state.applied.spike_factor == 0
    helpers.assert_trees_equal(state.guard, mild.guard)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


def test_infinities_of_float16_are_told_of_as_well():
    """Its largest number is 65,504, whose square float32 holds with ease."""
    before, step = stepper(amplified(), jnp.float16)
    for factor, is_cut in ((1e5, True), (100, False)):
        _, after = step(times({"b": factor}, jnp.float16), before)
        assert (helpers.lena_state(after).applied.spike_factor == 0) == is_cut


def test_the_layers_that_overflow_keep_averages_and_progress():
    tx = optax_lena.lena_amplified(0.1, S, momentum=None, warmup_steps=1000)
    before, step = stepper(tx)
    _, after = step(times({"b": 1e19}), before)
    then, now = (helpers.lena_state(s) for s in (before, after))
    for new, old in zip(
        (*now.averages, now.progress.read()),
        (*then.averages, then.progress.read()),
        strict=True,
    ):
        assert new[1] == old[1]
    assert now.progress.read()[0] > then.progress.read()[0]
    assert float(now.clocks.rate_steps) > float(then.clocks.rate_steps)


@pytest.mark.parametrize("how", ["a squared norm, of all layers", "the model's sum"])
def test_where_the_model_overflows_no_average_moves(how):
    """Also the layers that do not: there is no norm of which theirs is a share."""
    before, step = stepper(amplified())
    _, after = step(times(HUGE[how]), before)
    then, now = (helpers.lena_state(s) for s in (before, after))
    helpers.assert_trees_equal(now.averages, then.averages)
    for clock, base in (("base_steps", S), ("gain_steps", 0), ("rate_steps", 0)):
        moved = float(getattr(now.clocks, clock)) - float(getattr(then.clocks, clock))
        assert moved == base


@pytest.mark.parametrize("how", HUGE)
def test_the_run_recovers(how):
    """The update after the spike is what it would have been without."""
    before, step = stepper(amplified())
    _, spiked = step(times(HUGE[how]), before)
    updates, after = step(times({}), spiked)
    expected, _ = step(times({}), before)
    # Layers that were fine have learned from the spike's update, as they should.
    helpers.assert_trees_close(updates, expected, rtol=0.05, atol=1e-3)
    assert helpers.lena_state(after).applied.spike_factor == 1


def test_training_goes_on_around_a_spike_that_is_skipped():
    tx = optax.apply_if_finite(optax_lena.lena_amplified(0.1, S), 5)
    before, step = stepper(tx)
    _, spiked = step(times({"b": np.inf}), before)
    updates, _ = step(times({}), spiked)
    expected, _ = step(times({}), before)
    helpers.assert_trees_equal(updates, expected)


def test_the_first_update_may_overflow():
    tx = amplified()
    grads, moments = optax_lena.moments_from_stack(times(HUGE["the model's sum"]))
    _, state = tx.update(grads, tx.init(grads), moments=moments)
    assert helpers.lena_state(state).applied.spike_factor == 0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("layer", ["a", "b"])
def test_one_bad_layer_leaves_the_clocks_to_the_other(bad, layer):
    before, step = stepper(amplified())
    other = {"a": "b", "b": "a"}[layer]
    _, after = step(times({layer: bad}), before)
    then, now = (optax_lena.metrics(s) for s in (before, after))
    assert now["model/base_steps"] == then["model/base_steps"] + S
    for clock in ("gain_steps", "rate_steps"):
        assert now[f"model/{clock}"] > then[f"model/{clock}"]
    assert now[f"noise/{layer}"] == then[f"noise/{layer}"]
    assert now[f"progress/{layer}"] == then[f"progress/{layer}"]
    assert now[f"noise/{other}"] != then[f"noise/{other}"]
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(now))


@pytest.mark.parametrize("noise", [1e37, 4e37, 1e38, 3e38])
def test_the_amplified_gain_of_a_large_noise_is_that_of_a_small_one(noise):
    """Without relative averages the estimate may be as large as float32 allows."""
    small = optax_lena.Estimate(jnp.float32([8.0]), jnp.float32([1.0]))
    large = optax_lena.Estimate(*(x * np.float32(noise / 8) for x in small))
    ratio = optax_lena.amplified_gain.trust_ratio
    np.testing.assert_allclose(
        ratio(large, jnp.float32(16)), ratio(small, jnp.float32(16)), rtol=1e-6
    )


def test_successive_gradients_and_accumulated_ones_are_guarded_too():
    huge = {"w": jnp.array([1e20, 1e20])}
    mild = ({"w": jnp.array([1.0, -1.0])}, {"w": jnp.array([1.0, 1.0])})
    tx = optax_lena.from_successive_gradients(amplified())
    state = tx.init(mild[0])
    for grads in (*mild, *mild):
        _, state = tx.update(grads, state, grads)
    _, after = tx.update(huge, state, huge)
    np.testing.assert_array_equal(helpers.lena_state(after).applied.trust_ratio, 1 / S)
    assert helpers.lena_state(after).applied.spike_factor == 0
    helpers.assert_trees_equal(after.grads, state.grads)
    tx = optax_lena.accumulate(amplified(), 2)
    state = tx.init(huge)
    _, after = tx.update(huge, state, huge)
    assert (int(after.calls), int(after.skipped)) == (1, 0)
