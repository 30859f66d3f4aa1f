"""Moments as a pytree, what rescales them, and the weights of their means."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optax_lena
from optax_lena._measure.moments import PreconditionedMoments, check_weights
from tests import helpers

PARAMS = helpers.example_params()


def gains(moments):
    tx = optax_lena.scale_by_lena(8)
    _, state = tx.update(PARAMS, tx.init(PARAMS), moments=moments)
    return {k: row["gain"] for k, row in optax_lena.layer_report(state).items()}


def test_moments_are_a_pytree():
    _, moments = helpers.example_moments()
    same = jax.tree.map(lambda x: x, moments)
    assert isinstance(same, optax_lena.GradMoments)
    structure = jax.tree.structure(PARAMS)
    assert jax.tree.structure(moments.micro_sq_norm) == structure
    helpers.assert_trees_equal(pickle.loads(pickle.dumps(moments)), moments)


def test_a_plain_count_is_structure_and_an_array_is_a_leaf():
    _, moments = helpers.example_moments(n=4)
    leaves = 2 * len(jax.tree.leaves(PARAMS))
    assert len(jax.tree.leaves(moments)) == leaves
    traced = moments._replace(num_microbatches=jnp.int32(4))
    assert len(jax.tree.leaves(traced)) == leaves + 1
    other = moments._replace(num_microbatches=5)
    assert jax.tree.structure(other) != jax.tree.structure(moments)
    assert jax.jit(lambda m: m)(moments).num_microbatches == 4
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(traced)]
    assert jax.tree_util.keystr(paths[-1]) == ".num_microbatches"


def test_a_tree_map_over_the_norms_leaves_the_count_alone():
    """What users write to undo a loss scale; it once switched the gain off."""
    _, moments = helpers.example_moments(n=4)
    scaled = jax.tree.map(lambda m: m * 1024.0**2, moments)
    assert scaled.num_microbatches == 4
    undone = jax.tree.map(lambda m: m / 1024.0**2, scaled)
    assert gains(undone) == gains(moments)
    assert max(gains(moments).values()) > 2


@pytest.mark.parametrize("under_jit", [False, True])
def test_a_tree_map_that_changes_a_traced_count_is_an_error(under_jit):
    _, moments = helpers.example_moments(n=4)
    moments = moments._replace(num_microbatches=jnp.int32(4))
    tx = optax_lena.scale_by_lena(8)

    def step(moments):
        divided = jax.tree.map(lambda m: m / 4, moments)
        return tx.update(PARAMS, tx.init(PARAMS), moments=divided)

    message = helpers.says("`moments.num_microbatches`", "float32", "moments.rescale(")
    with pytest.raises(TypeError, match=message):
        (jax.jit(step) if under_jit else step)(moments)


@pytest.mark.parametrize("count", [4, jnp.int32(4)])
@pytest.mark.parametrize("scale", [1024.0, 2.0**40, jnp.float32(512)])
def test_rescaled_moments_are_those_of_the_rescaled_gradients(scale, count):
    stack = helpers.random_stacks(0, 4)
    _, moments = optax_lena.moments_from_stack(stack)
    moments = moments._replace(num_microbatches=count)
    scaled = jax.tree.map(lambda g: g * np.float32(scale), stack)
    _, long = optax_lena.moments_from_stack(scaled)
    long = long._replace(num_microbatches=count)
    helpers.assert_trees_close(long.rescale(1 / scale), moments)
    assert gains(long.rescale(1 / scale)) == pytest.approx(gains(moments), rel=1e-5)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, int])
def test_rescaled_moments_are_float32_whatever_the_factor_is(dtype):
    _, moments = optax_lena.moments_from_stack(helpers.random_stacks(0, 4))
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        rescaled = moments.rescale(jnp.asarray(2, dtype))
    assert {x.dtype for x in jax.tree.leaves(rescaled)} == {np.dtype("float32")}


def test_a_factor_whose_square_is_no_float32():
    _, moments = optax_lena.moments_from_stack({"w": jnp.float32([2.0**60, 2.0**61])})
    got = moments.rescale(2.0**-80).micro_sq_norm["w"]
    np.testing.assert_allclose(got, (2.0**-40 + 2.0**-38) / 2)


def test_float16_under_a_dynamic_loss_scale():
    """Gradients are divided by the scale, moments rescaled; the scale may overflow."""
    loss = lambda w, x: jnp.mean((x @ w) ** 2)
    x = jax.random.normal(jax.random.key(0), (16, 3))
    w = jnp.full(3, 0.5)

    @jax.jit
    def step(state, scale):
        scaled = lambda w, x: loss(w.astype(jnp.float16), x.astype(jnp.float16)) * scale
        gather = optax_lena.value_and_grad(scaled, 4)
        _, grads, moments = gather(w, x)
        grads, moments = grads / scale, moments.rescale(1 / scale)
        return TX.update(grads, state, w, moments=moments)[1]

    TX = optax_lena.lena(0.1, 4)
    state = step(TX.init(w), jnp.float32(256))
    _, grads, moments = optax_lena.value_and_grad(loss, 4)(w, x)
    _, exact = TX.update(grads, TX.init(w), w, moments=moments)
    got, expected = (optax_lena.layer_report(s)["model"] for s in (state, exact))
    assert got["gain"] == pytest.approx(expected["gain"], rel=0.01)
    assert got["noise"] == pytest.approx(expected["noise"], rel=0.01)
    after = optax_lena.layer_report(step(state, jnp.float32(2.0**24)))["model"]
    assert {k: after[k] for k in ("noise", "progress")} == {
        k: got[k] for k in ("noise", "progress")
    }


@pytest.mark.parametrize("name", ["micro_sq_norm", "batch_sq_norm"])
def test_norms_must_be_real(name):
    grads, moments = optax_lena.moments_from_stack({"w": jnp.ones((2, 3))})
    tx = optax_lena.scale_by_lena(2)
    bad = moments._replace(**{name: {"w": jnp.array(1j)}})
    with pytest.raises(ValueError, match="must be real"):
        tx.update(grads, tx.init(grads), moments=bad)


@pytest.mark.parametrize("weights", [[3, 1], [0, 0.5], [np.finfo(np.float32).max, 0]])
def test_weights_are_float32_and_may_be_zero_or_very_large(weights):
    got = check_weights(weights, (2,), equal=1)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, np.float32(weights))


def test_weights_may_be_a_list_of_which_some_are_not_known_yet():
    weigh = lambda weight: check_weights([weight, 1.0], (2,), equal=1)
    np.testing.assert_array_equal(jax.jit(weigh)(3.0), [3, 1])


def with_type(moments):
    return isinstance(moments, PreconditionedMoments)


def test_the_type_says_whether_the_metric_is_the_gradients_own():
    stack = helpers.random_stacks(0, 4)
    _, plain = optax_lena.moments_from_stack(stack)
    ones = jax.tree.map(jnp.ones_like, PARAMS)
    _, other = optax_lena.moments_from_stack(stack, preconditioner=ones)
    assert not with_type(plain) and with_type(other)
    helpers.assert_trees_equal(tuple(other), tuple(plain))
    kept = (
        other.rescale(2.0),
        other._replace(num_microbatches=5),
        jax.tree.map(lambda x: x, other),
        jax.jit(lambda m: m)(other),
        pickle.loads(pickle.dumps(other)),
    )
    assert all(map(with_type, kept))
