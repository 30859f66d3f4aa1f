"""`accumulate`: microbatches are successive calls of an unmodified training loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest

import optax_lena
from tests import helpers
from tests.helpers import row

K = 4


def stream(calls, seed=0, dtype=np.float32):
    """Gradients of one tree, one row per call."""
    rng = np.random.default_rng(seed)
    return {
        "a": rng.normal(1.0, 0.5, (calls, 3)).astype(dtype),
        "b": rng.normal(0.1, 1.0, (calls, 2, 2)).astype(dtype),
    }


PARAMS = row(stream(1, seed=9), 0)


def inner():
    return optax_lena.lena(0.1, warmup_steps=10, weight_decay=0.01)


def run(tx, grads, params=PARAMS, state=None, **extra):
    """One call per row; returns the parameters after every call, and the state."""

    def call(carry, x):
        params, state = carry
        grads, extra = x
        updates, state = tx.update(grads, state, params, **extra)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    state = tx.init(params) if state is None else state
    scan = jax.jit(functools.partial(jax.lax.scan, call))
    (_, state), history = scan((params, state), (grads, extra))
    return history, state


def from_stacks(grads, sizes, weights=None):
    """The same run with all microbatches of an update at hand."""
    tx, params = inner(), PARAMS
    state, start = tx.init(params), 0
    for size in sizes:
        rows = slice(start, start + size)
        mean, moments = optax_lena.moments_from_stack(
            jax.tree.map(lambda x, rows=rows: x[rows], grads),
            weights=None if weights is None else weights[rows],
        )
        updates, state = tx.update(mean, state, params, moments=moments)
        params, start = optax.apply_updates(params, updates), start + size
    return params, optax_lena.metrics(state)


def assert_close(actual, desired):
    jax.tree.map(
        lambda a, d: np.testing.assert_allclose(a, d, rtol=2e-5, atol=1e-7),
        actual,
        desired,
    )


def test_equals_all_microbatches_at_hand():
    grads = stream(3 * K)
    history, state = run(optax_lena.accumulate(inner(), K), grads)
    params, metrics = from_stacks(grads, (K, K, K))
    assert_close(row(history, -1), params)
    assert_close(optax_lena.metrics(state), metrics)


def test_parameters_change_on_every_kth_call_only():
    history, state = run(optax_lena.accumulate(inner(), K), stream(2 * K))
    changed = np.any(np.diff(history["a"], axis=0) != 0, axis=1)
    assert np.flatnonzero(changed).tolist() == [K - 2, 2 * K - 2]
    assert (int(state.updates), int(state.calls)) == (2, 0)


def test_every_k_may_be_a_schedule_of_updates():
    tx = optax_lena.accumulate(inner(), lambda updates: jnp.where(updates < 1, 2, 3))
    grads = stream(2 + 3 + 3)
    history, state = run(tx, grads)
    params, metrics = from_stacks(grads, (2, 3, 3))
    assert_close(row(history, -1), params)
    assert metrics["model/base_steps"] == 8  # S is the number of microbatches
    assert_close(optax_lena.metrics(state), metrics)


def test_weights_of_calls_enter_both_moments():
    grads, weights = stream(2 * K), np.float32([1, 2, 3, 4, 5, 0, 2, 1])
    history, state = run(optax_lena.accumulate(inner(), K), grads, weight=weights)
    params, metrics = from_stacks(grads, (K, K), weights)
    assert_close(row(history, -1), params)
    assert_close(optax_lena.metrics(state), metrics)


def test_weights_in_the_plural_are_those_of_another_gatherer():
    tx = optax_lena.accumulate(inner(), K)
    grads = row(stream(1), 0)
    with pytest.raises(TypeError, match=helpers.says("`weight`", "`weights`")):
        tx.update(grads, tx.init(PARAMS), PARAMS, weights=jnp.ones(()))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_non_finite_microbatch_is_left_out_and_replaced(bad):
    grads = stream(2 * K + 1)
    broken = jax.tree.map(np.copy, grads)
    broken["b"][2, 0, 0] = bad
    history, state = run(optax_lena.accumulate(inner(), K), broken)
    without = jax.tree.map(lambda x: np.delete(x, 2, axis=0), grads)
    params, metrics = from_stacks(without, (K, K))
    assert_close(row(history, -1), params)
    assert_close(optax_lena.metrics(state), metrics)
    assert int(state.skipped) == 1


def test_a_microbatch_whose_moments_are_not_finite_is_left_out():
    """Sums of its norms would stay so, though its gradient is finite."""
    tx = optax_lena.accumulate(inner(), 2)
    state = tx.init(PARAMS)
    grads, moments = optax_lena.moments_from_stack(stream(4))
    nan = jax.tree.map(lambda x: jnp.nan * x, moments.micro_sq_norm)
    for given in (moments._replace(micro_sq_norm=nan), moments, moments):
        _, state = tx.update(grads, state, PARAMS, moments=given)
    assert int(state.skipped) == 1 and int(state.updates) == 1
    assert np.isfinite(optax_lena.metrics(state)["noise/a"])


@pytest.mark.parametrize("padding", [0.0, np.nan, np.inf])
def test_a_call_of_weight_zero_counts_as_a_call_whatever_its_gradient_is(padding):
    """Padding usually has a gradient of 0 / 0, and the loop counts its calls."""
    grads, weights = stream(2 * K), np.float32([1, 0, 2, 3, 4, 5, 6, 0])
    for leaf in grads.values():
        leaf[weights == 0] = padding
    history, state = run(optax_lena.accumulate(inner(), K), grads, weight=weights)
    changed = np.any(np.diff(history["a"], axis=0) != 0, axis=1)
    assert np.flatnonzero(changed).tolist() == [K - 2, 2 * K - 2]
    params, metrics = from_stacks(grads, (K, K), weights)
    assert_close(row(history, -1), params)
    assert_close(optax_lena.metrics(state), metrics)
    assert int(state.skipped) == 0


def test_a_gradient_whose_square_overflows_is_a_call_that_the_guard_hears_of():
    """1e20 is a float32, and its square is none: no other gradient would ever come."""
    tx = optax_lena.accumulate(optax_lena.lena_amplified(0.1, batch_scale=32), 2)
    _, before = run(tx, stream(4))
    huge = jax.tree.map(lambda x: x * np.float32(1e20), stream(2))
    history, after = run(tx, huge, state=before)
    assert int(after.skipped) == 0 and int(after.updates) == 3
    then, now = map(helpers.lena_state, (before, after))
    assert then.applied.trust_ratio.max() > 1
    assert now.applied.spike_factor == 0
    np.testing.assert_array_equal(now.applied.trust_ratio, np.float32(1 / 32))
    helpers.assert_trees_equal(now.averages, then.averages)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(history))


def test_a_gradient_with_which_the_sum_overflows_is_left_out():
    tx = optax_lena.accumulate(optax_lena.lena_amplified(0.1, batch_scale=32), 2)
    grads = {"w": np.float32([3e38, 3e38, 1e3])}
    history, state = run(tx, grads, {"w": jnp.zeros(())})
    assert int(state.skipped) == 1 and int(state.updates) == 1
    assert np.isfinite(history["w"]).all()


def test_checkpoint_in_mid_accumulation_is_bit_for_bit(tmp_path):
    tx, grads = optax_lena.accumulate(inner(), K), stream(3 * K)
    uninterrupted, _ = run(tx, grads)
    head = jax.tree.map(lambda x: x[: K + 2], grads)
    tail = jax.tree.map(lambda x: x[K + 2 :], grads)
    history, state = run(tx, head)
    saved = (row(history, -1), state)
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", saved)
        checkpointer.wait_until_finished()
        target = jax.tree.map(jnp.zeros_like, saved)
        params, state = checkpointer.restore(tmp_path / "state", target)
    assert int(state.calls) == 2
    history, _ = run(tx, tail, params, state)
    jax.tree.map(
        np.testing.assert_array_equal, row(history, -1), row(uninterrupted, -1)
    )


def test_low_precision_gradients_are_summed_in_float32():
    """256 + 1 has no bfloat16: a sum in bfloat16 would lose every second gradient."""
    params = {"w": jnp.zeros((), jnp.bfloat16)}
    grads = {"w": jnp.asarray([256.0] + [1.0] * 7, jnp.bfloat16)}
    plain = optax_lena.linear_scaling(1.0, 1, momentum=None)
    history, state = run(optax_lena.accumulate(plain, 8), grads, params)
    assert state.sums.grads["w"].dtype == jnp.float32
    assert history["w"].dtype == jnp.bfloat16
    assert float(history["w"][-1]) == -float(jnp.asarray(263 / 8, jnp.bfloat16))


def test_the_loss_is_summed_in_float32_also_where_the_default_is_wider():
    with jax.enable_x64(True):
        tx = optax_lena.accumulate(optax_lena.lena_amplified(0.1, 4), 2)
        state = tx.init(PARAMS)
        for value in (1.0, 3.0, 2.0):
            _, state = tx.update(PARAMS, state, PARAMS, value=value)
            assert state.losses.dtype == jnp.float32
        assert state.losses == 2 and helpers.lena_state(state).loss_limit.highest == 2


def test_stacked_parameters_keep_a_norm_per_slice():
    layers = optax_lena.stacked("^b$")
    tx = optax_lena.accumulate(optax_lena.lena(0.1, layers=layers), K, layers=layers)
    grads = stream(K)
    _, state = run(tx, grads)
    _, moments = optax_lena.moments_from_stack(grads, layers=layers)
    report = optax_lena.layer_report(state)
    assert list(report) == ["a", "b[0]", "b[1]"]
    gains = [
        float(np.clip(m / b, 1, K))
        for m, b in zip(
            moments.micro_sq_norm["b"], moments.batch_sq_norm["b"], strict=True
        )
    ]
    assert gains == pytest.approx(
        [report["b[0]"]["gain"], report["b[1]"]["gain"]], 1e-5
    )


def test_multi_steps_is_a_trap_that_accumulate_avoids():
    """MultiSteps hands the optimizer the last call's moments only."""
    calm = {"w": jnp.array([1.0, 1.0])}
    noisy = {"w": jnp.array([3.0, -1.0])}
    calls = [optax_lena.moments_from_stack(stack) for stack in (noisy, calm)]
    params = {"w": jnp.array(0.0)}
    gains = {}
    for name, tx in {
        "multi_steps": optax.MultiSteps(optax_lena.lena(0.1, 4), 2),
        "accumulate": optax_lena.accumulate(optax_lena.lena(0.1, 4), 2),
    }.items():
        state = tx.init(params)
        for grads, moments in calls:
            _, state = tx.update(grads, state, params, moments=moments)
        gains[name] = float(optax_lena.metrics(state)["gain/w"])
    everything = {"w": jnp.concatenate([noisy["w"], calm["w"]])}
    grads, moments = optax_lena.moments_from_stack(everything)
    tx = optax_lena.lena(0.1, 4)
    _, state = tx.update(grads, tx.init(params), params, moments=moments)
    truth = float(optax_lena.metrics(state)["gain/w"])
    assert gains["accumulate"] == pytest.approx(truth)
    assert gains["multi_steps"] == 1.0 < truth


def test_one_call_per_update_needs_moments():
    tx = optax_lena.accumulate(inner(), 1)
    stacks = stream(K)
    grads, moments = optax_lena.moments_from_stack(stacks)
    state = tx.init(PARAMS)
    updates, state = tx.update(grads, state, PARAMS, moments=moments)
    expected, _ = inner().update(grads, inner().init(PARAMS), PARAMS, moments=moments)
    assert_close(updates, expected)


def test_other_keyword_arguments_reach_the_optimizer():
    def update(updates, state, params=None, *, factor, **extra_args):
        del params, extra_args
        return jax.tree.map(lambda u: factor * u, updates), state

    scale = optax.GradientTransformationExtraArgs(lambda params: (), update)
    tx = optax_lena.accumulate(scale, 2)
    grads = stream(2)
    history, _ = run(tx, grads, factor=np.float32([7.0, 3.0]))
    step = history["a"][-1] - PARAMS["a"]
    np.testing.assert_allclose(step, 3 * grads["a"].mean(0), rtol=1e-5)


@pytest.mark.parametrize("every_k", [0, -1, 2.5, None, True, "4"])
def test_every_k_is_an_integer_of_at_least_one(every_k):
    message = helpers.says("`every_k`", "integer", "at least 1", f"got {every_k!r}")
    with pytest.raises(ValueError, match=message):
        optax_lena.accumulate(inner(), every_k)


def test_moments_and_masks_are_matched_by_parameter():
    """Inside `partition` the optimizer sees one parameter, and the moments hold all."""
    tx = lambda: optax_lena.accumulate(inner(), 2)
    labels = {"a": "sgd", "b": "lena"}
    wrapped = optax.partition({"lena": tx(), "sgd": optax.sgd(0.1)}, labels)
    plain, params = tx(), {"b": PARAMS["b"]}
    state, alone = wrapped.init(PARAMS), plain.init(params)
    stacks = stream(2 * K)
    for half in (slice(K), slice(K, 2 * K)):
        stack = jax.tree.map(lambda x, half=half: x[half], stacks)
        grads, moments = optax_lena.moments_from_stack(stack)
        _, state = wrapped.update(grads, state, PARAMS, moments=moments)
        norms = ({"b": norms["b"]} for norms in moments[:2])
        own = optax_lena.GradMoments(*norms, moments.num_microbatches)
        grads = {"b": grads["b"]}
        _, alone = plain.update(grads, alone, params, moments=own)
    got, expected = (optax_lena.layer_report(s)["b"] for s in (state, alone))
    assert got == expected and got["noise"] > 0
    _, whole = optax_lena.moments_from_stack(stacks)
    over_scale = (whole.micro_sq_norm["b"] - whole.batch_sq_norm["b"]) / (2 * K - 1)
    assert got["noise"] == pytest.approx(2 * K * float(over_scale), rel=1e-4)


@pytest.mark.parametrize("forgotten_by", ["accumulate", "the optimizer"])
def test_layers_forgotten_on_one_side_are_an_error_that_says_so(forgotten_by):
    layers = optax_lena.stacked("^b$")
    inside, outside = layers, optax_lena.per_parameter
    if forgotten_by == "the optimizer":
        inside, outside = outside, inside
    tx = optax_lena.accumulate(optax_lena.lena(0.1, layers=inside), K, layers=outside)
    message = helpers.says("parameter 'b'", "`accumulate`", "same `layers`")
    with pytest.raises(ValueError, match=message):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS)


def test_map_params_finds_the_gradient_sums():
    tx = optax_lena.accumulate(inner(), K)
    state = tx.init(PARAMS)
    mapped = optax.tree.map_params(tx, lambda _: "params", state)
    assert mapped.sums.grads == {"a": "params", "b": "params"}
    assert mapped.calls.dtype == jnp.int32


def test_every_k_may_be_an_array_that_a_program_gets():
    def first_updates(every_k):
        tx = optax_lena.accumulate(inner(), every_k)
        state = tx.init(PARAMS)
        return tx.update(PARAMS, state, PARAMS)[1].calls

    assert helpers.jit(first_updates)(jnp.int32(2)) == 1


@pytest.mark.parametrize("every_k", [1, 1.0, np.int64(1)])
def test_one_call_without_moments_warns_that_nothing_is_measured(every_k):
    tx = optax_lena.accumulate(inner(), every_k)
    with pytest.warns(RuntimeWarning, match=helpers.says("`every_k`", "moments")):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS)


def test_outside_of_jit_calls_do_not_trace_the_optimizer_after_the_first_update():
    calls = []

    def update(updates, state, params=None, **extra_args):
        calls.append(extra_args)
        return inner().update(updates, state, params, **extra_args)

    counted = optax.GradientTransformationExtraArgs(inner().init, update)
    tx = optax_lena.accumulate(counted, 3)
    state = tx.init(PARAMS)
    for traced in (1, 1, 1, 0, 0, 1):
        calls.clear()
        updates, state = tx.update(PARAMS, state, PARAMS)
        assert len(calls) == traced
    assert jax.tree.map(np.shape, updates) == jax.tree.map(np.shape, PARAMS)


def test_a_loss_of_some_calls_is_the_mean_of_those():
    tx = optax_lena.accumulate(optax_lena.lena_amplified(0.1, 4), 2)
    state = tx.init(PARAMS)
    for given in ({}, {"value": 8.0}):
        _, state = tx.update(PARAMS, state, PARAMS, **given)
    assert helpers.lena_state(state).loss_limit.highest == 8
