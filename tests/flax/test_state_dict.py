"""A state dict of flax through orbax, read without a target, as old loops do it."""

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import serialization

import optax_lena
import optax_lena.flax  # says how names are saved
from tests import helpers

TX = optax_lena.lena_amplified(0.1, batch_scale=8, warmup_steps=100)
STACK = {"encoder": jnp.array([[4.0, 1], [-2, 1]]), "head": jnp.array([[1.5], [0.5]])}


def trained():
    grads, moments = optax_lena.moments_from_stack(STACK)
    return TX.update(grads, TX.init(grads), grads, moments=moments)[1]


def by_orbax(state_dict, path):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path / "state", state_dict)
        checkpointer.wait_until_finished()
        return checkpointer.restore(path / "state")


def by_map(state_dict, path):
    """Whatever maps a state dict: to the host, and back to the devices."""
    del path
    return jax.tree.map(jnp.asarray, jax.tree.map(np.asarray, state_dict))


@pytest.mark.parametrize("through", [by_orbax, by_map])
def test_a_state_dict_is_restored_without_a_target(through, tmp_path):
    state = trained()
    saved = through(serialization.to_state_dict(state), tmp_path)
    target = TX.init(jax.tree.map(lambda x: x[0], STACK))
    restored = serialization.from_state_dict(target, saved)
    helpers.assert_trees_equal(restored, state)
    assert optax_lena.layer_report(restored) == optax_lena.layer_report(state)


def test_names_of_another_model_are_restored_too(tmp_path):
    saved = by_orbax(serialization.to_state_dict(trained()), tmp_path)
    other = {"decoder": jnp.ones(2), "head": jnp.ones(1)}
    restored = serialization.from_state_dict(TX.init(STACK), saved)
    with pytest.raises(ValueError, match="they differ in .'decoder', 'encoder'"):
        TX.update(
            other, restored, other, moments=optax_lena.GradMoments(other, other, 2)
        )
