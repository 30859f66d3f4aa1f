"""Meshes of which one axis is explicit and another automatic.

Types say of the explicit axis how arrays are sharded, and `jax.eval_shape` does not.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding

import optax_lena
from tests.devices import P
from tests.helpers import assert_trees_close

EXPLICIT, AUTO = AxisType.Explicit, AxisType.Auto
PARAMS = {
    "w": np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8),
    "v": np.linspace(-1, 1, 32, dtype=np.float32).reshape(8, 4),
}
BATCH = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)

on_mixed_meshes = pytest.mark.parametrize(
    "types",
    [(EXPLICIT, AUTO), (AUTO, EXPLICIT)],
    ids=["explicit-auto", "auto-explicit"],
)
in_every_layout = pytest.mark.parametrize(
    ("w", "v"),
    [(P(), P()), (P(None, "model"), P()), (P("data"), P("data", "model"))],
    ids=["replicated", "model", "both"],
)


def loss_fn(params, x):
    return jnp.mean((jnp.tanh(x @ params["w"]) @ params["v"]) ** 2)


def placed(types, w, v):
    """The mesh, and parameters and batch on it."""
    mesh = jax.make_mesh((4, 2), ("data", "model"), types)
    specs = {"w": w, "v": v}
    params = {
        name: jax.device_put(PARAMS[name], NamedSharding(mesh, spec))
        for name, spec in specs.items()
    }
    return mesh, params, jax.device_put(BATCH, NamedSharding(mesh, P("data")))


@on_mixed_meshes
@in_every_layout
@pytest.mark.parametrize("spread", ["space", "time"])
def test_a_batch_is_spread_as_on_any_mesh(types, w, v, spread):
    mesh, params, batch = placed(types, w, v)
    gather = optax_lena.value_and_grad(loss_fn, 8, axis_name="data", spread=spread)
    weights = jnp.arange(1.0, 9.0)
    with jax.set_mesh(mesh):
        got = jax.jit(gather)(params, batch, weights=weights)
    # In time microbatch i has the examples i, i + 8, i + 16, ...
    whole = BATCH if spread == "space" else np.swapaxes(BATCH.reshape(8, 8, 8), 0, 1)
    one = optax_lena.value_and_grad(loss_fn, 8)
    expected = one(PARAMS, whole.reshape(64, 8), weights=weights)
    assert_trees_close(jax.device_get(got), jax.device_get(expected), rtol=1e-5)


@on_mixed_meshes
@in_every_layout
def test_loops_with_gradients_of_their_own(types, w, v):
    """Sums and updates of zero have the types of what they stand beside."""

    def train(params, batch):
        tx = optax_lena.accumulate(optax_lena.lena(0.1), 2)
        incremental = optax_lena.IncrementalMoments()

        def body(carry, _):
            sums, state = carry
            grads = jax.grad(loss_fn)(params, batch)
            sums = incremental.add(sums, grads)
            updates, state = tx.update(grads, state, params)
            return (sums, state), updates

        carry = incremental.init(params), tx.init(params)
        (sums, _), updates = jax.lax.scan(body, carry, length=2)
        return incremental.finish(sums, params), updates

    mesh, params, batch = placed(types, w, v)
    expected = jax.jit(train)(PARAMS, BATCH)
    with jax.set_mesh(mesh):
        got = jax.jit(train)(params, batch)
    assert_trees_close(jax.device_get(got), jax.device_get(expected), rtol=1e-4)


@pytest.mark.parametrize("kind", [EXPLICIT, AUTO])
def test_sums_for_abstract_parameters_lie_where_these_say(kind):
    """As checkpoints restore them."""
    mesh = jax.make_mesh((4,), ("data",), (kind,))
    sharding = NamedSharding(mesh, P("data"))
    params = jax.ShapeDtypeStruct((8, 2), jnp.bfloat16, sharding=sharding)
    with jax.set_mesh(mesh):
        sums = optax_lena.IncrementalMoments().init({"w": params})
    assert sums.grads["w"].sharding.is_equivalent_to(sharding, 2)
