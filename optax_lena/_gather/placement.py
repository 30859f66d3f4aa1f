"""Placement: on which devices of a mesh arrays lie, under `jax.jit`.

In: arrays, such as the batch, and what their types say of a mesh. Out: the same arrays
where a scan over microbatches can take them.
"""

import math
from typing import Any

import jax
from jax.lax import with_sharding_constraint
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec, reshard

from optax_lena._gather.axes import AxisName, names
from optax_lena._types import PyTree


def spans_devices(tree: PyTree) -> bool:
    """Says whether arrays in `tree` lie on a mesh of several devices.

    Inside `shard_map` an array is the part of one device.
    """
    meshes = [jax.sharding.get_abstract_mesh()]
    meshes += [jax.typeof(leaf).sharding.mesh for leaf in jax.tree.leaves(tree)]
    return any(
        math.prod(mesh.shape[n] for n in mesh.axis_names if n not in mesh.manual_axes)
        > 1
        for mesh in meshes
    )


def mesh_with(axis_name: AxisName, tree: PyTree) -> AbstractMesh:
    """Finds the mesh that has the axis: the context's, or one of arrays in `tree`."""
    meshes = [jax.sharding.get_abstract_mesh()]
    meshes += [jax.typeof(leaf).sharding.mesh for leaf in jax.tree.leaves(tree)]
    for mesh in meshes:
        if set(names(axis_name)) <= set(mesh.axis_names):
            return mesh
    raise ValueError(
        f"`axis_name` must name a mesh axis that carries the batch, got {axis_name!r} "
        f"and meshes with the axes {sorted({m.axis_names for m in meshes})}: place the "
        "batch with a NamedSharding. The in_shardings of jax.jit do not say it: with "
        "them, add the line `with jax.set_mesh(mesh):` around the call."
    )


def axis_size(mesh: AbstractMesh, axis_name: AxisName) -> int:
    """Returns the number of devices along a mesh axis, or along several."""
    return math.prod(mesh.shape[name] for name in names(axis_name))


def to_devices(tree: PyTree, mesh: AbstractMesh, axis_name: AxisName) -> PyTree:
    """Reshapes every leaf `(n, ...)` to `(devices, n / devices, ...)`, sharded.

    Its sharding over other axes stays, such as over sequences (context parallelism).
    """
    devices = axis_size(mesh, axis_name)
    types = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    is_typed = any(types[name] == AxisType.Explicit for name in names(axis_name))

    def place(x: jax.Array) -> jax.Array:
        rest = jax.typeof(x).sharding.spec[1:]
        x = x.reshape(devices, len(x) // devices, *x.shape[1:])
        if is_typed:
            spec = PartitionSpec(axis_name, None, *rest)
            return reshard(x, NamedSharding(mesh, spec))
        others = [PartitionSpec.UNCONSTRAINED] * (x.ndim - 1)
        sharding = NamedSharding(mesh, PartitionSpec(axis_name, *others))
        return with_sharding_constraint(x, sharding)

    return jax.tree.map(place, tree)


def gather_typed(params: PyTree, axis_name: AxisName) -> PyTree:
    """Gathers parameters whose *type* says that they are sharded over the axis.

    With explicit axis types one axis cannot shard both the microbatches and the
    parameters of a mapped computation. With automatic types nothing is done here: XLA
    gathers layer by layer.
    """

    def drop(entry: Any) -> Any:
        kept = [n for n in names(entry or ()) if n not in names(axis_name)]
        return kept[0] if len(kept) == 1 else tuple(kept) or None

    def gather(p: jax.Array) -> jax.Array:
        sharding = jax.typeof(p).sharding
        spec = PartitionSpec(*(drop(entry) for entry in sharding.spec))
        is_whole = spec == sharding.spec
        return p if is_whole else reshard(p, NamedSharding(sharding.mesh, spec))

    return jax.tree.map(gather, params)


def move_typed(tree: PyTree, source: int, to: int) -> PyTree:
    """Moves the sharding of axis `source`, if it is part of the type, to axis `to`.

    For one device, where this moves no data: an explicit mesh axis may be part of types
    there too, but `lax.scan` takes no stack that is sharded along its microbatches, and
    a reshape takes none that is sharded along their examples.
    """

    def move(x: jax.Array) -> jax.Array:
        sharding = jax.typeof(x).sharding
        entries = [*sharding.spec, *(None,) * x.ndim][: x.ndim]
        if x.ndim <= max(source, to) or entries[source] is None:
            return x
        entries[to], entries[source] = entries[source], None
        return reshard(x, NamedSharding(sharding.mesh, PartitionSpec(*entries)))

    return jax.tree.map(move, tree)


def check_spreads(batch: PyTree, num_microbatches: int) -> None:
    """Raises a `ValueError` unless every microbatch can lie on the batch's devices.

    Types say over how many devices axis 0 is sharded where mesh axes are explicit.
    """
    for leaf in jax.tree.leaves(batch):
        sharding = jax.typeof(leaf).sharding
        first = sharding.spec[0] if sharding.spec else None
        devices = math.prod(sharding.mesh.shape[name] for name in names(first or ()))
        if len(leaf) % (num_microbatches * devices):
            raise ValueError(
                f"`batch` must divide into {num_microbatches} microbatches that lie on "
                f"{devices} devices each, got {len(leaf)} examples on axis 0: take a "
                f"multiple of {num_microbatches * devices} of them, or fewer "
                "microbatches."
            )
