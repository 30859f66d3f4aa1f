"""Edges of what is measured: what only a mutation test has asked about."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optax_lena
from optax_lena._measure.metric import ShardedMetric
from optax_lena._measure.moments import check_weights


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_multiplied_gradients_are_widened_first(dtype):
    """1000 times 300 is beyond float16, and 257 times 3 beyond bfloat16's 8 bits."""
    for gradient, multiplier in ((300.0, 1000.0), (257.0, 3.0)):
        given = jnp.array([gradient], dtype)
        metric = optax_lena.Metric(multipliers={"w": jnp.array([multiplier])})
        norm = metric.sq_norms({"w": given})["w"]
        expected = (float(given[0]) * multiplier) ** 2
        np.testing.assert_allclose(norm, expected, rtol=1e-6)
        assert norm.dtype == jnp.float32


def test_of_no_parameters_there_are_no_norms():
    sums = optax_lena.IncrementalMoments().init({})
    assert sums.micro_sq_norm.shape == (0,)
    grads, moments = optax_lena.IncrementalMoments().finish(sums)
    assert (grads, moments.micro_sq_norm) == ({}, {})


@pytest.mark.parametrize("weights", [[3, 1], [0, 0.5], [np.finfo(np.float32).max, 0]])
def test_weights_are_float32_and_may_be_zero_or_very_large(weights):
    got = check_weights(weights, (2,), equal=1)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, np.float32(weights))


def test_weights_may_be_a_list_of_which_some_are_not_known_yet():
    weigh = lambda weight: check_weights([weight, 1.0], (2,), equal=1)
    np.testing.assert_array_equal(jax.jit(weigh)(3.0), [3, 1])


@pytest.mark.parametrize("given", [{}, {"weight": None}, {"weight": 1}])
def test_a_gradient_without_a_weight_weighs_one(given):
    incremental, grads = optax_lena.IncrementalMoments(), {"w": jnp.ones(2)}
    sums = incremental.add(incremental.init(grads), grads, **given)
    assert (sums.weight, sums.num_microbatches) == (1, 1)


@pytest.mark.parametrize("name", ["micro_sq_norm", "batch_sq_norm"])
def test_norms_must_be_real(name):
    grads, moments = optax_lena.moments_from_stack({"w": jnp.ones((2, 3))})
    tx = optax_lena.scale_by_lena(2)
    bad = moments._replace(**{name: {"w": jnp.array(1j)}})
    with pytest.raises(ValueError, match="must be real"):
        tx.update(grads, tx.init(grads), moments=bad)


def test_only_what_is_sharded_is_summed_over_the_shards():
    """Per parameter over its own axes: a sum over two axes, over one, and none."""
    metric = ShardedMetric(optax_lena.Metric(), (("x",), (), ("x", "y")))
    shards = jnp.arange(1.0, 7.0).reshape(2, 3)
    norms = lambda g: metric.sq_norms({"a": g, "b": g, "c": g})
    inner = jax.vmap(norms, axis_name="y")
    got = jax.vmap(inner, axis_name="x")(shards)
    squares = shards**2
    over_x = jnp.broadcast_to(squares.sum(0), (2, 3))
    np.testing.assert_allclose(got["a"], over_x)
    np.testing.assert_allclose(got["b"], squares)
    np.testing.assert_allclose(got["c"], jnp.full((2, 3), squares.sum()))


def test_gradients_are_widened_before_they_are_squared():
    norm = optax_lena.Metric().sq_norms({"w": jnp.array([300.0], jnp.float16)})["w"]
    assert (norm, norm.dtype) == (90_000, jnp.float32)


def test_with_64_bits_norms_are_as_wide_as_the_gradients_and_leave_in_32():
    with jax.enable_x64(True):
        for dtype in (np.float32, np.float64):
            stack = {"w": jnp.ones((2, 3), dtype)}
            multipliers = {"w": jnp.ones(3, np.float64)}
            metric = optax_lena.Metric(multipliers=multipliers)
            assert metric.sq_norms({"w": stack["w"][0]})["w"].dtype == dtype
            grads, moments = optax_lena.moments_from_stack(
                stack, preconditioner=multipliers
            )
            assert grads["w"].dtype == dtype
            for norms in moments[:2]:
                assert norms["w"].dtype == np.float32


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_the_mean_is_rounded_once_to_the_dtype_that_is_asked_for(dtype):
    incremental, grads = optax_lena.IncrementalMoments(), {"w": jnp.ones(2, dtype)}
    sums = incremental.add(incremental.init(grads), grads, weight=1 / 3)
    np.testing.assert_allclose(sums.grads["w"], 1 / 3, rtol=1e-6)
    assert incremental.finish(sums)[0]["w"].dtype == jnp.float32
    assert incremental.finish(sums, grads)[0]["w"].dtype == dtype
