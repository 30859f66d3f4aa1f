"""`lena_lars`: two ratios, their order, their masks, and what is left of optax.lars."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_lena
from tests import helpers, oracle

UPDATES, N = 30, 4
lena_lars = optax_lena.lena_lars
NO_BIAS = {"blocks": True, "conv1": {"bias": False, "kernel": True}, "head": True}


def test_reports_say_the_whole_rate():
    """The schedule stands before the buffer, and not in the rate's own state."""
    grads, moments = helpers.example_moments()
    tx = lena_lars(optax.constant_schedule(0.5), batch_scale=4)
    _, state = tx.update(grads, tx.init(grads), grads, moments=moments)
    row = optax_lena.layer_report(state)["conv1/kernel"]
    assert optax_lena.metrics(state)["model/schedule"] == 0.5
    assert row["learning_rate"] == pytest.approx(0.5 * row["trust_ratio"])


@pytest.mark.parametrize(
    "case",
    [
        dict(),
        dict(warmup_steps=40, weight_decay=0.1),
        dict(momentum=0.5, nesterov=True, trust_coefficient=0.02, eps=0.1),
        dict(trust_ratio_mask=NO_BIAS),
        dict(learning_rate=optax.cosine_decay_schedule(0.5, 3 * UPDATES)),
    ],
)
def test_agrees_with_float64(case):
    arguments = {"learning_rate": 0.5, "trust_coefficient": 0.01} | case
    stacks, params = helpers.random_stacks(1, UPDATES, N), helpers.example_params()
    tx = lena_lars(batch_scale=N, **arguments)
    _, got, metrics = helpers.train(tx, params, stacks)
    warmup_steps = arguments.pop("warmup_steps", 0)
    rate = arguments.pop("learning_rate")
    schedule = (lambda t: float(rate(t))) if callable(rate) else lambda t: rate
    masked = arguments.pop("trust_ratio_mask", None) is not None
    for name, w in helpers.flat(params).items():
        expected, gains = oracle.replay_lars(
            w,
            helpers.flat(stacks)[name],
            oracle.Layer(oracle.square_root, N, warmup_steps),
            learning_rate=schedule,
            has_trust_ratio=not (masked and name == "conv1/bias"),
            **arguments,
        )
        got_gains = helpers.rows(metrics, "gain")[name]
        np.testing.assert_allclose(got_gains, gains, rtol=1e-3)
        np.testing.assert_allclose(helpers.flat(got)[name], expected, rtol=1e-3)


def test_lars_ratio_comes_before_the_buffer_and_the_gain_after():
    """Two updates by hand. Another order of the two ratios gives other numbers."""
    tx = lena_lars(0.5, 4, momentum=0.5, trust_coefficient=0.1)
    params = {"w": jnp.array([3.0, 4.0])}
    state = tx.init(params)
    # Without noise, the gain is 1; the buffer holds 0.5 · 0.1 · ‖w‖ = 0.25 along g.
    calm = {"w": jnp.array([[0.0, 2.0], [0.0, 2.0]])}
    grads, moments = optax_lena.moments_from_stack(calm)
    updates, state = tx.update(grads, state, params, moments=moments)
    np.testing.assert_allclose(updates["w"], [0, -0.25], rtol=1e-6)
    # σ² / 4 = 16 and ‖μ‖² = 0, averaged with 0 and 4.
    noisy = {"w": jnp.array([[8.0, 0.0], [0.0, 0.0]])}
    grads, moments = optax_lena.moments_from_stack(noisy)
    updates, state = tx.update(grads, state, params, moments=moments)
    step = 4 / 1000
    noise, signal = step * 64, (1 - step) * step * 4
    ratio = np.sqrt((noise + signal) / (noise / 4 + signal))
    # The old gradient keeps the length that LARS gave it, and takes the new gain.
    np.testing.assert_allclose(
        updates["w"], [-ratio * 0.25, -ratio * 0.5 * 0.25], rtol=1e-4
    )
    assert ratio > np.sqrt(3)


ARGUMENTS = [
    dict(),
    dict(weight_decay=0.1, nesterov=True, momentum=0.5),
    dict(trust_coefficient=0.02, eps=0.3, weight_decay=0.1),
    dict(weight_decay=0.1, weight_decay_mask=NO_BIAS, trust_ratio_mask=NO_BIAS),
    dict(
        weight_decay=0.1,
        weight_decay_mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p),
        trust_ratio_mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p),
    ),
]


def assert_is_lars(ours, theirs, rtol):
    """Whatever the moments say, in float64: only the order of sums may differ."""
    with jax.enable_x64(True):
        params = helpers.example_params(jnp.float64)
        states = ours.init(params), theirs.init(params)
        for seed in range(4):
            stacks = helpers.random_stacks(seed, N)
            stacks = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), stacks)
            grads, moments = optax_lena.moments_from_stack(stacks)
            got, ours_state = ours.update(grads, states[0], params, moments=moments)
            want, theirs_state = theirs.update(grads, states[1], params)
            assert got["head"]["kernel"].dtype == np.float64
            helpers.assert_trees_close(got, want, rtol)
            states = ours_state, theirs_state
            params = optax.apply_updates(params, want)


@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_at_a_batch_scale_of_one_it_is_lars(arguments):
    ours, theirs = lena_lars(0.1, 1, **arguments), optax.lars(0.1, **arguments)
    assert_is_lars(ours, theirs, rtol=1e-12)


def test_at_a_batch_scale_of_one_a_schedule_is_lars_s():
    """The rate enters the buffer with its gradient. Our clock is a float32."""
    schedule = lambda step: 0.1 * 0.5**step
    assert_is_lars(lena_lars(schedule, 1), optax.lars(schedule), rtol=1e-6)


def test_a_schedule_runs_on_base_steps():
    tx = lena_lars(lambda t: 0.1 * (1 + t), 4, momentum=0.0)
    params = {"w": jnp.ones(3)}
    # Without noise every gain is 1, and an update counts 4 base steps.
    grads, moments = optax_lena.moments_from_stack({"w": jnp.ones((2, 3))})
    state, lengths = tx.init(params), []
    for _ in range(3):
        updates, state = tx.update(grads, state, params, moments=moments)
        lengths.append(float(updates["w"][0]))
    expected = [-0.001 * 0.1 * (1 + 4 * t) for t in range(3)]
    np.testing.assert_allclose(lengths, expected, rtol=1e-5)


def test_masked_parameters_keep_gain_and_warm_up():
    params = {"bias": jnp.full(2, 3.0), "kernel": jnp.full(2, 3.0)}
    row = jnp.array([[1.0, 5.0], [1.0, -5.0]])
    grads, moments = optax_lena.moments_from_stack({"bias": row, "kernel": row})
    mask = {"bias": False, "kernel": True}
    arguments = dict(momentum=0.0, weight_decay=0.5, warmup_steps=100)
    masks = dict(weight_decay_mask=mask, trust_ratio_mask=mask)
    tx = lena_lars(0.1, 2, **arguments, **masks)
    updates, state = tx.update(grads, tx.init(params), params, moments=moments)
    report = optax_lena.layer_report(state)
    for row in report.values():
        assert row["gain"] == 2 and row["warmup_factor"] == pytest.approx(0.02)
    factor = 0.1 * np.sqrt(2) * 0.02
    np.testing.assert_allclose(updates["bias"], [-factor, 0], rtol=1e-5)
    decayed = np.array([1 + 1.5, 1.5])
    ratio = 0.001 * np.linalg.norm([3, 3]) / np.linalg.norm(decayed)
    np.testing.assert_allclose(updates["kernel"], -factor * ratio * decayed, rtol=1e-5)


@pytest.mark.parametrize("axis", [0, -1])
def test_slices_of_a_stacked_parameter_have_their_own_ratios(axis):
    """Both of them, as in the unrolled network; optax.lars has one for all blocks."""
    rng = np.random.default_rng(0)
    weights = [10.0 ** (2 * i) * rng.standard_normal((3, 4)) for i in range(2)]
    stacks = [rng.standard_normal((5, N, 3, 4)) for i in range(2)]
    to_float32 = lambda x: jnp.asarray(x, jnp.float32)
    arguments = dict(weight_decay=0.01, trust_coefficient=0.1, warmup_steps=9)
    unrolled = {f"b{i}": to_float32(w) for i, w in enumerate(weights)}
    tx = lena_lars(0.1, 4, **arguments)
    stack = {f"b{i}": to_float32(g) for i, g in enumerate(stacks)}
    _, expected, _ = helpers.train(tx, unrolled, stack)
    layers = optax_lena.stacked("blocks", axis)
    tx = lena_lars(0.1, 4, layers=layers, **arguments)
    place = lambda blocks, leading: to_float32(
        np.stack(blocks, axis if axis < 0 else axis + leading)
    )
    scanned, stack = {"blocks": place(weights, 0)}, {"blocks": place(stacks, 2)}
    _, got, _ = helpers.train(tx, scanned, stack, layers=layers)
    for i in range(2):
        piece = np.take(got["blocks"], i, axis=axis if axis < 0 else axis + 1)
        np.testing.assert_allclose(piece, expected[f"b{i}"], rtol=1e-4)


def test_a_layer_of_zeros_or_without_a_gradient_takes_a_plain_step():
    params = {"new": jnp.zeros(2), "still": jnp.ones(2)}
    stack = {"new": jnp.ones((2, 2)), "still": jnp.zeros((2, 2))}
    grads, moments = optax_lena.moments_from_stack(stack)
    tx = lena_lars(0.1, 2)
    updates, _ = tx.update(grads, tx.init(params), params, moments=moments)
    np.testing.assert_allclose(updates["new"], -0.1)
    np.testing.assert_array_equal(updates["still"], 0)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.complex64])
def test_dtypes(dtype):
    updates, state = helpers.updated(lena_lars(0.1, 4), {"w": jnp.ones((4, 3), dtype)})
    assert updates["w"].dtype == dtype
    assert float(helpers.lena_state(state).clocks.base_steps) == 4


@pytest.mark.parametrize("asked", [None, "float32", jnp.float16])
def test_the_buffer_has_the_dtype_that_is_asked_for(asked):
    tx = lena_lars(0.1, 4, accumulator_dtype=asked)
    params = {"w": jnp.ones(3, jnp.bfloat16)}
    grads, moments = optax_lena.moments_from_stack({"w": jnp.ones((4, 3), "bfloat16")})
    state = tx.init(params)
    _, after = tx.update(grads, state, params, moments=moments)
    for buffer in (state.buffer, after.buffer):
        assert buffer.trace["w"].dtype == jnp.dtype(asked or jnp.bfloat16)


def test_forgotten_parameters():
    tx = lena_lars(0.1, 4)
    grads, moments = helpers.example_moments()
    with pytest.raises(ValueError, match="params"):
        tx.update(grads, tx.init(grads), moments=moments)


@pytest.mark.parametrize("zero", ["params", "grads"])
def test_derivatives_are_finite_where_a_layer_has_no_ratio(zero):
    """A bias that starts at 0, in a loss that is differentiated through an update."""
    ones = {"bias": jnp.ones(2), "kernel": jnp.ones(2)}
    scales = {"params": ones, "grads": ones}
    scales[zero] = {"bias": jnp.zeros(2), "kernel": jnp.ones(2)}
    tx = lena_lars(0.1, batch_scale=4)

    def length(x):
        params, grads = (
            jax.tree.map(lambda leaf: x * leaf, scales[k]) for k in ("params", "grads")
        )
        stack = jax.tree.map(lambda g: jnp.stack([g, 2 * g]), grads)
        grads, moments = optax_lena.moments_from_stack(stack)
        updates, _ = tx.update(grads, tx.init(params), params, moments=moments)
        return sum(jnp.sum(u) for u in jax.tree.leaves(updates))

    derivative = jax.grad(length)(1.0)
    difference = (length(1.01) - length(0.99)) / 0.02
    np.testing.assert_allclose(derivative, difference, rtol=1e-2)
