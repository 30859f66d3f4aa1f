"""What the transformation promises: its gains, its state, and what bad input does."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import optax_lena
from tests import helpers, oracle


@pytest.mark.parametrize("factory", [optax_lena.lena, optax_lena.lena_amplified])
@pytest.mark.parametrize("nesterov", [False, True])
def test_at_a_batch_scale_of_one_it_is_sgd(factory, nesterov):
    """Spikes too: some gradients here are ten times as long as others."""
    params, lengths = helpers.example_params(), np.tile([1, 1, 1, 10], 5)
    stacks = jax.tree.map(
        lambda x: x * lengths.reshape(-1, *[1] * (x.ndim - 1)),
        helpers.random_stacks(3, len(lengths), 2),
    )
    _, ours, _ = helpers.train(factory(0.1, 1, nesterov=nesterov), params, stacks)
    sgd = optax.sgd(0.1, 0.9, nesterov)

    def step(carry, grads):
        params, state = carry
        updates, state = sgd.update(grads, state)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    grads = jax.tree.map(lambda x: jnp.mean(x, axis=1), stacks)
    _, theirs = jax.lax.scan(step, (params, sgd.init(params)), grads)
    helpers.assert_trees_close(ours, theirs, rtol=1e-5, atol=1e-6)


def first_update(tx, stack, weights=None):
    """Returns the first updates, and the state after them."""
    grads, moments = optax_lena.moments_from_stack(stack, weights=weights)
    return tx.update(grads, tx.init(grads), grads, moments=moments)


updated = helpers.jit(first_update, static_argnums=0)


def test_with_as_many_microbatches_as_base_batches_the_gain_is_equation_4():
    stack = {"w": jnp.array([[3.0, 1.0], [1.0, 1.0], [2.0, -2.0], [2.0, 0.0]])}
    _, state = updated(optax_lena.lena(0.1, batch_scale=4), stack)
    micro_sq_norm, batch_sq_norm = (10 + 2 + 8 + 4) / 4, 4.0
    np.testing.assert_allclose(
        optax_lena.layer_report(state)["w"]["gain"], micro_sq_norm / batch_sq_norm
    )


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_gain_does_not_change_with_the_scale_of_the_loss(factor):
    tx = optax_lena.lena(0.1, batch_scale=4, warmup_steps=10)
    stacks = helpers.random_stacks(3, 5, 4)
    scaled = jax.tree.map(lambda g: g * np.float32(factor), stacks)
    params = helpers.example_params()
    _, _, plain = helpers.train(tx, params, stacks)
    _, _, other = helpers.train(tx, params, scaled)
    for field in ("gain", "trust_ratio", "progress", "warmup_factor"):
        helpers.assert_trees_close(
            helpers.rows(other, field), helpers.rows(plain, field), rtol=1e-5
        )


@given(
    seed=st.integers(0, 2**16),
    batch_scale=st.floats(1, 5000),
    log_spread=st.floats(-6, 6),
    log_mean=st.floats(-6, 6),
)
def test_gain_is_finite_and_between_one_and_batch_scale(
    seed, batch_scale, log_spread, log_mean
):
    rng = np.random.default_rng(seed)
    draws = rng.standard_normal((4, 7))
    grads = (10**log_mean + 10**log_spread * draws).astype(np.float32)
    gain, model_gain = jitted_gain(grads, np.float32(batch_scale))
    for value in (gain, model_gain):
        assert 1 <= value <= np.float32(batch_scale)


@helpers.jit
def jitted_gain(grads, batch_scale):
    _, state = first_update(optax_lena.scale_by_lena(batch_scale), {"w": grads})
    return state.applied.gain[0], state.applied.model_gain


def test_a_huge_batch_scale_stays_finite():
    _, params, metrics = helpers.train(
        optax_lena.lena(1e-4, batch_scale=3000, warmup_steps=6000),
        helpers.example_params(),
        helpers.random_stacks(4, 20, 4),
    )
    for gain in helpers.rows(metrics, "gain").values():
        assert np.isfinite(gain).all() and (gain >= 1).all() and (gain <= 3000).all()
    assert all(np.isfinite(p).all() for p in jax.tree.leaves(params))


def test_no_gradient_has_gain_one_and_no_nan():
    updates, state = updated(optax_lena.lena(0.1, 4), {"w": jnp.zeros((4, 3))})
    row = optax_lena.layer_report(state)["w"]
    assert (row["gain"], row["noise"], row["signal"], row["noise_scale"]) == (
        1,
        0,
        0,
        0,
    )
    np.testing.assert_array_equal(updates["w"], np.zeros(3))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_keeps_float32_statistics_and_its_own_updates(dtype):
    stack = jax.tree.map(lambda g: jnp.asarray(g, dtype), helpers.random_stacks(5, 4))
    exact = jax.tree.map(lambda g: g.astype(jnp.float32), stack)
    tx = optax_lena.scale_by_lena(4, warmup_steps=10)
    updates, state = updated(tx, stack)
    exact_updates, exact_state = updated(tx, exact)
    assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
    assert {x.dtype for x in jax.tree.leaves(state)} == {jnp.dtype(jnp.float32)}
    helpers.assert_trees_close(state, exact_state, rtol=1e-6, atol=1e-6)
    widened = jax.tree.map(lambda u: u.astype(jnp.float32), updates)
    helpers.assert_trees_close(widened, exact_updates, rtol=2 * jnp.finfo(dtype).eps)


def test_a_float16_gradient_beyond_256_has_a_norm():
    stack = {"w": jnp.array([[300.0, 400.0], [400.0, 300.0]], jnp.float16)}
    _, moments = optax_lena.moments_from_stack(stack)
    assert moments.micro_sq_norm["w"] == 250_000
    assert moments.batch_sq_norm["w"] == 245_000


def test_complex_parameters_count_as_pairs_of_real_ones():
    real = np.random.default_rng(6).standard_normal((4, 3, 2)).astype(np.float32)
    tx = optax_lena.scale_by_lena(4, warmup_steps=10)
    pair_updates, pair_state = updated(tx, {"w": jnp.asarray(real)})
    updates, state = updated(tx, {"w": jnp.asarray(real[..., 0] + 1j * real[..., 1])})
    helpers.assert_trees_close(state, pair_state)
    assert updates["w"].dtype == jnp.complex64
    as_pairs = jnp.stack([updates["w"].real, updates["w"].imag], axis=-1)
    np.testing.assert_allclose(as_pairs, pair_updates["w"], rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("reference", [False, True])
def test_a_bad_microbatch_stops_its_layer_and_no_other(bad, reference):
    tx = optax_lena.scale_by_lena(4, warmup_steps=100, reference=reference)
    good, after = (helpers.random_stacks(seed, 4) for seed in (7, 8))
    _, before = updated(tx, good)
    broken = jax.tree.map(np.copy, after)
    broken["conv1"]["kernel"][2, 0, 1] = bad
    grads, moments = optax_lena.moments_from_stack(broken)
    _, state = tx.update(grads, before, moments=moments)
    grads, moments = optax_lena.moments_from_stack(after)
    _, expected = tx.update(grads, before, moments=moments)

    names = np.array(state.layer_names())
    hit = names == "conv1/kernel"
    assert hit.sum() == 1
    vectors = lambda s: (*s.averages, s.progress)
    for now, then, healthy in zip(
        vectors(state), vectors(before), vectors(expected), strict=True
    ):
        np.testing.assert_array_equal(now[hit], then[hit])
        np.testing.assert_array_equal(now[~hit], healthy[~hit])
        assert (now[~hit] != then[~hit]).all()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))
    assert state.gain_steps == before.gain_steps


def test_a_bad_microbatch_stops_the_clocks_and_leaves_relative_averages_finite():
    tx = optax_lena.lena_amplified(0.1, 4, warmup_steps=100, momentum=None)
    good, after = (helpers.random_stacks(seed, 4) for seed in (7, 8))
    _, before = updated(tx, good)
    after["conv1"]["kernel"][2, 0, 1] = np.nan
    grads, moments = optax_lena.moments_from_stack(after)
    _, state = tx.update(grads, before, moments=moments)
    now, then = (optax_lena.metrics(s) for s in (state, before))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))
    for name in ("noise/conv1/kernel", "progress/conv1/kernel", "model/rate_steps"):
        assert now[name] == then[name]
    assert now["noise/head/kernel"] != then["noise/head/kernel"]


@pytest.mark.parametrize("reference", [False, True])
def test_a_norm_that_overflows_only_times_batch_scale_is_as_bad(reference):
    tx = optax_lena.scale_by_lena(1000, warmup_steps=100, reference=reference)
    huge = np.float32([1e19, -1e19])
    _, state = updated(tx, {"calm": jnp.ones(2), "wild": huge})
    assert np.isfinite(huge @ huge)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))
    np.testing.assert_array_equal(state.progress > 0, [True, False])


def test_training_goes_on_after_a_bad_batch():
    tx = optax.apply_if_finite(optax_lena.lena(0.01, 4, warmup_steps=20), 5)
    stacks = helpers.random_stacks(9, 12, 4)
    stacks["head"]["kernel"][3:5] = np.nan
    _, params, metrics = helpers.train(tx, helpers.example_params(), stacks)
    assert all(np.isfinite(p).all() for p in jax.tree.leaves(params))
    gain, progress = (metrics[f"{f}/head/kernel"] for f in ("gain", "progress"))
    assert np.isfinite(gain).all()
    assert progress[4] == progress[2] < progress[5]


def injected(**kwargs):
    return optax.inject_hyperparams(optax_lena.scale_by_lena)(**kwargs)


def test_batch_scale_may_change_between_updates():
    """As if that S had been there from the start: the estimates are of a base batch."""
    tx = injected(batch_scale=4.0, warmup_steps=1000.0)
    update = jax.jit(tx.update)
    states = []
    state = tx.init(helpers.example_params())
    grads, moments = helpers.example_moments()
    _, state = update(grads, state, moments=moments)
    for batch_scale in (8.0, 2.5):
        before = state.inner_state
        state.hyperparams["batch_scale"] = jnp.asarray(batch_scale, jnp.float32)
        with helpers.count_compilations() as compiled:
            _, state = update(grads, state, moments=moments)
        assert not compiled
        assert state.inner_state.applied.batch_scale == batch_scale
        assert state.inner_state.base_steps == before.base_steps + batch_scale
        step = state.inner_state.progress - before.progress
        np.testing.assert_allclose(step, state.inner_state.applied.gain, rtol=1e-5)
        assert (state.inner_state.applied.gain <= batch_scale).all()
        states.append(state)
    with pytest.raises(AssertionError):  # and it did make a difference
        helpers.assert_trees_close(
            states[0].inner_state.applied.gain, states[1].inner_state.applied.gain
        )


def test_the_gain_after_a_change_is_that_of_the_same_averages_at_the_new_batch_scale():
    tx = injected(batch_scale=4.0)
    grads, moments = helpers.example_moments()
    _, state = tx.update(grads, tx.init(grads), moments=moments)
    noise, signal = state.inner_state.averages.unbiased()
    no_gradient = jax.tree.map(jnp.zeros_like, moments[:2])
    state.hyperparams["batch_scale"] = jnp.asarray(32.0)
    unmeasured = optax_lena.GradMoments(*no_gradient, jnp.asarray(1))
    _, state = tx.update(grads, state, moments=unmeasured)
    expected = [
        oracle.gain_ratio(float(n), float(s), 32)
        for n, s in zip(noise, signal, strict=True)
    ]
    np.testing.assert_allclose(state.inner_state.applied.gain, expected, rtol=1e-5)


def stream(seed, replicas, n, base_batches, *, signal, noise, size=16):
    """Microbatch gradients `[replicas, n, size]`; `noise` is that of a base batch."""
    rng = np.random.default_rng(seed)
    mean = np.sqrt(signal / size)
    spread = np.sqrt(noise / size / (base_batches / n))
    draws = rng.standard_normal((replicas, n, size))
    return (mean + spread * draws).astype(np.float32)


def in_standard_errors(values, truth):
    values = np.asarray(values, np.float64)
    return abs(values.mean() - truth) / (values.std(ddof=1) / np.sqrt(len(values)))


@pytest.mark.parametrize(
    ("n", "batch_scale"), [(4, 4), (16, 16), (4, 16), (16, 4), (3, 7.5)]
)
def test_noise_and_signal_do_not_depend_on_the_batch_or_its_cut(n, batch_scale):
    """4000 first updates each; their mean within 4 standard errors of the truth."""
    stacks = stream(10, 4000, n, batch_scale, signal=2.0, noise=12.0)
    noise, signal = first_estimates(stacks, batch_scale)
    assert in_standard_errors(noise, 12.0) < 4
    assert in_standard_errors(signal, 2.0) < 4


def first_estimates(stacks, batch_scale, weights=None):
    tx = optax_lena.scale_by_lena(batch_scale)

    @helpers.jit
    @jax.vmap
    def estimate(stack):
        _, state = first_update(tx, {"w": stack}, weights)
        return [average[0] for average in state.averages.unbiased()]

    return estimate(stacks)


def test_a_changed_batch_scale_leaves_the_averages_unbiased():
    """256 runs of 40 updates, S = 4 in the first half and S = 16 in the second."""
    early, late = (
        stream(seed, 20 * 256, 4, batch_scale, signal=2.0, noise=12.0)
        for seed, batch_scale in ((11, 4), (12, 16))
    )
    stacks = np.concatenate([x.reshape(20, 256, 4, 16) for x in (early, late)])
    scales = np.repeat(np.float32([4, 16]), 20)

    def update(state, x):
        stack, batch_scale = x
        tx = optax_lena.scale_by_lena(batch_scale, horizon=100)
        grads, moments = optax_lena.moments_from_stack({"w": stack})
        return tx.update(grads, state, moments=moments)[1], None

    @helpers.jit
    def run(stacks):
        state = optax_lena.scale_by_lena().init({"w": jnp.zeros(16)})
        go = lambda xs: jax.lax.scan(update, state, (xs, scales))[0].averages.unbiased()
        return jax.vmap(go, in_axes=1)(stacks)

    noise, signal = run(stacks)
    assert in_standard_errors(noise[:, 0], 12.0) < 4
    assert in_standard_errors(signal[:, 0], 2.0) < 4


def test_weights_keep_noise_and_signal_unbiased():
    """4000 updates of microbatches with 1 to 7 examples of 13 in all, a base batch 4.

    An example's gradient has noise 48, a base batch's 12. Within 4 standard errors.
    """
    counts = np.array([1, 2, 3, 7])
    per_example = stream(13, 4000, 13, 13, signal=2.0, noise=48.0)
    edges = np.cumsum(counts)[:-1]
    parts = np.split(per_example, edges, axis=1)
    stacks = np.stack([part.mean(axis=1) for part in parts], axis=1)
    noise, signal = first_estimates(stacks, 13 / 4, np.float32(counts))
    assert in_standard_errors(noise, 12.0) < 4
    assert in_standard_errors(signal, 2.0) < 4
    unweighted_noise, _ = first_estimates(stacks, 13 / 4)
    assert in_standard_errors(unweighted_noise, 12.0) > 10


def test_first_estimates_carry_no_trace_of_the_start_at_zero():
    stack = {"w": jnp.array([1.0, 3.0])}  # variance 2, mean 2
    _, state = updated(optax_lena.lena(0.1, 2), stack)
    row = optax_lena.layer_report(state)["w"]
    np.testing.assert_allclose([row["noise"], row["signal"]], [2.0, 3.0], rtol=1e-6)


def test_one_counted_microbatch_measures_nothing_and_changes_no_average():
    tx = optax_lena.scale_by_lena(4, warmup_steps=10)
    stack = {"w": jnp.arange(8.0).reshape(4, 2)}
    _, state = updated(tx, stack, weights=jnp.array([0.0, 0, 5, 0]))
    assert state.averages.weight[0] == 0
    assert state.applied.gain[0] == 1 and np.isfinite(state.averages.noise).all()


def test_moments_given_to_fixed_linear_scaling_change_reports_only():
    tx = optax_lena.linear_scaling(0.1, 4, warmup_steps=8)
    grads, moments = helpers.example_moments()
    state = tx.init(grads)
    updates, seen = tx.update(grads, state, grads, moments=moments)
    blind_updates, blind = tx.update(grads, state, grads)
    helpers.assert_trees_equal(updates, blind_updates)
    assert optax_lena.layer_report(seen)["model"]["gain"] > 1
    assert optax_lena.layer_report(blind)["model"]["gain"] == 1


def test_reference_mode_starts_at_a_rate_of_zero_and_feeds_the_momentum():
    tx = optax_lena.lena(0.1, 4, warmup_steps=8, reference=True)
    grads, moments = helpers.example_moments()
    updates, state = tx.update(grads, tx.init(grads), grads, moments=moments)
    assert not any(u.any() for u in jax.tree.leaves(updates))
    helpers.assert_trees_equal(optax.tree_utils.tree_get(state, "trace"), grads)


def test_weight_decay_mask_says_what_decays():
    params, (grads, moments) = helpers.example_params(), helpers.example_moments()
    mask = jax.tree.map(lambda p: p.ndim > 1, params)
    kwargs = dict(momentum=None, weight_decay=0.5)
    step = lambda **more: _update(optax_lena.lena(0.1, 4, **more), params)
    _update = lambda tx, params: tx.update(
        grads, tx.init(params), params, moments=moments
    )[0]
    none, masked, all_ = (
        helpers.flat(step(**more))
        for more in ({"momentum": None}, dict(kwargs, weight_decay_mask=mask), kwargs)
    )
    np.testing.assert_array_equal(masked["conv1/bias"], none["conv1/bias"])
    np.testing.assert_array_equal(masked["head/kernel"], all_["head/kernel"])
    assert (all_["conv1/bias"] < none["conv1/bias"]).all()


def test_a_rule_of_ones_own():
    half = optax_lena.Rule(lambda gain, batch_scale: gain / 2)
    stack = helpers.random_stacks(14, 4)
    plain, _ = updated(optax_lena.scale_by_lena(4), stack)
    halved, _ = updated(optax_lena.scale_by_lena(4, rule=half), stack)
    helpers.assert_trees_close(halved, jax.tree.map(lambda u: u / 2, plain))


@pytest.mark.parametrize("make", [float, np.float64])
def test_state_is_float32_even_where_parameters_are_float64(make):
    with jax.enable_x64(True):
        tx = injected(batch_scale=make(4), warmup_steps=make(8), horizon=make(500))
        stack = {"w": jnp.asarray(np.arange(8.0).reshape(4, 2))}
        assert stack["w"].dtype == jnp.float64
        before = tx.init({"w": stack["w"][0]})
        updates, after = updated(tx, stack)
    assert updates["w"].dtype == jnp.float64
    for state in (before, after):
        assert {x.dtype for x in jax.tree.leaves(state.inner_state)} == {np.dtype("f4")}
