"""Mesh axes: over which of them the microbatches are spread, and in which way.

An axis that carries the batch is either *bound*, inside `shard_map`, `pmap` or a `vmap`
with an axis name: code sees the part of its own device and reduces with `psum`. Or it
is a *mesh* axis under `jax.jit`: code sees the whole batch, and its sharding says where
the parts lie. Which it is follows from the name alone; an unknown name is an error.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import with_sharding_constraint
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec, reshard

from optax_lena._measure.metric import Metric, ShardedMetric
from optax_lena._measure.parameters import leaves_by_name
from optax_lena._types import PyTree, bound_axes, shard_axes, varying

AxisName = str | tuple[str, ...]


def names(axis_name: AxisName) -> tuple[str, ...]:
    """Returns the axis names as a tuple."""
    return axis_name if isinstance(axis_name, tuple) else (axis_name,)


def check_axis_name(axis_name: Any) -> None:
    """Raises a `ValueError` unless it is the name of an axis, or a tuple of names."""
    given = names(axis_name)
    if not given or not all(isinstance(name, str) for name in given):
        raise ValueError(
            "`axis_name` must be the name of the axis that carries the batch, or a "
            f"tuple of names, got {axis_name!r}."
        )


def check_specs(param_specs: Any) -> None:
    """Raises a `ValueError` unless the leaves are `PartitionSpec`s."""
    for spec in jax.tree.leaves(param_specs, is_leaf=_is_spec):
        if not _is_spec(spec):
            raise ValueError(
                "`param_specs` must hold a jax.P for every parameter, or one for "
                f"several, as `in_specs` do, got {spec!r}."
            )


def is_bound(axis_name: AxisName) -> bool:
    """Says whether we are inside `shard_map`, `pmap` or `vmap` over this axis."""
    try:
        jax.lax.axis_size(axis_name)
    except NameError:
        return False
    return True


def _is_checked(axis_name: AxisName) -> bool:
    """Says whether types track the axis: `shard_map` with `check_vma`, its default."""
    return bool(varying(jax.lax.axis_index(axis_name)))


def to_varying(tree: PyTree, axis_name: AxisName) -> PyTree:
    """Makes replicated parameters vary over the axis, so that gradients stay local.

    `jax.grad` with respect to parameters that do not vary over an axis sums over that
    axis: in `shard_map` with `check_vma` every device would see the same gradient.
    """
    if not _is_checked(axis_name):
        return tree

    return jax.tree.map(
        lambda x: jax.lax.pcast(x, names(axis_name), to="varying"), tree
    )


def check_local(grads: PyTree, axis_name: AxisName) -> None:
    """Raises a `ValueError` for a gradient that is summed over the axis already."""
    if not _is_checked(axis_name):
        return
    for parameter, grad in leaves_by_name(grads).items():
        if not set(names(axis_name)) <= varying(grad):
            raise ValueError(
                f"`grads` must be each device's own, but the gradient of {parameter!r} "
                f"is the same on every device of axis {axis_name!r}: jax.grad has "
                "already summed it, because the parameters do not vary over the axis. "
                f"Differentiate with respect to jax.lax.pcast(params, {axis_name!r}, "
                "to='varying'), or let optax_lena.value_and_grad(loss_fn, n, "
                f"axis_name={axis_name!r}) do it."
            )


def check_whole(params: PyTree, axis_name: AxisName) -> None:
    """Raises a `ValueError` for a parameter that is sharded over the batch's axis."""
    if not _is_checked(axis_name):
        return
    for parameter, leaf in leaves_by_name(params).items():
        if set(names(axis_name)) & varying(leaf):
            _raise_sharded(parameter, axis_name)


def _raise_sharded(parameter: str, axis_name: AxisName) -> None:
    raise ValueError(
        f"`params` must be the same on every device of axis {axis_name!r}, which "
        f"carries the batch, got {parameter!r}, which is sharded over it: the sum over "
        "the axis would add up the gradients of different shards. Shard parameters "
        "over another axis, or under jax.jit, where any axis will do. If all devices "
        "hold the same, pass them as they are, without jax.lax.pcast; if they gathered "
        "it from its shards, let jax.lax.all_gather(..., to='reduced') say so."
    )


def check_own_loss(loss: Any, params: PyTree, axis_name: AxisName) -> None:
    """Raises a `ValueError` for a loss that is not the mean of a device's own examples.

    Args:
      loss: the loss of a microbatch, or its type.
      params: as the gatherer got them.
      axis_name: the axis that it averages over; () for none.
    """
    if names(axis_name) and not _is_checked(axis_name):
        return
    over = set(names(axis_name))
    reduced = sorted(over - varying(loss))
    if reduced:
        raise ValueError(
            "`loss_fn` must return the mean over the device's own examples, got a loss "
            f"that is summed or averaged over the axes {reduced} already, so that its "
            "gradients are too small by a factor of the number of devices: leave the "
            "pmean out. "
            "For means over unequal counts give `weights`."
        )
    own = set().union(*(varying(leaf) for leaf in jax.tree.leaves(params)))
    forgotten = sorted(varying(loss) - over - own)
    if forgotten:
        raise ValueError(
            "`axis_name` must name every axis over which the batch is spread, got "
            f"{axis_name or None!r} and a loss that varies over {forgotten}, where "
            "jax.grad sums the gradients: name those axes too, or take "
            f"jax.lax.pmean(loss, {tuple(forgotten)}) in the loss."
        )


def metric_of_shards(
    metric: Metric | ShardedMetric,
    grads: PyTree,
    axis_name: AxisName,
    param_specs: PyTree | None,
    loss: Any = None,
) -> Metric | ShardedMetric:
    """Returns the metric of gradients that are sharded over other bound axes.

    With tensor parallelism each device holds a shard, and a norm is a sum over shards.

    Args:
      metric: the metric of what one device holds.
      grads: the gradients or parameters that it holds.
      axis_name: the axis of the batch.
      param_specs: which axes shard each parameter; None: what the types say.
      loss: the loss of a microbatch, or its type. Over other axes that it varies over,
        every device has a model of its own. None: it varies over the batch's axis only.

    Returns:
      The metric itself, if nothing is sharded.

    Raises:
      ValueError: if neither says it, and there is another bound axis; or if the specs
        shard a parameter over the batch's axis, or along its stacked layers.
    """
    if param_specs is not None:
        specs = jax.tree.broadcast(param_specs, grads, is_leaf=_is_spec)
        specs = jax.tree.leaves(specs, is_leaf=_is_spec)
        _check_specs_of(metric, grads, specs, axis_name)
        sharded = [
            tuple(n for entry in spec for n in names(entry or ())) for spec in specs
        ]
    elif _is_checked(axis_name):
        sharded = shard_axes(grads, loss)
    else:
        others = [name for name in bound_axes() if name not in names(axis_name)]
        if others:
            raise ValueError(
                f"`param_specs` must say how the parameters are sharded over {others}: "
                "without `check_vma` jax's types do not, and the norm of a shard is "
                "not that of its parameter. Pass the `in_specs` of the parameters, or "
                "jax.P() if they are no shards: every device has a model of its own, "
                "or all hold the same and the loss is a mean over those axes already. "
                "The gatherer averages over the batch axis only."
            )
        return metric
    own = [tuple(n for n in axes if n not in names(axis_name)) for axes in sharded]
    return ShardedMetric(metric, tuple(own)) if any(own) else metric


def metric_of_shards_of_one_loss(
    metric: Metric | ShardedMetric, params: PyTree, loss: Any
) -> Metric | ShardedMetric:
    """Returns the metric inside a `shard_map` of which no axis carries the batch.

    A parameter that varies over an axis over which its loss does not is in shards
    (tensor parallelism alone). Where the loss varies as well, every device has a model
    of its own.

    Args:
      metric: the metric of what one device holds.
      params: what it holds.
      loss: the loss of a microbatch, or its type.

    Returns:
      The metric itself, if nothing is sharded.
    """
    shards = ShardedMetric(metric, shard_axes(params, loss))
    return shards if any(shards.axes) else metric


def _check_specs_of(
    metric: Metric | ShardedMetric,
    grads: PyTree,
    specs: list[PartitionSpec],
    axis_name: AxisName,
) -> None:
    leaves = leaves_by_name(grads).items()
    for (parameter, leaf), spec in zip(leaves, specs, strict=True):
        entries = [names(entry or ()) for entry in spec]
        if any(set(names(axis_name)) & set(entry) for entry in entries):
            _raise_sharded(parameter, axis_name)
        axis = metric.layers.stack_axis(parameter)
        if axis is None:
            continue
        axis %= jnp.ndim(leaf)
        if axis < len(entries) and entries[axis]:
            raise ValueError(
                f"`param_specs` must leave axis {axis} of {parameter!r} whole, along "
                f"which its layers are stacked, got {spec}: a sum over the devices "
                "would add up the norms of different layers. Shard another of its "
                "axes, or let `layers` take the slices of a device for one layer."
            )


def _is_spec(x: Any) -> bool:
    return isinstance(x, PartitionSpec)


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


def mesh_with(axis_name: AxisName, tree: PyTree) -> AbstractMesh:
    """Finds the mesh that has the axis: that of the context, or of arrays in `tree`."""
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

    Its sharding over other axes stays, such as that of sequences (context parallelism).
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
