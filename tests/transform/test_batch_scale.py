"""S may change between updates, to a number of any kind, and compiles nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_lena
from tests import helpers, oracle


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
    for batch_scale in (8.0, 2.5, 0.5):
        before = state.inner_state
        state.hyperparams["batch_scale"] = jnp.asarray(batch_scale, jnp.float32)
        with helpers.count_compilations() as compiled:
            _, state = update(grads, state, moments=moments)
        assert not compiled
        after = state.inner_state
        assert after.applied.base_batches == batch_scale
        base_steps = float(before.clocks.base_steps)
        assert float(after.clocks.base_steps) == base_steps + batch_scale
        step = after.progress.read() - before.progress.read()
        np.testing.assert_allclose(step, after.applied.gain, rtol=1e-5)
        assert (after.applied.gain <= max(batch_scale, 1)).all()
        assert (after.applied.gain >= min(batch_scale, 1)).all()
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


def test_microbatches_may_be_counted_by_a_python_number():
    """S is their number, if it is not given."""
    grads, moments = helpers.example_moments()
    tx = optax_lena.scale_by_lena()
    counts = int(moments.num_microbatches), moments.num_microbatches
    updates = [
        tx.update(
            grads, tx.init(grads), moments=moments._replace(num_microbatches=count)
        )
        for count in counts
    ]
    helpers.assert_trees_equal(*updates)
