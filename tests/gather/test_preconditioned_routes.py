"""Under a preconditioner, every way of gathering microbatches has the same moments."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding

import optax_lena
from tests import devices, helpers
from tests.devices import P


@functools.cache
def route_problem():
    params, batches = devices.problem(jnp.float32)
    rng = np.random.default_rng(5)
    p = jax.tree.map(
        lambda x: jnp.asarray(rng.lognormal(sigma=2, size=x.shape), jnp.float32), params
    )
    return params, helpers.row(batches, 0), p


def scan(params, batch, p):
    return devices.gatherer()(params, batch, preconditioner=p)[1:]


def stack(params, batch, p):
    grad = jax.vmap(jax.grad(devices.loss_fn), in_axes=(None, 0))
    stacked = grad(params, devices.in_microbatches(batch))
    return optax_lena.moments_from_stack(
        stacked, layers=devices.LAYERS, preconditioner=p
    )


def shard_map(params, batch, p, *, gather, check_vma, num_devices=8):
    mapped = jax.shard_map(
        gather,
        mesh=devices.data_mesh(num_devices),
        in_specs=(P(), P("data"), P()),
        out_specs=P(),
        check_vma=check_vma,
    )
    return jax.jit(mapped)(params, batch, p)


def pmap(params, batch, p, *, gather):
    mapped = jax.pmap(gather, axis_name="data", in_axes=(None, 0, None), out_axes=None)
    return mapped(params, devices.in_microbatches(batch), p)


def jit_sharded(params, batch, p, *, layout, axis_type):
    kinds = (axis_type,) * 2
    shape = (4, 2) if layout == "tensor_parallel" else (8, 1)
    mesh = jax.make_mesh(shape, ("data", "model"), axis_types=kinds)
    params = devices.laid_out(params, mesh, layout)
    p = devices.laid_out(p, mesh, layout)
    batch = jax.device_put(batch, NamedSharding(mesh, P("data")))
    with jax.set_mesh(mesh):
        return jax.jit(devices.owned)(params, batch, p)


ROUTES = {
    "stack": jax.jit(stack),
    "pmap, own loss": functools.partial(pmap, gather=devices.owned),
    "pmap, local gradients": functools.partial(pmap, gather=devices.local_gradients),
    "shard_map, 4 devices": functools.partial(
        shard_map, gather=devices.owned, check_vma=True, num_devices=4
    ),
}
for check in (True, False):
    for name, gather in (
        ("own loss", devices.owned),
        ("local", devices.local_gradients),
    ):
        ROUTES[f"shard_map, check_vma={check}, {name}"] = functools.partial(
            shard_map, gather=gather, check_vma=check
        )
for kind in (AxisType.Auto, AxisType.Explicit):
    for layout in devices.SPECS:
        ROUTES[f"jit, {kind.name}, {layout}"] = functools.partial(
            jit_sharded, layout=layout, axis_type=kind
        )


@functools.cache
def reference():
    return jax.device_get(helpers.jit(scan)(*route_problem()))


@pytest.mark.parametrize("name", ROUTES)
def test_every_route_has_the_same_moments(name):
    grads, moments = jax.device_get(ROUTES[name](*route_problem()))
    expected, expected_moments = reference()
    helpers.assert_trees_close(grads, expected, rtol=1e-4, atol=1e-6)
    for got, want in zip(moments[:2], expected_moments[:2], strict=True):
        helpers.assert_trees_close(got, want, rtol=1e-4)


def test_the_routes_would_see_a_wrong_preconditioner():
    params, batch, p = route_problem()
    raw = devices.gatherer()(params, batch)[2]
    ratio = jax.tree.map(
        lambda a, b: np.min(np.abs(np.log(a / b))), raw[:2], reference()[1][:2]
    )
    assert min(jax.tree.leaves(ratio)) > 0.1


@pytest.mark.parametrize("gather", [devices.owned, devices.local_gradients])
def test_one_all_reduce_on_a_mesh(gather):
    """Multiplying by what every device has needs no word with the others."""
    mapped = functools.partial(shard_map, gather=gather, check_vma=True)
    text = jax.jit(mapped).lower(*route_problem()).compile().as_text()
    assert text.count(" all-reduce(") + text.count(" all-reduce-start(") == 1
    assert "all-gather" not in text


def test_without_one_the_program_is_the_same():
    params, batch, p = route_problem()
    text = lambda *args: jax.jit(scan).lower(*args).as_text()
    plain = jax.jit(lambda params, batch: devices.gatherer()(params, batch)[1:])
    strip = lambda text: text.split("\n", 1)[1]
    without = plain.lower(params, batch).as_text()
    assert strip(without) == strip(text(params, batch, None))
    assert strip(without) != strip(text(params, batch, p))
