"""A spike cuts the rate to the limit that the last gradients set, and no further."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_lena
from optax_lena import Estimate, GrowthLimit, SpikeLimit
from optax_lena._parts.estimate import measure
from tests import helpers
from tests.helpers import measured

ONE = jnp.ones(())


def model(noise, signal):
    return Estimate(jnp.float32(noise), jnp.float32(signal))


def factor(limit, state, estimate, batch_scale):
    return SpikeLimit(limit).factor(state, measured(estimate, batch_scale))


def after(noise, signal, updates=50):
    """What is remembered of so many equal updates."""
    recent, update = SpikeLimit().init(2), measured(model(noise, signal), 16)
    for _ in range(updates):
        recent = SpikeLimit().remember(recent, ONE, update)
    return recent


def test_the_limit_is_a_quarter_above_the_usual_unless_told_and_may_be_the_usual():
    assert SpikeLimit().limit == 1.25
    assert SpikeLimit(1).limit == 1


@pytest.mark.parametrize("updates", [1, 50])
@pytest.mark.parametrize("times", [0.5, 1.0, 2.0, 8.0, 1e6])
def test_the_factor_brings_the_norm_to_its_limit(times, updates):
    recent = after(32.0, 1.0, updates)  # at S = 16 a squared norm of 3
    got = factor(2, recent, model(32 * times, times), 16)
    np.testing.assert_allclose(got, min(1, np.sqrt(2 / times)), rtol=1e-5)


def test_the_expectation_follows_the_batch():
    """A quarter of the batch has four times the noise, which is no spike."""
    recent = after(32.0, 1.0)
    for scale in (4, 16, 64):
        usual = factor(1, recent, model(32, 1), scale)
        np.testing.assert_allclose(usual, 1, rtol=1e-5)
    assert factor(1, recent, model(64, 2), 4) < 1


def test_where_noise_hides_the_signal_all_of_it_is_noise():
    """A squared norm of 1 at S = 16, though noise alone is estimated to have 2."""
    recent = after(32.0, -1.0)
    np.testing.assert_allclose([recent.noise, recent.signal], [16, 0], rtol=1e-5)
    assert factor(1, recent, model(16, 0), 64) == 1
    assert factor(1, recent, model(17, 0), 64) < 1


@pytest.mark.parametrize("dimensions", [1, 2, 8])
def test_the_usual_norm_of_noise_does_not_run_away(dimensions):
    """Single updates estimate a signal far below zero, and nothing builds on it."""
    scale, limit = 8, SpikeLimit()
    stacks = np.random.default_rng(0).standard_normal((400, scale, dimensions))
    state, found, sq_norms = limit.init(2), [], []
    for stack in stacks:
        sq_norm = np.sum(stack.mean(0) ** 2)
        noise = scale * (np.mean(np.sum(stack**2, 1)) - sq_norm) / (scale - 1)
        update = measured(model(noise, sq_norm - noise / scale), scale)
        state = limit.remember(state, ONE, update)
        found.append(float(limit.usual(state, update)))
        # Of what the last one left, no update counts for less than a hundredth.
        least = found[-2] / 100 if len(found) > 1 else 0
        sq_norms.append(max(sq_norm, least))
    weights = 0.9 ** np.arange(400)[::-1]
    expected = np.exp(np.sum(weights * np.log(sq_norms)) / weights.sum())
    np.testing.assert_allclose(found[-1], expected, rtol=1e-3)


@pytest.mark.parametrize("recent", [SpikeLimit().init(2), after(0.0, 0.0)])
def test_without_a_gradient_before_nothing_is_a_spike(recent):
    assert factor(2, recent, model(1, 1), 4) == 1


def test_a_spike_is_remembered_as_it_was_cut():
    recent, tenfold = after(32.0, 1.0), model(320, 10)
    update = measured(tenfold, 16)
    cut = factor(2, recent, tenfold, 16)
    moved = SpikeLimit(2).remember(recent, cut, update)
    np.testing.assert_allclose(moved.noise / recent.noise, 2**0.1, rtol=1e-2)


def usual(sq_norms):
    """What is usual after these squared norms, of noise alone, at S = 1."""
    recent = SpikeLimit().init(2)
    for sq_norm in sq_norms:
        update = measured(model(sq_norm, 0), 1)
        recent = SpikeLimit().remember(recent, ONE, update)
    return float(recent.noise)


def test_the_usual_norm_is_a_geometric_mean_without_bias():
    sq_norms = np.exp(np.random.default_rng(0).normal(size=30))
    weights = 0.9 ** np.arange(30)[::-1]
    expected = np.exp(np.average(np.log(sq_norms), weights=weights))
    np.testing.assert_allclose(usual(sq_norms), expected, rtol=1e-5)


def test_a_first_gradient_that_is_far_longer_is_soon_forgotten():
    """An arithmetic mean of these is 0.1 still, and takes 0.04 for no spike."""
    assert usual([0.8] + 6 * [0.005]) < 0.01


def test_a_gradient_of_nearly_zero_says_little_of_the_next():
    before = usual(50 * [1.0])
    after = usual(50 * [1.0] + [1e-30])
    np.testing.assert_allclose(after, before * 0.01**0.1, rtol=0.01)
    assert usual(50 * [1.0] + [0.0]) == before


def test_what_is_usual_holds_at_another_batch_too():
    """Of noise 32 and signal 1 at every S, whichever it was measured at."""
    recent = SpikeLimit().init(2)
    for scale in (16, 64, 4, 16, 2, 64):
        update = measured(model(32, 1), scale)
        recent = SpikeLimit().remember(recent, ONE, update)
        np.testing.assert_allclose((recent.noise, recent.signal), (32, 1), rtol=1e-5)


@pytest.mark.parametrize("scale", [0.5, 1, 4, 16])
@pytest.mark.parametrize("cut", [0.0, 0.1, 0.25, 1.0])
def test_the_ratio_is_cut_to_a_share_of_the_base_batchs_and_no_further(cut, scale):
    """At a limit of 1 a norm of 1 / cut is cut so; 0 is for one that overflows."""
    ratios = np.array([0.01, 0.5, 1.0, 2.0, 64.0])
    recent, limit = after(0.0, 1.0), SpikeLimit(1)
    spike = measured(model(0, 1 / cut**2 if cut else 1), scale, overflows=not cut)
    got, _, used = limit.update(recent, jnp.asarray(ratios), spike)
    np.testing.assert_allclose(used, cut, rtol=1e-5)
    least = np.minimum(ratios, min(1, 1 / scale))
    np.testing.assert_allclose(got, np.maximum(cut * ratios, least), rtol=1e-5)


def test_at_the_base_batch_no_gradient_changes_the_rate():
    recent, spike = after(32.0, 1.0), measured(model(1e9, 1e9), 1)
    got, _, used = SpikeLimit().update(recent, jnp.ones(2), spike)
    assert used < 1e-3
    np.testing.assert_array_equal(got, [1, 1])


def test_a_norm_that_overflows_cuts_the_ratios_all_the_way_and_is_forgotten():
    recent = after(32.0, 1.0)
    update = measured(model(32, 1), 16, overflows=True)
    got, moved, used = SpikeLimit().update(recent, jnp.array([0.5, 3, 16]), update)
    np.testing.assert_array_equal(got, [1 / 16, 1 / 16, 1 / 16])
    assert used == 0
    np.testing.assert_array_equal(moved, recent)


RELATIVE = optax_lena.LayerRate(
    estimator=optax_lena.Averages(relative=True), guard=SpikeLimit(2)
)


def test_gradients_that_all_grow_by_one_factor_are_cut_alike():
    """The layers' rates keep their proportions."""
    stacks = helpers.random_stacks(3, 4)
    grown = jax.tree.map(lambda x: 5 * x, stacks)
    tx = optax_lena.scale_by_layer_rate(RELATIVE, 16)
    state = tx.init(helpers.example_params())
    ratios = []
    for batch in (stacks, stacks, grown):
        grads, moments = optax_lena.moments_from_stack(batch)
        _, state = tx.update(grads, state, moments=moments)
        ratios.append(state.applied.trust_ratio)
    np.testing.assert_allclose(ratios[0], ratios[1], rtol=1e-6)
    factor = np.sqrt(2) / 5
    np.testing.assert_allclose(state.applied.spike_factor, factor, rtol=1e-5)
    expected = np.maximum(factor * np.asarray(ratios[0]), 1 / 16)
    np.testing.assert_allclose(ratios[2], expected, rtol=1e-4)


def test_sums_that_overflow_leave_the_memory_as_it_was():
    tx = optax_lena.scale_by_layer_rate(RELATIVE, 4)
    mild, huge = {"a": jnp.ones((4, 2)), "b": jnp.ones((4, 2))}, 1e19
    state = tx.init({"a": jnp.ones(2), "b": jnp.ones(2)})
    states = [state]
    for stack in (mild, jax.tree.map(lambda x: huge * x, mild)):
        grads, moments = optax_lena.moments_from_stack(stack)
        _, state = tx.update(grads, states[-1], moments=moments)
        states.append(state)
    assert 2 * huge**2 < float(np.finfo("f").max) < 4 * huge**2
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(states))
    np.testing.assert_array_equal(states[2].guard, states[1].guard)
    assert states[2].applied.trust_ratio.max() == 1 / 4


MILD = {"a": jnp.array([1.0, -1.0, 2.0]), "b": jnp.array([1.0, 3.0, 2.0])}


def guarded(*stacks):
    """The guard's memory after each batch."""
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


def factors_of(levels):
    """The factor at each of these squared norms, after one of 1."""
    limit, state, factors = SpikeLimit(), after(0.0, 1.0), []
    for level in levels:
        update = measured(model(0.0, level), 16)
        _, state, factor = limit.update(state, jnp.ones(2), update)
        factors.append(float(factor))
    return np.array(factors)


def test_a_level_that_lasts_is_the_usual_one():
    """As after a change of the loss in mid-run: not a spike for hundreds of updates."""
    factors = factors_of([1e6] * 60 + [1e8])
    assert all(factors[:51] < 1)
    assert all(factors[51:60] == 1)
    assert factors[60] < 1


def test_spikes_right_after_a_level_has_become_the_usual_one_are_cut():
    assert all(factors_of([1e6] * 51 + [1e12] * 2) < 1)


def test_spikes_with_a_usual_gradient_between_them_do_not_last():
    factors = factors_of([*[1e6] * 40, 1.0] * 3)
    assert all(factors[np.arange(123) % 41 < 40] < 1)


def test_a_rate_that_is_too_large_does_not_run_away():
    """On a quadratic whose steep direction bears a ratio of 4 of the 16.

    With eight times the noise and slow averages, which are too much for it.
    """
    curvature = jnp.array([1.0, 0.1, 0.01])
    rule = optax_lena.Rule(
        lambda estimate, scale: estimate._replace(noise=8 * estimate.noise).gain(scale)
    )
    slow = optax_lena.Averages(relative=True)

    def farthest(guard, key):
        rate = helpers.amplified_rate(guard=guard, rule=rule, estimator=slow)
        tx = helpers.momentum_sgd(1.0, 16, rate=rate, rate_enters_buffer=True)

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
    assert jax.vmap(lambda key: farthest(SpikeLimit(), key))(keys).max() < 20


def test_a_ratio_grows_by_a_factor_and_falls_at_once():
    limit, update = GrowthLimit(1.5), measured(model(1, 1), 16)
    state, seen = limit.init(2), []
    for wanted in ([1.2, 16.0], [1.2, 16.0], [4.0, 2.0], [4.0, 0.5], [4.0, 0.5]):
        ratio, state, factor = limit.update(state, jnp.array(wanted), update)
        seen.append(ratio)
        assert factor == 1
    expected = [[1.2, 1.5], [1.2, 2.25], [1.8, 2], [2.7, 0.5], [4, 0.5]]
    np.testing.assert_allclose(seen, expected, rtol=1e-6)


def test_a_ratio_does_not_grow_in_an_update_that_is_not_finite():
    limit, update = GrowthLimit(1.5), measured(model(1, 1), 16)
    update = update._replace(is_finite=jnp.array([True, False]))
    ratio, state, _ = limit.update(limit.init(2), jnp.array([16.0, 16.0]), update)
    np.testing.assert_array_equal(ratio, [1.5, 1.0])
    np.testing.assert_array_equal(state.ratio, ratio)


@pytest.mark.parametrize("short", [[2], [2, 2]])
def test_one_short_batch_does_not_lower_the_ratio_after_it(short):
    """The last batch of an epoch: 19 updates of growth stood behind it."""
    limit, wanted = GrowthLimit(1.1), jnp.sqrt(jnp.float32(64))
    state, ratios = limit.init(2), []
    for scale in [64] * 30 + short + [64]:
        update = measured(model(1, 0), scale)
        rule = jnp.full(2, jnp.sqrt(jnp.float32(scale)))
        ratio, state, _ = limit.update(state, rule, update)
        ratios.append(float(ratio[0]))
    assert ratios[29] == wanted
    assert ratios[30] == jnp.sqrt(jnp.float32(2))
    last = wanted if len(short) == 1 else 1.1 * np.sqrt(2)
    assert ratios[-1] == pytest.approx(last)


def test_a_short_batch_that_is_not_finite_does_not_make_the_next_the_second_in_a_row():
    limit, update = GrowthLimit(1.5), measured(model(1, 0), 64)
    _, state, _ = limit.update(limit.init(2), jnp.full(2, 1.5), update)
    short = update._replace(batch_scale=jnp.float32(2))
    bad = short._replace(is_finite=jnp.zeros(2, bool))
    for one in (bad, short):
        _, state, _ = limit.update(state, jnp.ones(2), one)
    np.testing.assert_array_equal(state.ratio, 1.5)


def test_a_ratio_may_grow_in_an_update_of_a_shorter_batch():
    limit = GrowthLimit(1.5)
    _, state, _ = limit.update(limit.init(2), ONE * 4, measured(model(1, 1), 16))
    ratio, state, _ = limit.update(state, ONE * 4, measured(model(1, 1), 8))
    np.testing.assert_allclose(ratio, 2.25)
    np.testing.assert_array_equal(state.ratio, ratio)


def test_a_network_is_not_thrown_out_by_the_first_rate_that_is_measured():
    """In Adam's metric the first measurement says 8 where the last rate was 1."""
    stacks, params = helpers.random_stacks(3, 12, 4), helpers.example_params()
    _, _, metrics = helpers.train_adam(optax_lena.lena_adamw(0.01, 64), params, stacks)
    ratios = np.stack(list(helpers.rows(metrics, "trust_ratio").values()))
    assert (ratios[:, :5] == 1).all() and ratios[:, -1].max() > 1.5
    assert (ratios[:, 1:] <= 1.1 * ratios[:, :-1] * (1 + 1e-6)).all()


def test_a_norm_near_the_largest_float_is_forgotten_as_any_other():
    """What its noise would be per base batch is none, and must not stay."""
    limit, scale = SpikeLimit(), 64
    state = limit.init(2)
    for estimate in (model(0, 2e38), *3 * (model(1, 1e-3),)):
        state = limit.remember(state, ONE, measured(estimate, scale))
    assert all(np.isfinite(x) for x in state)
    for _ in range(200):
        state = limit.remember(state, ONE, measured(model(1, 1e-3), scale))
    assert limit.factor(state, measured(model(1e4, 10), scale)) < 0.1


@pytest.mark.parametrize("coherence, lifted", [(0.1, 1), (1.0, 1), (4.0, 4)])
def test_coherence_lifts_the_limit_and_never_lowers_it(coherence, lifted):
    update = measured(model(32 * 9, 9), 16)._replace(coherence=jnp.float32(coherence))
    found = SpikeLimit(2).factor(after(32.0, 1.0), update)
    np.testing.assert_allclose(found, np.sqrt(2 * lifted / 9), rtol=1e-5)


@pytest.mark.parametrize("coherence", [1e-3, 1.0])
def test_what_has_entered_of_a_clipped_step_lifts_the_limit(coherence):
    update = measured(model(32 * 9, 9), 16)
    update = update._replace(coherence=coherence, entered=jnp.float32(0.5))
    found = SpikeLimit(2).factor(after(32.0, 1.0), update)
    np.testing.assert_allclose(found, np.sqrt(2 / 0.5 / 9), rtol=1e-5)


@pytest.mark.parametrize("bad", [0.0, jnp.nan])
def test_a_ratio_may_grow_from_the_one_before_a_bad_one(bad):
    limit, update = GrowthLimit(1.5), measured(model(1, 1), 16)
    _, state, _ = limit.update(limit.init(2), jnp.full(2, 16.0), update)
    ratio, state, _ = limit.update(state, jnp.full(2, bad), update)
    np.testing.assert_array_equal(ratio, bad)
    ratio, _, _ = limit.update(state, jnp.full(2, 16.0), update)
    np.testing.assert_array_equal(ratio, 1.5**2)
