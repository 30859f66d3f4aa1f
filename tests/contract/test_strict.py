"""Where JAX promotes no dtypes by itself, every update runs, to the same numbers."""

import jax
import jax.numpy as jnp
import pytest

import optax_lena
from tests import helpers
from tests.contract.table import CASES, PARAMS, assert_same_step, build

WEIGHTS = jnp.array([1.0, 2.0, 0.0, 3.0])
# Muon's iteration of optax takes integers for exponents of floats.
OURS = [case for case in CASES if "muon" not in case]


def weighed_step(tx, case):
    """Two updates with weights, so that the count is an array."""
    layers = CASES[case][1].get("layers", optax_lena.per_parameter)

    @jax.jit
    def step(stack, state):
        grads, moments = optax_lena.moments_from_stack(
            stack, weights=WEIGHTS, layers=layers
        )
        return tx.update(grads, state, PARAMS, moments=moments)

    state = tx.init(PARAMS)
    for seed in range(2):
        updates, state = step(helpers.random_stacks(seed, 4), state)
    return updates, state


@pytest.mark.parametrize("case", OURS)
@pytest.mark.parametrize("is_integer", [False, True])
@pytest.mark.parametrize("x64", [False, True])
def test_every_update_runs_without_promotion(case, is_integer, x64):
    factory, arguments = CASES[case]
    given = {"batch_scale": jnp.int32(4)} if is_integer else {}
    with jax.enable_x64(x64):
        expected = weighed_step(build(case), case)
        with jax.numpy_dtype_promotion("strict"):
            got = weighed_step(factory(**arguments | given), case)
    if not is_integer or "batch_scale" in arguments:
        assert_same_step(got, expected)
