"""The two moments of a gradient, from a stack of microbatch gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import optax_lena
from tests import helpers

from_stack = helpers.jit(optax_lena.moments_from_stack, static_argnames="layers")


def test_moments_of_small_numbers_are_exact():
    grads, moments = from_stack({"w": jnp.array([[3.0, 4.0], [1.0, 0.0]])})
    np.testing.assert_array_equal(grads["w"], [2, 2])
    assert moments.micro_sq_norm["w"] == 13
    assert moments.batch_sq_norm["w"] == 8
    assert moments.num_microbatches == 2


def test_weighted_moments_of_small_numbers_are_exact():
    grads, moments = from_stack({"w": jnp.array([4.0, 8.0])}, weights=jnp.array([3, 1]))
    assert grads["w"] == 5
    assert moments.micro_sq_norm["w"] == 28
    assert moments.batch_sq_norm["w"] == 25


def test_agree_with_float64():
    stack = helpers.random_stacks(0, 6)
    weights = np.array([1, 2, 3, 4, 5, 6], np.float32)
    shares = weights.astype(np.float64) / 21
    grads, moments = from_stack(stack, weights=weights)
    for name, g in helpers.flat(stack).items():
        g = g.astype(np.float64).reshape(6, -1)
        mean = shares @ g
        got = [helpers.flat(tree)[name] for tree in (grads, *moments[:2])]
        expected = [mean, shares @ (g * g).sum(1), mean @ mean]
        for x, y in zip(got, expected, strict=True):
            np.testing.assert_allclose(np.ravel(x), np.ravel(y), rtol=1e-5, atol=1e-7)


def test_equal_weights_are_no_weights():
    stack = helpers.random_stacks(1, 4)
    plain, weighted = from_stack(stack), from_stack(stack, weights=jnp.full(4, 7.0))
    assert plain[1].num_microbatches == 4
    helpers.assert_trees_close(weighted, helpers.counts_as_arrays(plain))


@pytest.mark.parametrize("padding", [0.0, np.nan, np.inf])
def test_a_microbatch_of_weight_zero_is_absent_whatever_it_holds(padding):
    stack = {"w": np.array([[1, 2], [3, 5], [padding] * 2, [2, 2]], np.float32)}
    weights = np.array([2, 1, 0, 1], np.float32)
    kept = weights > 0
    got = from_stack(stack, weights=weights)
    without = from_stack({"w": stack["w"][kept]}, weights=weights[kept])
    helpers.assert_trees_close(got, without)
    assert got[1].num_microbatches == 3


def test_all_weights_zero_give_zeros():
    grads, moments = from_stack({"w": jnp.full((3, 2), jnp.nan)}, weights=jnp.zeros(3))
    np.testing.assert_array_equal(grads["w"], [0, 0])
    assert [float(x["w"]) for x in moments[:2]] == [0, 0]
    assert moments.num_microbatches == 0


@given(seed=st.integers(0, 2**16), order=st.permutations(range(5)))
def test_order_of_the_microbatches_does_not_matter(seed, order):
    rng = np.random.default_rng(seed)
    stack = {"w": rng.standard_normal((5, 4)).astype(np.float32)}
    weights = rng.integers(0, 4, 5).astype(np.float32)
    weights[0] += 1
    order = np.array(order)
    shuffled = from_stack({"w": stack["w"][order]}, weights=weights[order])
    plain = from_stack(stack, weights=weights)
    helpers.assert_trees_close(shuffled, plain, rtol=1e-5, atol=1e-6)


@given(seed=st.integers(0, 2**16), power=st.integers(-18, 18))
def test_moments_scale_with_the_square_of_the_loss(seed, power):
    grads = np.random.default_rng(seed).standard_normal((5, 4)).astype(np.float32)
    _, plain = from_stack({"w": grads})
    _, scaled = from_stack({"w": grads * np.float32(2.0**power)})
    for a, b in zip(scaled[:2], plain[:2], strict=True):
        assert a["w"] == b["w"] * np.float32(4.0**power)


@given(seed=st.integers(0, 2**16))
def test_mean_of_squares_is_at_least_the_square_of_the_mean(seed):
    rng = np.random.default_rng(seed)
    stack = {"w": rng.standard_normal((5, 4)).astype(np.float32)}
    _, moments = from_stack(stack, weights=rng.random(5).astype(np.float32))
    assert moments.micro_sq_norm["w"] >= moments.batch_sq_norm["w"] * (1 - 1e-6)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_stacked_parameters_have_one_moment_per_slice(axis):
    stack = np.random.default_rng(2).standard_normal((4, 3, 3, 3)).astype(np.float32)
    layers = optax_lena.stacked("blocks", axis)
    grads, moments = from_stack({"blocks": stack}, layers=layers)
    for i in range(3):
        piece = np.take(stack, i, axis=axis if axis < 0 else axis + 1)
        piece_grads, alone = from_stack({"blocks": piece})
        np.testing.assert_allclose(
            np.take(np.asarray(grads["blocks"]), i, axis=axis),
            piece_grads["blocks"],
            rtol=1e-6,
        )
        for got, expected in zip(moments[:2], alone[:2], strict=True):
            assert got["blocks"].shape == (3,)
            np.testing.assert_allclose(got["blocks"][i], expected["blocks"], rtol=1e-5)


@pytest.mark.parametrize(
    "dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.complex64]
)
def test_dtypes(dtype):
    grads, moments = from_stack({"w": jnp.ones((2, 3), dtype)})
    assert grads["w"].dtype == dtype
    assert {x["w"].dtype for x in moments[:2]} == {jnp.dtype(jnp.float32)}


def test_the_mean_of_bfloat16_gradients_is_summed_in_float32():
    """In bfloat16, 256 + 1 is 256."""
    stack = {"w": jnp.array([256.0] + [1.0] * 63 + [-256.0], jnp.bfloat16)}
    grads, moments = from_stack(stack)
    np.testing.assert_allclose(grads["w"], np.float32(63 / 65), rtol=2**-8)
    np.testing.assert_allclose(moments.batch_sq_norm["w"], (63 / 65) ** 2, rtol=1e-5)


@pytest.mark.skipif(not hasattr(optax, "microbatch"), reason="optax has none yet")
def test_of_what_optax_microbatch_concatenates():
    """A microbatch of n examples apart, as where devices share each of them."""
    loss = lambda w, x: jnp.mean((x @ w - 1) ** 2)
    w, x = jnp.ones(3), jnp.arange(36.0).reshape(12, 3) ** 0.5
    microbatched = optax.microbatch(
        lambda w, x: jax.grad(loss)(w, x)[None],
        argnums=1,
        microbatch_size=4,
        accumulator=optax.microbatching.AccumulationType.CONCAT,
    )
    got = optax_lena.moments_from_stack(microbatched(w, x))
    interleaved = x.reshape(4, 3, 3).swapaxes(0, 1).reshape(12, 3)
    _, *expected = optax_lena.value_and_grad(loss, 3)(w, interleaved)
    helpers.assert_trees_close(got, tuple(expected), rtol=1e-5)


@pytest.mark.parametrize("n", [3, 6])
@pytest.mark.parametrize("weighted", [False, True])
def test_in_float64_the_mean_is_right_to_float64(n, weighted):
    """A third of a microbatch's weight has no float32."""
    with jax.enable_x64(True):
        stack = np.random.default_rng(0).normal(size=(n, 5))
        weights = jnp.full(n, 5.0) if weighted else None
        grads, _ = optax_lena.moments_from_stack(jnp.asarray(stack), weights=weights)
        square = lambda w, x: jnp.mean((w - x) ** 2)
        batch = np.arange(float(2 * n))
        loss, _, _ = optax_lena.value_and_grad(square, n)(
            jnp.float64(0), jnp.asarray(batch)
        )
        grads, loss = jax.device_get((grads, loss))
    np.testing.assert_allclose(grads, np.mean(stack, axis=0), rtol=1e-14)
    np.testing.assert_allclose(loss, np.mean(np.square(batch)), rtol=1e-14)
