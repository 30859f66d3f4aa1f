"""What the transformation promises: its gains, its state, and what bad input does."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import optax_lena
from tests import helpers


def test_with_as_many_microbatches_as_base_batches_the_gain_is_equation_4():
    stack = {"w": jnp.array([[3.0, 1.0], [1.0, 1.0], [2.0, -2.0], [2.0, 0.0]])}
    _, state = helpers.updated(optax_lena.lena(0.1, batch_scale=4), stack)
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
    for value in jitted_gain(grads, np.float32(batch_scale)):  # layer and model
        assert 1 <= value <= np.float32(batch_scale)


@helpers.jit
def jitted_gain(grads, batch_scale):
    _, state = helpers.first_update(optax_lena.scale_by_lena(batch_scale), {"w": grads})
    return state.applied.gain


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
    updates, state = helpers.updated(optax_lena.lena(0.1, 4), {"w": jnp.zeros((4, 3))})
    row = optax_lena.layer_report(state)["w"]
    fields = ("gain", "noise", "signal", "noise_scale")
    assert [row[field] for field in fields] == [1, 0, 0, 0]
    np.testing.assert_array_equal(updates["w"], np.zeros(3))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_keeps_float32_statistics_and_its_own_updates(dtype):
    stack = jax.tree.map(lambda g: jnp.asarray(g, dtype), helpers.random_stacks(5, 4))
    exact = jax.tree.map(lambda g: g.astype(jnp.float32), stack)
    tx = optax_lena.scale_by_lena(4, warmup_steps=10)
    updates, state = helpers.updated(tx, stack)
    exact_updates, exact_state = helpers.updated(tx, exact)
    assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
    assert helpers.float_dtypes(state) == {jnp.dtype(jnp.float32)}
    states = map(helpers.read_counts, (state, exact_state))
    helpers.assert_trees_close(*states, rtol=1e-6, atol=1e-6)
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
    pair_updates, pair_state = helpers.updated(tx, {"w": jnp.asarray(real)})
    updates, state = helpers.updated(
        tx, {"w": jnp.asarray(real[..., 0] + 1j * real[..., 1])}
    )
    helpers.assert_trees_close(*map(helpers.read_counts, (state, pair_state)))
    assert updates["w"].dtype == jnp.complex64
    as_pairs = jnp.stack([updates["w"].real, updates["w"].imag], axis=-1)
    np.testing.assert_allclose(as_pairs, pair_updates["w"], rtol=1e-6)


def with_horizon(batch_scale, warmup_steps, horizon):
    rate = optax_lena.LayerRate(
        estimator=optax_lena.Averages(horizon),
        warmup=optax_lena.StateAwareWarmup(warmup_steps),
    )
    return optax_lena.scale_by_layer_rate(rate, batch_scale)


@pytest.mark.parametrize("make", [float, np.float64])
def test_state_is_float32_even_where_parameters_are_float64(make):
    with jax.enable_x64(True):
        tx = optax.inject_hyperparams(with_horizon)(
            batch_scale=make(4), warmup_steps=make(8), horizon=make(500)
        )
        stack = {"w": jnp.asarray(np.arange(8.0).reshape(4, 2))}
        assert stack["w"].dtype == jnp.float64
        before = tx.init({"w": stack["w"][0]})
        updates, after = helpers.updated(tx, stack)
    assert updates["w"].dtype == jnp.float64
    for state in (before, after):
        assert helpers.float_dtypes(state.inner_state) == {np.dtype("f4")}
        assert {x.dtype for x in jax.tree.leaves(state.inner_state)} == {
            np.dtype("f4"),
            np.dtype("i4"),
            np.dtype("u4"),
        }
