"""The momentum of SGD that counts examples."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import optax_lena
from optax_lena._transform.momentum import trace_of_examples
from tests import helpers

ONE = {"w": jnp.ones(2), "b": jnp.ones(())}


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_at_the_base_batch_it_is_optax_trace_to_the_last_bit(nesterov, dtype):
    ours, theirs = (
        trace_of_examples(1, 0.9, nesterov, dtype),
        optax.trace(0.9, nesterov, dtype),
    )
    state, other = ours.init(ONE), theirs.init(ONE)
    for grads in jax.random.normal(jax.random.key(0), (5, 2)):
        grads = {"w": grads, "b": grads[0]}
        updates, state = ours.update(grads, state)
        expected, other = theirs.update(grads, other)
        helpers.assert_trees_equal((updates, state), (expected, other))


@pytest.mark.parametrize(
    ("momentum", "scale", "kept"),
    [
        (0.9, 1, 0.9),
        (0.9, 2, 0.81),
        (0.9, 64, 0.8),
        (0.99, 4, 0.99**4),
        (0.99, 64, 0.8),
        (0.5, 64, 0.5),
        (0.9, 0.5, 0.9**0.5),
        (0.0, 64, 0.0),
    ],
)
def test_momentum_follows_the_batch_down_to_a_floor(momentum, scale, kept):
    tx = trace_of_examples(scale, momentum, False, None)
    first, state = tx.update(ONE, tx.init(ONE))
    second, _ = tx.update(jax.tree.map(jnp.zeros_like, ONE), state)
    np.testing.assert_allclose(first["w"], (1 - kept) / (1 - momentum), rtol=1e-6)
    np.testing.assert_allclose(second["w"], kept * first["w"], rtol=1e-6, atol=1e-7)


@settings(deadline=None, max_examples=30)
@given(momentum=st.floats(0, 0.95), scale=st.floats(0.5, 512.0), nesterov=st.booleans())
def test_all_steps_of_a_gradient_sum_to_what_they_sum_to_at_the_base_batch(
    momentum, scale, nesterov
):
    tx = trace_of_examples(scale, momentum, nesterov, None)
    state, nothing = tx.init(ONE), jax.tree.map(jnp.zeros_like, ONE)
    first, state = tx.update(ONE, state)

    def step(state, _):
        updates, state = tx.update(nothing, state)
        return state, updates["b"]

    _, rest = jax.lax.scan(step, state, length=1000)
    total = first["b"] + jnp.sum(rest)
    np.testing.assert_allclose(total, 1 / (1 - momentum), rtol=1e-3)


def test_the_batch_is_the_number_of_microbatches_where_none_is_given():
    _, moments = optax_lena.moments_from_stack({"w": jnp.ones((2, 2))})
    tx = trace_of_examples(None, 0.9, False, None)
    updates, _ = tx.update(ONE, tx.init(ONE), moments=moments)
    np.testing.assert_allclose(updates["w"], 1.9, rtol=1e-6)
    with pytest.raises(TypeError, match="moments"):
        tx.update(ONE, tx.init(ONE))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.complex64])
def test_a_traced_batch_keeps_dtypes_and_compiles_once(dtype):
    params = jax.tree.map(lambda x: x.astype(dtype), ONE)

    @helpers.jit
    def step(state, scale, momentum):
        return trace_of_examples(scale, momentum, True, None).update(params, state)

    state = optax.trace(0.9).init(params)
    for scale in (1.0, 2.0, 64.0):
        updates, state = step(state, jnp.float32(scale), jnp.float32(0.9))
    assert {x.dtype for x in jax.tree.leaves((updates, state))} == {jnp.dtype(dtype)}
    assert step._cache_size() == 1


def test_wider_gradients_leave_the_buffer_its_dtype():
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), ONE)
    tx = trace_of_examples(2.0, 0.9, False, None)

    def step(state, _):
        return tx.update(ONE, state, params)[1], None

    state, _ = jax.lax.scan(step, tx.init(params), length=2)
    assert {x.dtype for x in jax.tree.leaves(state)} == {jnp.dtype(jnp.bfloat16)}
