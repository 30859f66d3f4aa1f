"""Gradients that are not finite: they stop their own layer, and no other."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_lena
from tests import helpers


def after_a_bad_layer(tx, bad):
    """Returns the states before and after a bad layer, and had it been good."""
    good, after = (helpers.random_stacks(seed, 4) for seed in (7, 8))
    _, before = helpers.updated(tx, good)
    broken = jax.tree.map(np.copy, after)
    broken["conv1"]["kernel"][2, 0, 1] = bad
    states = [before]
    for stack in (broken, after):
        grads, moments = optax_lena.moments_from_stack(stack)
        states.append(tx.update(grads, before, moments=moments)[1])
    return map(helpers.lena_state, states)


def is_bad(state):
    hit = np.array(state.layer_names()) == "conv1/kernel"
    assert hit.sum() == 1
    return hit


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("reference", [False, True])
def test_a_bad_microbatch_stops_its_layer_and_no_other(bad, reference):
    tx = optax_lena.scale_by_lena(4, warmup_steps=100, reference=reference)
    before, state, expected = after_a_bad_layer(tx, bad)
    hit = is_bad(state)
    vectors = lambda s: [x[:-1] for x in (*s.averages, s.progress.read())]
    for now, then, healthy in zip(
        *map(vectors, (state, before, expected)), strict=True
    ):
        np.testing.assert_array_equal(now[hit], then[hit])
        np.testing.assert_array_equal(now[~hit], healthy[~hit])
        assert (now[~hit] != then[~hit]).all()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_model_goes_on_from_the_layers_that_are_finite(bad):
    """Its noise and signal, and with them all clocks."""
    tx = optax_lena.scale_by_lena(4, warmup_steps=100)
    before, state, _ = after_a_bad_layer(tx, bad)
    hit = is_bad(state)
    for now, then in zip(state.averages[:2], before.averages[:2], strict=True):
        # The layer gave its first value to the model's, and its second was left out.
        step = 4 / 1000
        finite = now[:-1][~hit].sum() + (1 - step) * then[:-1][hit].sum()
        np.testing.assert_allclose(now[-1], finite, rtol=1e-5, atol=1e-6)
    gain = state.applied.gain[-1]
    assert 1 < gain < 4
    now, then = (
        {name: float(clock) for name, clock in s.clocks._asdict().items()}
        for s in (state, before)
    )
    assert now["base_steps"] == then["base_steps"] + 4
    assert now["gain_steps"] == pytest.approx(then["gain_steps"] + gain)
    assert now["rate_steps"] > then["rate_steps"]


def test_without_a_finite_layer_only_base_steps_go_on():
    tx = optax_lena.scale_by_lena(4, warmup_steps=100)
    stack = {"a": np.float32([1, 2]), "b": np.float32([1, 3])}
    _, before = helpers.updated(tx, stack)
    grads, moments = optax_lena.moments_from_stack(
        {k: x + np.nan for k, x in stack.items()}
    )
    _, state = tx.update(grads, before, moments=moments)
    assert float(state.clocks.base_steps) == 8
    for clock in ("gain_steps", "rate_steps"):
        assert float(getattr(state.clocks, clock)) == float(
            getattr(before.clocks, clock)
        )
    np.testing.assert_array_equal(state.progress.read(), before.progress.read())
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


def test_one_layer_that_is_never_finite_does_not_hold_the_schedule():
    """It runs on the steps that the others' rates are worth."""
    schedule = optax.linear_schedule(1.0, 0.0, 40)
    rate = helpers.amplified_rate(learning_rate=schedule, clock="rate_steps")
    tx = optax_lena.scale_by_layer_rate(rate, 4)
    stacks = helpers.random_stacks(9, 20, 4)
    stacks["conv1"]["bias"][:] = np.nan
    params = helpers.example_params()
    _, _, metrics = helpers.train(tx, params, stacks)
    without = {k: v for k, v in stacks.items() if k != "conv1"}
    without["conv1"] = {"kernel": stacks["conv1"]["kernel"]}
    params["conv1"].pop("bias")
    _, _, expected = helpers.train(tx, params, without)
    for name in ("model/rate_steps", "model/schedule", "model/gain"):
        np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-5)
    assert metrics["model/schedule"][-1] == 0


def test_relative_averages_stay_finite():
    tx = optax_lena.lena_amplified(0.1, 4, warmup_steps=100, momentum=None)
    before, state, _ = after_a_bad_layer(tx, np.nan)
    now, then = (optax_lena.metrics(s) for s in (state, before))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))
    for name in ("noise/conv1/kernel", "progress/conv1/kernel"):
        assert now[name] == then[name]
    assert now["noise/head/kernel"] != then["noise/head/kernel"]
    assert now["model/rate_steps"] > then["model/rate_steps"]


@pytest.mark.parametrize("reference", [False, True])
def test_a_norm_that_overflows_only_times_batch_scale_is_as_bad(reference):
    tx = optax_lena.scale_by_lena(1000, warmup_steps=100, reference=reference)
    huge = np.float32([1e19, -1e19])
    _, state = helpers.updated(tx, {"calm": jnp.ones(2), "wild": huge})
    assert np.isfinite(huge @ huge)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))
    np.testing.assert_array_equal(state.progress.read() > 0, [True, False, True])


def test_a_norm_that_overflows_cuts_the_ratios_all_the_way_under_a_guard():
    """Such a gradient is no less a spike for having no norm in float32."""
    mild = {"a": jnp.array([1.0, -1]), "b": jnp.array([1.0, -1])}
    huge = mild | {"b": jnp.array([1e30, -1e30])}
    ratios = {}
    for name, guard in (("guarded", optax_lena.SpikeLimit(2.0)), ("plain", None)):
        rate = helpers.amplified_rate(guard=guard)
        tx = optax_lena.scale_by_layer_rate(rate, 4)
        state = tx.init({"a": jnp.ones(()), "b": jnp.ones(())})
        for stack in (mild, huge):
            grads, moments = optax_lena.moments_from_stack(stack)
            _, state = tx.update(grads, state, moments=moments)
        ratios[name] = state.applied.trust_ratio
        assert state.applied.spike_factor == (name == "plain")
    np.testing.assert_allclose(ratios["plain"], 4)
    np.testing.assert_array_equal(ratios["guarded"], 1 / 4)


def test_training_goes_on_after_a_bad_batch():
    tx = optax.apply_if_finite(optax_lena.lena(0.01, 4, warmup_steps=20), 5)
    stacks = helpers.random_stacks(9, 12, 4)
    stacks["head"]["kernel"][3:5] = np.nan
    _, params, metrics = helpers.train(tx, helpers.example_params(), stacks)
    assert all(np.isfinite(p).all() for p in jax.tree.leaves(params))
    gain, progress = (metrics[f"{f}/head/kernel"] for f in ("gain", "progress"))
    assert np.isfinite(gain).all()
    assert progress[4] == progress[2] < progress[5]
