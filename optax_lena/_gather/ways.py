"""Where the microbatches go: one after the other, over devices, or over both.

In: a call of a gatherer. Out: what the call returns. Each way is one function.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from optax_lena._gather import axes, outputs, passes, placement, shards
from optax_lena._gather.axes import AxisName
from optax_lena._gather.call import Call
from optax_lena._gather.outputs import Plan
from optax_lena._measure.metric import Metric, ShardedMetric
from optax_lena._measure.moments import GradMoments
from optax_lena._types import PyTree, eval_types, shard_like

SPACE, TIME = SPREADS = ("space", "time")


def in_turn(call: Call) -> tuple[Any, PyTree, GradMoments]:
    """One device: microbatches of successive examples, one after the other."""

    def split(batch: PyTree, n: int) -> PyTree:
        return placement.move_typed(passes.split(batch, n), 0, 1)

    def join(stack: jax.Array) -> jax.Array:
        return outputs.join(placement.move_typed(stack, 1, 0))

    return _in_turn(call, split, join)


def in_time(call: Call) -> tuple[Any, PyTree, GradMoments]:
    """All devices together: each microbatch has a share of every device's examples."""
    n = call.options.num_microbatches
    passes.check_divides(call.batch, n)
    placement.check_spreads(call.batch, n)
    rows = [jnp.shape(leaf)[0] for leaf in jax.tree.leaves(call.batch)]
    join = functools.partial(outputs.join_interleaved, size=max(rows, default=n) // n)
    return _in_turn(call, passes.split_interleaved, join)


def _in_turn(
    call: Call, split: Callable[..., PyTree], join: Callable[..., jax.Array]
) -> tuple[Any, PyTree, GradMoments]:
    n = call.options.num_microbatches
    weights, xs = call.weights_of(n), (split(call.batch, n), jnp.arange(n))
    first = jax.tree.map(_first, xs)
    shapes = eval_types(call.grad_of, *first)
    if call.options.param_specs is None:
        metric = shards.metric_of_shards_of_one_loss(
            call.metric, call.params, _loss_in(shapes)
        )
        call, shapes = _with_metric(call, metric, first, shapes)
    axes.check_own_loss(_loss_in(shapes), call.params, ())
    plan = call.plan(shapes, first[0], call.batch)
    sums, stacks = passes.weighted_scan(call.grad_of, plan, weights, xs)
    stacks = _joined(stacks, plan, join)
    return call.result(sums, stacks, plan, *_totals(call, weights))


def _with_metric(
    call: Call, metric: Metric | ShardedMetric, first: PyTree, shapes: PyTree
) -> tuple[Call, PyTree]:
    """Returns the call with that metric, and the shapes of what `grad_of` then returns.

    The loss is not traced again if the call has that metric already.

    Args:
      call: the call.
      metric: the metric that follows from the loss.
      first: the first microbatch and its number.
      shapes: of what `grad_of` returns with the call's own metric.

    Returns:
      The call and the shapes.
    """
    if metric is call.metric:
        return call, shapes
    call = dataclasses.replace(call, metric=metric)
    return call, eval_types(call.grad_of, *first)


def over_bound_axis(call: Call, axis_name: AxisName) -> tuple[Any, PyTree, GradMoments]:
    """Inside `shard_map` or `pmap`: this device's microbatches, then one `psum`."""
    if call.options.spread == TIME:
        raise ValueError(
            f"`spread` must be 'space' or None where axis {axis_name!r} is bound, got "
            "'time': a device sees its own examples only."
        )
    n = _per_device(call, jax.lax.axis_size(axis_name), axis_name)
    shards.check_whole(call.params, axis_name)
    params = axes.to_varying(call.params, axis_name)
    local = dataclasses.replace(call, params=params)
    weights, offset = local.weights_of(n), jax.lax.axis_index(axis_name) * n
    xs = (passes.split(call.batch, n), offset + jnp.arange(n))
    first = jax.tree.map(_first, xs)
    if copied := axes.not_spread(call.batch, axis_name):
        # Keys, and what the loss closes over, may differ between devices all the same.
        of_copies = jax.eval_shape(call.loss_of, call.params, *first)
        axes.check_loss_differs(_loss_in(of_copies), copied)
    shapes = eval_types(local.grad_of, *first)
    loss, specs = _loss_in(shapes), call.options.param_specs
    axes.check_own_loss(loss, call.params, axis_name)
    metric = shards.metric_of_shards(call.metric, params, axis_name, specs, loss)
    local, shapes = _with_metric(local, metric, first, shapes)
    larger = jax.tree.map(lambda x: jnp.concatenate([x, x]), first[0])
    plan = local.plan(shapes, first[0], larger)
    sums, stacks = passes.weighted_scan(local.grad_of, plan, weights, xs)
    stacks = _joined(stacks, plan, outputs.join)
    total, count = _totals(call, weights)
    if total is None:
        sums = jax.lax.psum(sums, axis_name)
    else:
        sums, total, count = jax.lax.psum((sums, total, count), axis_name)
    call = dataclasses.replace(call, metric=metric)
    return call.result(sums, stacks, plan, total, count)


def over_mesh_axis(call: Call, axis_name: AxisName) -> tuple[Any, PyTree, GradMoments]:
    """Under `jax.jit`: in space, or in time if the model cannot be traced in space."""
    mesh = placement.mesh_with(axis_name, (call.batch, call.params))
    _per_device(call, placement.axis_size(mesh, axis_name), axis_name)
    passes.check_divides(call.batch, call.options.num_microbatches)
    try:
        return _in_space(call, axis_name, mesh)
    except Exception:
        # A mapped axis cannot be named again: by `with_sharding_constraint`, `reshard`
        # or flax's logical constraints over the batch's axis. An error of the loss
        # itself comes up in time as well.
        if call.options.spread == SPACE:
            raise
        _check_loss(call)
        check_no_weights(call, "the model constrains the batch's axis")
        return in_time(call)


def _in_space(
    call: Call, axis_name: AxisName, mesh: Any
) -> tuple[Any, PyTree, GradMoments]:
    """Every device scans over its own microbatches, then one all-reduce.

    The mapped axis of the `vmap` is the device axis: `spmd_axis_name` keeps it sharded
    through whatever `grad_of` does, so that gradients stay local until they are summed,
    whether the parameters are replicated or sharded, over this axis or another.
    """

    def gather_typed(tree: PyTree) -> PyTree:
        return placement.gather_typed(tree, axis_name)

    n = call.options.num_microbatches
    weights, xs = call.weights_of(n), (passes.split(call.batch, n), jnp.arange(n))
    gathered = dataclasses.replace(
        call, params=gather_typed(call.params), metric=call.metric.placed(gather_typed)
    )
    # An entry of a sharded array has a shape, but jax cannot take it out.
    first = jax.tree.map(_entry, xs)
    shapes = eval_types(gathered.grad_of, *first)
    plan = gathered.plan(shapes, first[0], jax.tree.map(_whole, call.batch))

    def scan(weights: jax.Array, xs: PyTree) -> tuple[list[jax.Array], list[jax.Array]]:
        return passes.weighted_scan(gathered.grad_of, plan, weights, xs)

    sums, stacks = jax.vmap(scan, spmd_axis_name=axis_name)(
        *placement.to_devices((weights, xs), mesh, axis_name)
    )
    stacks = _joined([outputs.join(x) for x in stacks], plan, outputs.join)
    sums = [jnp.sum(x, axis=0) for x in sums]
    call = dataclasses.replace(
        call, metric=call.metric.placed(lambda tree: shard_like(tree, call.params))
    )
    return call.result(sums, stacks, plan, *_totals(call, weights))


def _check_loss(call: Call) -> None:
    """Raises the error of a loss that fails however its batch is spread."""
    n = call.options.num_microbatches
    placement.check_spreads(call.batch, n)

    def grad_of_first(batch: PyTree) -> PyTree:
        # Of the type that it has in time, which says how its axes are sharded.
        first = jax.tree.map(_first, passes.split_interleaved(batch, n))
        return call.grad_of(first, jnp.int32(0))

    eval_types(grad_of_first, call.batch)


def _totals(call: Call, weights: jax.Array) -> tuple[jax.Array | None, int | jax.Array]:
    """Returns the sum of the weights, and how many are not 0."""
    if call.weights is None:  # equal weights sum to 1, over n microbatches
        return None, call.options.num_microbatches
    return jnp.sum(weights), jnp.sum(weights != 0, dtype=jnp.int32)


def _joined(
    stacks: list[jax.Array], plan: Plan, join: Callable[[jax.Array], jax.Array]
) -> list[jax.Array]:
    kept = [kind for kind in plan.kinds if kind in (outputs.EXAMPLES, outputs.STACK)]
    return [
        join(x) if kind == outputs.EXAMPLES else x
        for x, kind in zip(stacks, kept, strict=True)
    ]


def _per_device(call: Call, devices: int, axis_name: AxisName) -> int:
    n = call.options.num_microbatches
    if n % devices:
        raise ValueError(
            f"`num_microbatches` must be a multiple of the {devices} devices on axis "
            f"{axis_name!r}, got {n}: every device takes as many. Under jax.jit, "
            "spread='time' takes any number."
        )
    return n // devices


def check_no_weights(call: Call, why: str) -> None:
    if call.weights is not None:
        raise ValueError(
            f"`spread` must be given with `weights`, got None: {why}, so the batch "
            "would be spread in time, where microbatch i has the examples i, i + n, "
            "i + 2n, ... Say spread='time' with weights for those microbatches, or "
            "give `axis_name` with spread='space'."
        )


def _loss_in(shapes: PyTree) -> Any:
    """Returns the type of the loss: the first leaf, with or without gradients."""
    return jax.tree.leaves(shapes)[0]


def _first(x: jax.Array) -> jax.Array:
    return x[0]


def _entry(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape[1:], x.dtype)


def _whole(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x))
