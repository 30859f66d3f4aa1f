"""A run that is saved and restored goes on to the last bit, whatever restores it."""

import pickle

import flax.serialization
import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
import pytest

import optax_lena
from tests import helpers
from tests.contract.table import PARAMS, build, plain_step, trained_state


def assert_resumes(case, restored, state):
    helpers.assert_trees_equal(restored, state)
    assert helpers.signature(restored) == helpers.signature(state)
    got, expected = (plain_step(case, s, seed=1) for s in (restored, state))
    helpers.assert_trees_equal(got, expected)
    helpers.assert_trees_equal(optax_lena.metrics(restored), optax_lena.metrics(state))


CHECKPOINTED = ["lena", "lena_amplified", "lena, stacked", "lena_adamw", "lena_lars"]


@pytest.mark.parametrize("case", CHECKPOINTED)
def test_pickle(case):
    state = trained_state(case)
    assert_resumes(case, pickle.loads(pickle.dumps(state)), state)


@pytest.mark.parametrize("case", CHECKPOINTED)
def test_flax_msgpack(case):
    state = trained_state(case)
    data = flax.serialization.to_bytes(state)
    restored = flax.serialization.from_bytes(build(case).init(PARAMS), data)
    assert_resumes(case, jax.tree.map(jnp.asarray, restored), state)


@pytest.mark.parametrize("case", CHECKPOINTED)
def test_orbax(case, tmp_path):
    state = trained_state(case)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        target = build(case).init(PARAMS)
        restored = checkpointer.restore(tmp_path / "state", target)
    assert_resumes(case, restored, state)
