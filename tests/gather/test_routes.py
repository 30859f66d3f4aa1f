"""Every way of gathering microbatches gives the same run, on any layout of devices.

The same 8 microbatches per update go through every gatherer, for 10 updates, of a
network in which one array stacks two blocks.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding

import optax_lena
from tests import devices
from tests.devices import (
    LAYERS,
    MICROBATCHES,
    SIZE,
    SPECS,
    UPDATES,
    P,
    gatherer,
    in_microbatches,
    loss_fn,
    optimizer,
    problem,
)
from tests.helpers import row


def train(step, params, batches, *, init=None, place=lambda batch: batch):
    """Runs `step(params, state, batch)` over all batches, compiled once."""
    state = (init or jax.jit(optimizer().init))(params)
    step = jax.jit(step)
    for t in range(UPDATES):
        params, state = step(params, state, place(row(batches, t)))
    return params


def apply(params, state, grads, moments, tx=None):
    updates, state = (tx or optimizer()).update(grads, state, params, moments=moments)
    return optax.apply_updates(params, updates), state


def scan(params, batches):
    gather = gatherer()

    def step(params, state, batch):
        _, grads, moments = gather(params, batch)
        return apply(params, state, grads, moments)

    return train(step, params, batches)


def stack(params, batches):
    def step(params, state, batch):
        grad = jax.vmap(jax.grad(loss_fn), in_axes=(None, 0))
        stacked = grad(params, in_microbatches(batch))
        return apply(
            params, state, *optax_lena.moments_from_stack(stacked, layers=LAYERS)
        )

    return train(step, params, batches)


def vmap_axis(params, batches):
    def gradient(params, batch):
        grads = jax.grad(loss_fn)(params, batch)
        return optax_lena.moments_over_axis(grads, "batch", layers=LAYERS)

    def step(params, state, batch):
        gather = jax.vmap(gradient, (None, 0), out_axes=None, axis_name="batch")
        return apply(params, state, *gather(params, in_microbatches(batch)))

    return train(step, params, batches)


def jit_sharded(params, batches, *, layout, axis_type, num_devices, **spread):
    """The batch sharded under jit: 8 microbatches on 4 or 8 devices along `data`."""
    spread = spread or {"axis_name": "data"}
    shape = (num_devices, 8 // num_devices)
    mesh = jax.make_mesh(shape, ("data", "model"), axis_types=(axis_type,) * 2)
    params = devices.laid_out(params, mesh, layout)
    expected = jax.tree.map(lambda x: x.sharding, params)
    gather = gatherer(**spread)

    def place(batch):
        batch = devices.interleaved(batch) if "spread" in spread else batch
        return jax.device_put(batch, NamedSharding(mesh, P("data")))

    def step(params, state, batch):
        _, grads, moments = gather(params, batch)
        return apply(params, state, grads, moments)

    with jax.set_mesh(mesh):
        result = train(step, params, batches, place=place)
    for leaf, sharding in zip(
        jax.tree.leaves(result), jax.tree.leaves(expected), strict=True
    ):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
    return result


def jit_two_axes(params, batches):
    mesh = jax.make_mesh((2, 4), ("pod", "data"), axis_types=(AxisType.Auto,) * 2)
    sharding = NamedSharding(mesh, P(("pod", "data")))
    gather = gatherer(axis_name=("pod", "data"))

    def step(params, state, batch):
        _, grads, moments = gather(params, batch)
        return apply(params, state, grads, moments)

    params = jax.device_put(params, NamedSharding(mesh, P()))
    place = functools.partial(jax.device_put, device=sharding)
    return train(step, params, batches, place=place)


def shard_map(params, batches, *, gather, check_vma, num_devices=8):
    mesh = devices.data_mesh(num_devices)

    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(P(), P(), P("data")),
        out_specs=P(),
        check_vma=check_vma,
    )
    def step(params, state, batch):
        return apply(params, state, *gather(params, batch))

    return train(step, params, batches)


def pmap(params, batches, *, gather):
    @functools.partial(jax.pmap, axis_name="data")
    def step(params, state, batch):
        return apply(params, state, *gather(params, batch))

    replicate = lambda tree: jax.tree.map(lambda x: jnp.stack([x] * 8), tree)
    params, state = replicate(params), replicate(optimizer().init(params))
    for t in range(UPDATES):
        batch = in_microbatches(row(batches, t))
        params, state = step(params, state, batch)
    return jax.tree.map(lambda x: x[0], params)


def accumulate(params, batches):
    tx = optax_lena.accumulate(optimizer(), MICROBATCHES, layers=LAYERS)

    def step(params, state, batch):
        def call(carry, microbatch):
            params, state = carry
            grads = jax.grad(loss_fn)(params, microbatch)
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(call, (params, state), in_microbatches(batch))[0]

    return train(step, params, batches, init=tx.init)


def accumulate_over_axis(params, batches):
    """2 calls times 4 devices are 8 microbatches."""
    tx = optax_lena.accumulate(optimizer(), 2, layers=LAYERS)
    mesh = devices.data_mesh(4)

    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(P(), P(), P(None, "data")), out_specs=P()
    )
    def step(params, state, batch):
        def call(carry, half):
            params, state = carry
            grads, moments = devices.local_gradients(params, half)
            updates, state = tx.update(grads, state, params, moments=moments)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(call, (params, state), batch)[0]

    halves = lambda batch: jax.tree.map(lambda x: x.reshape(2, 16, -1), batch)
    return train(step, params, batches, init=tx.init, place=halves)


ROUTES = {
    "scan": scan,
    "stack": stack,
    "vmap axis": vmap_axis,
    "jit, two axes": jit_two_axes,
    "pmap": functools.partial(pmap, gather=devices.local_gradients),
    "pmap, own loss": functools.partial(pmap, gather=devices.owned),
    "accumulate": accumulate,
    "accumulate x axis": accumulate_over_axis,
    "shard_map, own loss, 4 devices": functools.partial(
        shard_map, gather=devices.owned, check_vma=True, num_devices=4
    ),
}
for check in (True, False):
    for name, gather in (
        ("local gradients", devices.local_gradients),
        ("own loss", devices.owned),
    ):
        ROUTES[f"shard_map, check_vma={check}, {name}"] = functools.partial(
            shard_map, gather=gather, check_vma=check
        )
for kind in (AxisType.Auto, AxisType.Explicit):
    for layout in SPECS:
        ROUTES[f"jit, {kind.name}, {layout}"] = functools.partial(
            jit_sharded,
            layout=layout,
            axis_type=kind,
            num_devices=4 if layout == "tensor_parallel" else 8,
        )
    # In time, microbatches need no axis: without one, arrays tell of the devices.
    for name, axis_name in (("time", "data"), ("time, no axis", None)):
        ROUTES[f"jit, {kind.name}, {name}"] = functools.partial(
            jit_sharded,
            layout="replicated",
            axis_type=kind,
            num_devices=4,
            axis_name=axis_name,
            spread="time" if axis_name else None,
        )
ROUTES["jit, Auto, replicated, 2 microbatches per device"] = functools.partial(
    jit_sharded, layout="replicated", axis_type=AxisType.Auto, num_devices=4
)


@functools.cache
def reference(dtype):
    """The run that every other must equal, in NumPy."""
    return jax.device_get(scan(*problem(dtype)))


def assert_same(params, expected, rtol):
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(params)):
        want = functools.reduce(lambda tree, key: tree[key.key], path, expected)
        # Relative to the tensor: single entries may cancel to nearly nothing.
        np.testing.assert_allclose(leaf, want, rtol=0, atol=rtol * np.abs(want).max())


@pytest.mark.parametrize("name", [name for name in ROUTES if name != "scan"])
def test_same_run_in_float32(name):
    assert_same(ROUTES[name](*problem(jnp.float32)), reference(jnp.float32), 1e-5)


@pytest.mark.parametrize("name", [name for name in ROUTES if name != "scan"])
def test_same_run_in_float64(name):
    """Only the order of summation differs, and in another program the rounding.

    `accumulate` compiles the update into a branch, where XLA contracts the float32
    arithmetic on statistics differently; the others share one update to the last bit.
    """
    rtol = 1e-7 if name.startswith("accumulate") else 1e-12
    with jax.enable_x64(True):
        expected = reference(jnp.float64)
        assert expected["out"]["bias"].dtype == np.float64
        assert_same(ROUTES[name](*problem(jnp.float64)), expected, rtol)


def test_the_run_depends_on_the_moments():
    """With other microbatches the same gradients give another run: else, no test."""
    params, batches = problem(jnp.float32)
    other = jax.tree.map(
        lambda x: (
            x.reshape(UPDATES, MICROBATCHES, SIZE, -1).swapaxes(1, 2).reshape(x.shape)
        ),
        batches,
    )
    moved = (
        scan(params, other)["out"]["kernel"] - reference(jnp.float32)["out"]["kernel"]
    )
    assert np.abs(moved).max() > 1e-3
