"""Edges of the parts: what only a mutation test has asked about."""

import jax.numpy as jnp
import numpy as np
import pytest

import optax_lena
from optax_lena import Estimate, SpikeLimit
from optax_lena._parts.averages import AveragesState
from optax_lena._parts.estimate import measure

MILD = {"a": jnp.array([1.0, -1.0, 2.0]), "b": jnp.array([1.0, 3.0, 2.0])}


def guarded(*stacks):
    """Returns the guard's memory after each batch."""
    tx = optax_lena.scale_by_layer_rate(optax_lena.LayerRate(guard=SpikeLimit()), 4)
    state = tx.init({"a": jnp.ones(()), "b": jnp.ones(())})
    memories = []
    for stack in stacks:
        grads, moments = optax_lena.moments_from_stack(stack)
        _, state = tx.update(grads, state, moments=moments)
        memories.append(state.guard)
    return memories


def test_the_guard_forgets_a_batch_without_a_finite_layer():
    none = {k: x + jnp.nan for k, x in MILD.items()}
    before, after = guarded(MILD, none)
    np.testing.assert_array_equal(after, before)
    assert np.isfinite(after).all() and before.weight > 0


def test_the_guard_remembers_what_one_bad_layer_leaves():
    before, after = guarded(MILD, MILD | {"b": MILD["b"] + jnp.nan})
    assert after.weight > before.weight
    assert np.isfinite(after).all() and after.noise != before.noise


@pytest.mark.parametrize("usable", [True, False])
@pytest.mark.parametrize("overflows", [True, False])
def test_the_guards_memory_moves_only_where_the_model_is_usable(usable, overflows):
    update = measure(jnp.ones(1), jnp.ones(1), 2, jnp.float32(4))._replace(
        is_usable=jnp.array([True, usable]), overflows=jnp.array(overflows)
    )
    zero = AveragesState.zeros()
    one = Estimate(jnp.ones(()), jnp.ones(()))
    moved = SpikeLimit().remember(zero, one, jnp.ones(()), update)
    assert (moved.weight > 0) == (usable and not overflows)


def test_noise_and_signal_that_only_overflow_together_are_not_finite():
    """Their sum is what every gain is made of."""
    micro, batch, scale = jnp.array([3e38]), jnp.array([2.5e38]), jnp.float32(5)
    update = measure(micro, batch, 2, scale)
    noise, signal = (x[0] for x in update.estimate)
    assert np.isfinite([noise, signal]).all() and np.isinf(noise + signal)
    assert not update.is_finite.any() and update.overflows
