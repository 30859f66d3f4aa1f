"""Shards: a device of a `shard_map` may hold a part of each parameter.

In: the metric of what one device holds, and what says how parameters are sharded: specs
or types. Out: the metric of the whole parameters, whose norms are sums over shards.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from optax_lena._gather.axes import AxisName, is_bound, is_checked, names
from optax_lena._measure.metric import Metric, ShardedMetric
from optax_lena._measure.parameters import leaves_by_name
from optax_lena._types import PyTree, bound_axes, shard_axes, varying


def check_specs(param_specs: Any) -> None:
    """Raises a `ValueError` unless the leaves are `PartitionSpec`s."""
    for spec in jax.tree.leaves(param_specs, is_leaf=_is_spec):
        if not _is_spec(spec):
            raise ValueError(
                "`param_specs` must hold a jax.P for every parameter, or one for "
                f"several, as `in_specs` do, got {spec!r}."
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
        name an axis that is not bound, or shard a parameter over the batch's axis, or
        along its stacked layers.
    """
    if param_specs is not None:
        specs = jax.tree.broadcast(param_specs, grads, is_leaf=_is_spec)
        specs = jax.tree.leaves(specs, is_leaf=_is_spec)
        _check_specs_of(metric, grads, specs, axis_name)
        sharded = [
            tuple(n for entry in spec for n in names(entry or ())) for spec in specs
        ]
    elif is_checked(axis_name):
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
    _check_bound(own)
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


def _check_bound(sharded: list[tuple[str, ...]]) -> None:
    for axis in dict.fromkeys(axis for axes in sharded for axis in axes):
        if not is_bound(axis):
            raise ValueError(
                f"`param_specs` must name axes of a shard_map around the gatherer, got "
                f"{axis!r}, which is not bound here: leave param_specs out under "
                "jax.jit, where arrays are whole, or call the gatherer inside "
                "jax.shard_map."
            )


def check_whole(params: PyTree, axis_name: AxisName) -> None:
    """Raises a `ValueError` for a parameter that is sharded over the batch's axis."""
    if not is_checked(axis_name):
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


def _is_spec(x: Any) -> bool:
    return isinstance(x, PartitionSpec)
