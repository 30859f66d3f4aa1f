"""`value_and_grad` on one device: a large batch, microbatch by microbatch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import optax_lena
from tests import helpers

BATCH = {
    "x": np.random.default_rng(0).standard_normal((24, 3)).astype(np.float32),
    "y": np.random.default_rng(1).standard_normal((24, 2)).astype(np.float32),
}
PARAMS = {"b": jnp.zeros(2), "w": jnp.full((3, 2), 0.1)}


def loss(params, batch):
    residuals = jnp.tanh(batch["x"] @ params["w"]) + params["b"][None] - batch["y"]
    return jnp.mean(residuals**2)


def stacked_grads(num_microbatches, loss=loss, params=PARAMS, batch=BATCH):
    cut = lambda x: jnp.reshape(x, (num_microbatches, -1, *x.shape[1:]))
    return jax.vmap(jax.grad(loss), (None, 0))(params, jax.tree.map(cut, batch))


whole = helpers.jit(jax.value_and_grad(loss))


@pytest.mark.parametrize("n", [2, 3, 24])
def test_is_value_and_grad_of_the_whole_batch(n):
    f = helpers.jit(optax_lena.value_and_grad(loss, n))
    value, grads, moments = f(PARAMS, BATCH)
    expected = whole(PARAMS, BATCH)
    helpers.assert_trees_close((value, grads), expected, rtol=1e-5, atol=1e-7)
    from_stack = helpers.jit(lambda: optax_lena.moments_from_stack(stacked_grads(n))[1])
    helpers.assert_trees_close(moments, from_stack(), rtol=1e-5)
    assert moments.num_microbatches == n


def test_works_without_jit():
    f = optax_lena.value_and_grad(loss, 4)
    helpers.assert_trees_close(f(PARAMS, BATCH), jax.jit(f)(PARAMS, BATCH), rtol=1e-5)


weighted = helpers.jit(optax_lena.value_and_grad(loss, 4))


@given(seed=st.integers(0, 2**16), weighs=st.booleans())
def test_gives_the_moments_of_the_stack(seed, weighs):
    rng = np.random.default_rng(seed)
    normal = lambda x: rng.standard_normal(x.shape).astype(np.float32)
    batch, params = jax.tree.map(normal, BATCH), jax.tree.map(normal, PARAMS)
    weights = rng.integers(0, 3, 4).astype(np.float32) if weighs else np.ones(4, "f4")
    weights[1] = 1
    _, grads, moments = weighted(params, batch, weights=weights)
    stack = grads_of_four(params, batch)
    expected = optax_lena.moments_from_stack(stack, weights=weights)
    helpers.assert_trees_close((grads, moments), expected, rtol=1e-4, atol=1e-6)


grads_of_four = helpers.jit(lambda params, batch: stacked_grads(4, loss, params, batch))


def test_stacked_layers():
    scanned = lambda params, batch: jnp.sum(params["blocks"] ** 2) * jnp.mean(batch**2)
    params, batch = {"blocks": jnp.ones((3, 2))}, jnp.arange(8.0)
    layers = optax_lena.stacked("blocks")
    _, _, moments = optax_lena.value_and_grad(scanned, 4, layers=layers)(params, batch)
    stack = stacked_grads(4, scanned, params, batch)
    _, expected = optax_lena.moments_from_stack(stack, layers=layers)
    assert moments.micro_sq_norm["blocks"].shape == (3,)
    helpers.assert_trees_close(moments, expected)


def token_loss(params, batch):
    """A mean over a microbatch's tokens: 0 / 0 where all is padding."""
    squares = ((batch["x"] @ params["w"] + params["b"][None] - batch["y"]) ** 2).sum(1)
    return jnp.sum(squares * batch["mask"]) / jnp.sum(batch["mask"])


@pytest.mark.parametrize("padded_whole", [False, True])
def test_weights_give_the_mean_over_all_tokens(padded_whole):
    mask = (np.random.default_rng(3).random(24) < 0.6).astype(np.float32)
    mask[12:18] *= not padded_whole
    batch = BATCH | {"mask": mask}
    f = helpers.jit(optax_lena.value_and_grad(token_loss, 4))
    value, grads, moments = f(PARAMS, batch, weights=mask.reshape(4, 6).sum(1))
    expected = jax.value_and_grad(token_loss)(PARAMS, batch)
    helpers.assert_trees_close((value, grads), expected, rtol=1e-5)
    assert moments.num_microbatches == 4 - padded_whole
    unweighted, _, _ = f(PARAMS, batch)
    assert not np.isclose(unweighted, expected[0], rtol=1e-3)


def test_aux_is_averaged_where_it_is_floating_and_stacked_elsewhere():
    def loss_and_aux(params, batch):
        x = batch["x"]
        aux = {
            "mean": x.mean(0),
            "low": x[0, 0].astype(jnp.bfloat16),
            "count": jnp.sum(x > 0, dtype=jnp.int32),
            "flag": x[0, 0] > 0,
            "constant": 3,
            "nothing": None,
        }
        return loss(params, batch), aux

    f = helpers.jit(optax_lena.value_and_grad(loss_and_aux, 4, has_aux=True))
    (value, aux), grads, _ = f(PARAMS, BATCH)
    cut = BATCH["x"].reshape(4, 6, 3)
    expected = jax.value_and_grad(loss)(PARAMS, BATCH)
    helpers.assert_trees_close((value, grads), expected, rtol=1e-5)
    np.testing.assert_allclose(aux["mean"], BATCH["x"].mean(0), rtol=1e-5)
    np.testing.assert_allclose(np.float32(aux["low"]), cut[:, 0, 0].mean(), rtol=0.02)
    assert aux["low"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(aux["count"], (cut > 0).sum((1, 2)))
    assert aux["count"].dtype == jnp.int32
    np.testing.assert_array_equal(aux["flag"], cut[:, 0, 0] > 0)
    np.testing.assert_array_equal(aux["constant"], [3] * 4)
    assert aux["nothing"] is None


def test_aux_is_weighted_like_the_loss():
    f = optax_lena.value_and_grad(lambda p, b: (p * b[0], b[0]), 2, has_aux=True)
    weights = jnp.array([3.0, 1.0])
    (value, aux), grad, _ = f(jnp.ones(()), jnp.array([4.0, 8.0]), weights=weights)
    assert value == aux == grad == 5


def noisy_loss(params, batch, key):
    return jnp.mean(batch * params) + jax.random.normal(key), jax.random.key_data(key)


def test_every_microbatch_gets_a_key_of_its_own():
    f = helpers.jit(optax_lena.value_and_grad(noisy_loss, 4, has_aux=True))
    key, batch = jax.random.key(7), jnp.arange(8.0)
    (value, keys), _, _ = f(jnp.ones(()), batch, key=key)
    expected = [jax.random.key_data(jax.random.fold_in(key, i)) for i in range(4)]
    np.testing.assert_array_equal(keys, expected)
    assert len({tuple(k) for k in np.asarray(keys)}) == 4
    (again, _), _, _ = f(jnp.ones(()), batch, key=key)
    (other, _), _, _ = f(jnp.ones(()), batch, key=jax.random.key(8))
    assert again == value != other


def test_typed_keys_in_aux_are_stacked():
    def loss(params, batch, key):
        return jnp.mean(batch * params), key

    f = optax_lena.value_and_grad(loss, 2, has_aux=True)
    (_, keys), _, _ = f(jnp.ones(()), jnp.arange(4.0), key=jax.random.key(0))
    assert keys.shape == (2,)


def test_further_arguments_reach_every_microbatch_whole():
    def loss(params, batch, table, shift):
        return jnp.mean(params * table[batch]) + shift

    batch, table = jnp.array([0, 2, 1, 1]), jnp.array([1.0, 3.0, 5.0])
    f = helpers.jit(optax_lena.value_and_grad(loss, 2))
    value, grad, moments = f(jnp.array(2.0), batch, table, 10.0)
    assert (value, grad) == (16, 3)
    assert (moments.micro_sq_norm, moments.batch_sq_norm) == (9, 9)


@pytest.mark.parametrize("n", [2, 8])
def test_labels_beside_the_batch_are_an_error_that_says_where_they_belong(n):
    x, y = jnp.arange(16.0).reshape(8, 2), jnp.arange(8.0)
    beside = lambda params, x, y: jnp.mean((x @ params - y) ** 2)
    f = jax.jit(optax_lena.value_and_grad(beside, n))
    with pytest.raises(ValueError, match=helpers.says("`batch`", "8 examples", "(8,)")):
        f(jnp.ones(2), x, y)
    with pytest.raises(ValueError, match=helpers.says("`batch`", "8 examples", "(8,)")):
        f(jnp.ones(2), x, y.astype(jnp.uint32))
    # What is no example: another length, a pytree, a key, or said by keyword.
    for arg in (jnp.ones(5), {"teacher": y}, jax.random.split(jax.random.key(0), 7)):
        optax_lena.value_and_grad(lambda params, x, arg: loss_of(params, x), n)(
            jnp.ones(2), x, arg
        )
    f = optax_lena.value_and_grad(lambda params, x, *, y: loss_of(params, x), n)
    f(jnp.ones(2), x, y=y)


def loss_of(params, x):
    return jnp.mean(x @ params)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.complex64])
def test_dtypes(dtype):
    loss = lambda p, batch: jnp.mean(jnp.abs(p["w"] * batch) ** 2)
    params, batch = {"w": jnp.ones((), dtype)}, jnp.arange(4.0).astype(dtype)
    value, grads, moments = optax_lena.value_and_grad(loss, 2)(params, batch)
    expected = jax.value_and_grad(loss)(params, batch)
    assert value.dtype == expected[0].dtype
    assert grads["w"].dtype == expected[1]["w"].dtype == dtype
    helpers.assert_trees_close((value, grads), expected, rtol=0.01)
    assert {x["w"].dtype for x in moments[:2]} == {jnp.dtype(jnp.float32)}


def test_sums_in_float32():
    """In bfloat16, 256 + 1 is 256."""
    batch = jnp.array([256.0] + [1.0] * 63, jnp.bfloat16)
    loss = lambda p, batch: jnp.sum(p * batch)
    value, grad, _ = optax_lena.value_and_grad(loss, 64)(jnp.bfloat16(1), batch)
    assert value == grad == jnp.bfloat16(319 / 64)


def test_memory_does_not_grow_with_the_number_of_microbatches():
    """A million parameters, 4 MB, and microbatches of 2 examples."""
    width = 512
    params = {f"layer{i}": jnp.zeros((width, width)) for i in range(4)}
    assert sum(p.size for p in params.values()) == 2**20

    def loss(params, x):
        for w in params.values():
            x = jnp.tanh(x @ w)
        return jnp.mean(x**2)

    def temporary_megabytes(n):
        f = optax_lena.value_and_grad(loss, n)
        batch = jax.ShapeDtypeStruct((2 * n, width), jnp.float32)
        memory = jax.jit(f).lower(params, batch).compile().memory_analysis()
        return memory.temp_size_in_bytes / 2**20

    few, many = temporary_megabytes(4), temporary_megabytes(32)
    assert few < 12 and many < few + 1


def test_the_batch_is_not_a_constant_of_the_compilation():
    f = helpers.jit(optax_lena.value_and_grad(loss, 4))
    f(PARAMS, BATCH)
    other = jax.tree.map(lambda x: x + 1, BATCH)
    with helpers.count_compilations() as compiled:
        f(PARAMS, other)
    assert not compiled


@pytest.mark.parametrize(
    "batch",
    [
        {"x": jnp.ones((8, 2)), "token": jnp.ones(16)},
        {"step": jnp.ones((4, 8)), "start": jnp.ones(8)},
    ],
)
def test_leaves_with_other_numbers_of_rows_are_an_error_that_says_what_to_do(batch):
    """Graphs' nodes and edges, or time in front: cut apart, they were a wrong batch."""
    gather = optax_lena.value_and_grad(lambda w, batch: jnp.sum(w), 4)
    message = helpers.says("`batch`", "as many rows", "(examples, k, ...)", "graphs")
    with pytest.raises(ValueError, match=message):
        gather(jnp.ones(2), batch)


@pytest.mark.parametrize("spread", [None, "time"])
@pytest.mark.parametrize("given", [jnp.ones(()), 1.0])
def test_a_leaf_without_rows_is_an_error_that_says_what_to_do(spread, given):
    gather = optax_lena.value_and_grad(lambda w, batch: jnp.sum(w), 4, spread=spread)
    message = helpers.says("`batch`", "axis 0", "shape ()", "'rate'", "argument")
    with pytest.raises(ValueError, match=message):
        gather(jnp.ones(2), {"x": jnp.ones((8, 2)), "rate": given})


def test_rows_beside_a_batch_that_is_a_tree_are_an_error_that_says_what_to_do():
    gather = optax_lena.value_and_grad(lambda w, batch, weight: jnp.sum(w), 4)
    with pytest.raises(ValueError, match=helpers.says("`batch`", "(8,)", "keyword")):
        gather(jnp.ones(2), {"x": jnp.ones((8, 2))}, jnp.ones(8))
