"""What becomes of what a loss returns beside its value, and of its arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

import optax_lena
from tests import devices, helpers

N, SIZE = 4, 3
X = np.random.default_rng(0).standard_normal((N * SIZE, 2)).astype(np.float32)
W = jnp.array([0.5, -1.0])


def loss_fn(w, x):
    logits = x @ w
    outputs = {
        "logits": logits,
        "pairs": jnp.stack([logits, -logits], axis=1),
        "signs": logits > 0,
        "accuracy": jnp.mean(logits > 0),
        "squares": jnp.sum(logits**2),
        "count": jnp.sum(logits > 0, dtype=jnp.int32),
        "features": x.mean(0),
    }
    return jnp.mean(logits**2), outputs


def outputs_of(n=N, batch=X, **kwargs):
    gather = optax_lena.value_and_grad(loss_fn, n, has_aux=True, **kwargs)
    (_, outputs), _, _ = helpers.jit(gather)(W, batch)
    return outputs


@pytest.mark.parametrize("n", [2, N, N * SIZE])
def test_outputs_of_examples_come_back_as_of_the_whole_batch(n):
    """Also at one example a microbatch, where they once were averaged to one row."""
    _, whole = loss_fn(W, X)
    got = outputs_of(n)
    for name in ("logits", "pairs", "signs", "accuracy", "features"):
        np.testing.assert_allclose(got[name], whole[name], rtol=1e-5, atol=1e-6)
    assert got["signs"].dtype == bool
    np.testing.assert_allclose(got["squares"] * n, whole["squares"], rtol=1e-5)


@pytest.mark.parametrize("n", [2, N, N * SIZE])
def test_outputs_of_several_rows_an_example_come_back_too(n):
    """Predictions of flattened tokens, and of two views of each example."""

    def loss(w, x):
        tokens = jnp.repeat(x @ w, 3, axis=0).reshape(-1)
        return jnp.mean(x @ w), {"tokens": tokens, "views": jnp.concatenate([x, x])}

    gather = optax_lena.value_and_grad(loss, n, has_aux=True)
    (_, aux), _, _ = gather(jnp.ones(X.shape[1]), X)
    assert aux["tokens"].shape == (3 * len(X),)
    assert aux["views"].shape == (2 * len(X), X.shape[1])


def test_a_squeezed_output_of_one_example_comes_back_as_of_the_whole_batch():
    loss = lambda w, x: (jnp.mean(x @ w), (x @ w).squeeze())
    gather = optax_lena.value_and_grad(loss, len(X), has_aux=True)
    (_, aux), _, _ = gather(jnp.ones(X.shape[1]), X)
    np.testing.assert_allclose(aux, X.sum(1), rtol=1e-5)


def test_integers_of_a_microbatch_come_back_stacked():
    counts = (X @ W > 0).reshape(N, SIZE).sum(1)
    np.testing.assert_array_equal(outputs_of()["count"], counts)


def test_the_user_may_say_what_becomes_of_each():
    kinds = {name: "stack" for name in loss_fn(W, X)[1]}
    kinds |= {"count": "sum", "squares": "sum", "logits": "shape", "signs": "examples"}
    got, (_, whole) = outputs_of(aux=kinds), loss_fn(W, X)
    assert got["count"] == whole["count"] and got["count"].dtype == jnp.int32
    np.testing.assert_allclose(got["squares"], whole["squares"], rtol=1e-5)
    np.testing.assert_allclose(got["logits"], whole["logits"], rtol=1e-5)
    np.testing.assert_array_equal(got["signs"], whole["signs"])
    assert got["accuracy"].shape == (N,) and got["pairs"].shape == (N, SIZE, 2)
    assert outputs_of(aux="stack")["logits"].shape == (N, SIZE)


@pytest.mark.parametrize("kind", ["last", 3])
def test_a_kind_that_is_none(kind):
    message = helpers.says("`aux`", "'mean', 'sum', 'examples', 'stack'", repr(kind))
    with pytest.raises(ValueError, match=message):
        optax_lena.value_and_grad(loss_fn, N, has_aux=True, aux={"logits": kind})


def test_an_output_that_grows_along_another_axis():
    loss = lambda w, x: (jnp.mean(x @ w), jnp.ones((len(x), len(x))))
    gather = optax_lena.value_and_grad(loss, N, has_aux=True)
    message = helpers.says("`aux`", "(3, 3)", "axis 0", "aux='stack'")
    with pytest.raises(ValueError, match=message):
        gather(W, X)


@pytest.mark.parametrize("spread", ["space", "time"])
def test_spread_over_devices_they_come_back_in_the_batchs_order(spread):
    mesh = devices.data_mesh(4)
    batch = jax.device_put(X, NamedSharding(mesh, devices.P("data")))
    got = outputs_of(batch=batch, axis_name="data", spread=spread)
    _, whole = loss_fn(W, X)
    for name in ("logits", "pairs", "signs", "accuracy", "features"):
        np.testing.assert_allclose(got[name], whole[name], rtol=1e-5, atol=1e-6)
    order = X.reshape(N, SIZE, 2)
    if spread == "time":  # microbatch i has the examples i, i + n, ...
        order = X.reshape(SIZE, N, 2).swapaxes(0, 1)
    np.testing.assert_array_equal(got["count"], (order @ W > 0).sum(1))


def test_without_an_axis_name_arrays_on_several_devices_are_spread_in_time():
    mesh = devices.data_mesh(4)
    batch = jax.device_put(X, NamedSharding(mesh, devices.P("data")))
    got, expected = outputs_of(batch=batch), outputs_of(aux=None, spread="time")
    np.testing.assert_array_equal(got["count"], expected["count"])
    gather = optax_lena.value_and_grad(loss_fn, N, has_aux=True)
    message = helpers.says("`spread`", "`weights`", "several devices", "spread='time'")
    with pytest.raises(ValueError, match=message):
        jax.jit(gather)(W, batch, weights=jnp.ones(N))


def test_keyword_arguments_reach_the_loss():
    loss = lambda w, x, scale, *, shift=0.0: jnp.mean(x @ w) * scale + shift
    gather = jax.jit(optax_lena.value_and_grad(loss, N))
    value, grads, _ = gather(W, X, 2.0, shift=5.0)
    np.testing.assert_allclose(value, 2 * np.mean(X @ W) + 5, rtol=1e-5)
    np.testing.assert_allclose(grads, 2 * X.mean(0), rtol=1e-5)


def test_typed_keys_among_the_arguments_differ_between_microbatches():
    def loss(w, x, keys, *, key_of_noise):
        draws = jax.random.normal(keys["a"], (2,)), jax.random.normal(key_of_noise)
        return jnp.mean(x @ w), draws

    gather = optax_lena.value_and_grad(loss, N, has_aux=True, aux="stack")
    keys = {"a": jax.random.key(1)}
    (_, draws), _, _ = gather(W, X, keys, key_of_noise=jax.random.key(2))
    for stack in draws:
        assert len(np.unique(np.ravel(stack))) == stack.size


def unclear(w, x):
    """A batch of four only, as a hard-coded shape would have it."""
    y = (x @ w).reshape(4)
    return jnp.mean(y), y


@pytest.mark.parametrize(
    "loss, options, message",
    [
        (unclear, {}, helpers.says("`aux`", "larger batch", "aux='examples'")),
        (
            lambda w, x: (jnp.mean(x @ w), jnp.zeros((len(x), len(x)))),
            {},
            helpers.says("`aux`", "(4, 4)", "(8, 8)", "aux='stack'"),
        ),
        (
            lambda w, x: (jnp.mean(x @ w), {"a": x @ w}),
            {"aux": {"b": "sum"}},
            helpers.says("`aux`", "prefix", "'b'"),
        ),
    ],
)
def test_outputs_that_nothing_decides_are_an_error(loss, options, message):
    gather = optax_lena.value_and_grad(loss, 2, has_aux=True, **options)
    with pytest.raises(ValueError, match=message):
        gather(jnp.ones(3), jnp.ones((8, 3)))


def test_what_is_said_needs_no_larger_batch():
    gather = optax_lena.value_and_grad(unclear, 2, has_aux=True, aux="examples")
    (_, joined), _, _ = gather(jnp.ones(3), jnp.arange(24.0).reshape(8, 3))
    np.testing.assert_array_equal(joined, jnp.arange(24.0).reshape(8, 3).sum(1))


def in_time_or_space(loss, spread, **options):
    """A gatherer of two microbatches, and the batch, over two devices."""
    batch = jax.device_put(X, NamedSharding(devices.data_mesh(2), devices.P("data")))
    over = {"axis_name": "data", "spread": spread}
    return optax_lena.value_and_grad(loss, 2, has_aux=True, **over, **options), batch


@pytest.mark.parametrize("spread", ["space", "time"])
def test_rows_of_several_tokens_keep_their_order_over_devices(spread):
    """In time a microbatch has examples i, i + n, ..., and three rows of each."""

    def loss(w, x):
        tokens = jnp.repeat(x @ w, 3) + jnp.tile(jnp.arange(3.0), len(x))
        return jnp.mean(x @ w), tokens

    gather, batch = in_time_or_space(loss, spread)
    (_, tokens), _, _ = helpers.jit(gather)(W, batch)
    np.testing.assert_allclose(tokens, loss(W, X)[1], rtol=1e-5, atol=1e-6)


def test_rows_that_are_not_as_many_for_each_example_are_an_error_in_time():
    loss = lambda w, x: (jnp.mean(x @ w), jnp.pad(x @ w, 1))
    gather, batch = in_time_or_space(loss, "time", aux="examples")
    with pytest.raises(ValueError, match=helpers.says("`aux`", "aux='stack'")):
        helpers.jit(gather)(W, batch)


@pytest.mark.parametrize(
    ("dtype", "wide"), [(bool, jnp.int32), (jnp.int8, jnp.int32), (jnp.int32,) * 2]
)
def test_counts_are_summed_as_wide_as_jnp_does(dtype, wide):
    loss = lambda w, x: (jnp.mean(x @ w), jnp.ones((), dtype))
    gather = optax_lena.value_and_grad(loss, N, has_aux=True, aux="sum")
    (_, count), _, _ = gather(W, X)
    assert count == N and count.dtype == wide
