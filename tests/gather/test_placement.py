"""Where arrays lie on a mesh, and where they are placed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from optax_lena._gather import placement


def placed(shape, names, spec, kind=AxisType.Explicit):
    mesh = jax.make_mesh(shape, names, axis_types=(kind,) * len(names))
    x = jnp.arange(64.0).reshape(8, 4, 2)
    return mesh, jax.device_put(x, NamedSharding(mesh, spec))


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_a_mesh_of_two_devices_is_several(devices):
    _, x = placed((devices,), ("data",), P("data"))
    assert placement.spans_devices({"x": x}) == (devices > 1)
    assert not placement.spans_devices({"x": jnp.ones(2)})


def test_inside_shard_map_an_array_is_that_of_one_device():
    mesh, x = placed((8,), ("data",), P("data"), AxisType.Auto)
    seen = []

    def body(x):
        seen.append(placement.spans_devices(x))
        return x

    jax.jit(jax.shard_map(body, mesh=mesh, in_specs=P("data"), out_specs=P("data")))(x)
    assert not any(seen) and seen


@pytest.mark.parametrize("spec", [P("data", "seq"), P("data", None, "seq"), P("data")])
def test_what_other_axes_shard_stays_sharded(spec):
    mesh, x = placed((4, 2), ("data", "seq"), spec)
    [y] = jax.tree.leaves(placement.to_devices((x,), mesh, "data"))
    own = [*spec, None, None][1:3]
    assert jax.typeof(y).sharding.spec == P("data", None, *own)
    np.testing.assert_array_equal(y, np.asarray(x).reshape(4, 2, 4, 2))
