"""Devices as a mesh of data x fsdp x tensor, and where every array lies on it."""

import math
import re
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import Mesh as DeviceMesh
from jax.sharding import PartitionSpec as P

from examples.pod_training.config import Mesh
from examples.pod_training.errors import JobError

BATCH = ("data", "fsdp")  # the axes that share the batch


def make_mesh(options: Mesh) -> DeviceMesh:
    """Returns a mesh of all devices of all processes."""
    count, model = jax.device_count(), options.fsdp * options.tensor
    data = count // model if options.data == -1 else options.data
    if data * model != count:
        raise JobError(
            f"--mesh.data x --mesh.fsdp x --mesh.tensor must be the {count} devices, "
            f"got {options.data} x {options.fsdp} x {options.tensor}."
        )
    shape = (data, options.fsdp, options.tensor)
    return jax.make_mesh(shape, ("data", "fsdp", "tensor"), (AxisType.Auto,) * 3)


def batch_devices(mesh: DeviceMesh) -> int:
    """Returns how many devices share the batch."""
    return math.prod(mesh.shape[axis] for axis in BATCH)


def over_batch(mesh: DeviceMesh) -> NamedSharding:
    """Returns how a batch lies on the devices."""
    return NamedSharding(mesh, P(BATCH))


def replicated(mesh: DeviceMesh) -> NamedSharding:
    """Returns how what every device has lies on them."""
    return NamedSharding(mesh, P())


def shardings(mesh: DeviceMesh, state: Any, specs: dict[str, Any]) -> Any:
    """Returns how every leaf of a state lies on the devices.

    Optimizers keep trees like the parameters, so a leaf of theirs ends in the name of
    its parameter and is sharded as that is.
    """

    def of_leaf(path: Any, leaf: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        found = [spec for rule, spec in specs.items() if re.search(rule, name)]
        spec = found[0] if found and len(found[0]) == len(leaf.shape) else P()
        for size, axis in zip(leaf.shape, spec, strict=False):
            if axis is not None and size % mesh.shape[axis]:
                raise JobError(
                    f"--mesh.{axis} must divide {size}, a dimension of {name}, got "
                    f"{mesh.shape[axis]}."
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(of_leaf, state)
