"""`IncrementalMoments`: for loops that have their own scan over microbatches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optax_lena
from tests import devices, helpers

PARAMS = helpers.example_params()


def summed(stack, weights=None, **kwargs):
    """Returns the sums over a stack, in a scan."""
    incremental = optax_lena.IncrementalMoments(**kwargs)

    @helpers.jit
    def run(stack, weights):
        def body(sums, x):
            grads, weight = x
            return incremental.add(sums, grads, weight=weight), None

        return jax.lax.scan(body, incremental.init(PARAMS), (stack, weights))[0]

    n = len(stack["head"]["kernel"])
    return incremental, run(stack, jnp.ones(n) if weights is None else weights)


@pytest.mark.parametrize("weights", [None, np.float32([1, 0, 3, 2, 2, 4])])
@pytest.mark.parametrize(
    "layers", [optax_lena.per_parameter, optax_lena.stacked("blocks")]
)
def test_sums_are_the_stacks_moments(weights, layers):
    stack = helpers.random_stacks(0, 6)
    incremental, sums = summed(stack, weights, layers=layers)
    grads, moments = incremental.finish(sums)
    expected = optax_lena.moments_from_stack(stack, weights=weights, layers=layers)
    expected = helpers.counts_as_arrays(expected)
    helpers.assert_trees_close((grads, moments), expected, rtol=1e-5, atol=1e-6)


def test_sums_of_sums_are_sums():
    """In any order and any part: what a `psum` over devices does."""
    stack = helpers.random_stacks(0, 6)
    incremental, whole = summed(stack)
    halves = [jax.tree.map(lambda x, s=s: x[s], stack) for s in (slice(4), slice(4, 6))]
    parts = [summed(half)[1] for half in halves]
    helpers.assert_trees_close(
        jax.tree.map(jnp.add, *parts[::-1]), whole, rtol=1e-5, atol=1e-6
    )
    assert whole.num_microbatches == 6 and whole.weight == 6


def test_a_gradient_may_itself_be_a_mean_with_moments():
    stack = helpers.random_stacks(0, 6)
    incremental = optax_lena.IncrementalMoments()
    sums = incremental.init(PARAMS)
    for s in (slice(3), slice(3, 6)):
        mean, moments = optax_lena.moments_from_stack(
            jax.tree.map(lambda x, s=s: x[s], stack)
        )
        sums = incremental.add(sums, mean, moments=moments)
    _, expected = summed(stack)
    assert sums.num_microbatches == 6
    got, expected = (incremental.finish(s) for s in (sums, expected))
    helpers.assert_trees_close(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_weight_of_zero_leaves_out_whatever_the_gradient_is(bad):
    incremental = optax_lena.IncrementalMoments()
    sums = incremental.init({"w": jnp.zeros(2)})
    for row, weight in (([1.0, 2.0], 1.0), ([bad, 0.0], 0.0), ([3.0, 2.0], 1.0)):
        sums = incremental.add(sums, {"w": jnp.array(row)}, weight=weight)
    grads, moments = incremental.finish(sums)
    np.testing.assert_array_equal(grads["w"], [2, 2])
    assert moments.micro_sq_norm["w"] == 9 and moments.num_microbatches == 2


@pytest.mark.parametrize("given", [{}, {"weight": None}, {"weight": 1}])
def test_a_gradient_without_a_weight_weighs_one(given):
    incremental, grads = optax_lena.IncrementalMoments(), {"w": jnp.ones(2)}
    sums = incremental.add(incremental.init(grads), grads, **given)
    assert (sums.weight, sums.num_microbatches) == (1, 1)


def test_nothing_summed_is_zeros():
    incremental = optax_lena.IncrementalMoments()
    grads, moments = incremental.finish(incremental.init(PARAMS))
    assert not any(x.any() for x in jax.tree.leaves((grads, moments)))


def test_of_no_parameters_there_are_no_norms():
    sums = optax_lena.IncrementalMoments().init({})
    assert sums.micro_sq_norm.shape == (0,)
    grads, moments = optax_lena.IncrementalMoments().finish(sums)
    assert (grads, moments.micro_sq_norm) == ({}, {})


def test_sums_are_in_float32_and_the_mean_in_the_dtype_of_what_it_is_like():
    incremental = optax_lena.IncrementalMoments()
    like = {"w": jnp.zeros((), jnp.bfloat16)}
    sums = incremental.init(like)
    for value in (256.0, *[1.0] * 63):
        sums = incremental.add(sums, {"w": jnp.bfloat16(value)})
    assert sums.grads["w"].dtype == jnp.float32 and sums.grads["w"] == 319
    assert incremental.finish(sums, like)[0]["w"].dtype == jnp.bfloat16
    assert incremental.finish(sums)[0]["w"] == 319 / 64


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_the_mean_is_rounded_once_to_the_dtype_that_is_asked_for(dtype):
    incremental, grads = optax_lena.IncrementalMoments(), {"w": jnp.ones(2, dtype)}
    sums = incremental.add(incremental.init(grads), grads, weight=1 / 3)
    np.testing.assert_allclose(sums.grads["w"], 1 / 3, rtol=1e-6)
    assert incremental.finish(sums)[0]["w"].dtype == jnp.float32
    assert incremental.finish(sums, grads)[0]["w"].dtype == dtype


def test_every_device_may_sum_its_own():
    stack = helpers.random_stacks(0, 8)
    incremental = optax_lena.IncrementalMoments()

    def on_device(stack):
        varying = jax.tree.map(lambda x: x[0], stack)
        body = lambda sums, grads: (incremental.add(sums, grads), None)
        sums, _ = jax.lax.scan(body, incremental.init(varying), stack)
        return incremental.finish(jax.lax.psum(sums, "data"))

    mapped = jax.shard_map(
        on_device,
        mesh=devices.data_mesh(4),
        in_specs=devices.P("data"),
        out_specs=devices.P(),
    )
    got = jax.jit(mapped)(stack)
    expected = incremental.finish(summed(stack)[1])
    helpers.assert_trees_close(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("forgotten_by", ["the moments", "the sums"])
def test_moments_in_another_metric_than_the_sums_are_refused(forgotten_by):
    ones = jax.tree.map(jnp.ones_like, PARAMS)
    inside, outside = (None, ones) if forgotten_by == "the moments" else (ones, None)
    stack = helpers.random_stacks(0, 2)
    grads, moments = optax_lena.moments_from_stack(stack, preconditioner=inside)
    incremental = optax_lena.IncrementalMoments(preconditioner=outside)
    said = {"the moments": "one, got moments with none"}
    said = said.get(forgotten_by, "none, got moments with one")
    message = helpers.says("`moments`", "`preconditioner`", said, "accumulate")
    with pytest.raises(ValueError, match=message):
        incremental.add(incremental.init(PARAMS), grads, moments=moments)
