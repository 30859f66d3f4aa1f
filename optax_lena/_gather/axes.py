"""The axes that carry the batch: their names, and what must hold where they are bound.

Such an axis is either *bound*, inside `shard_map`, `pmap` or a `vmap` with an axis
name: code sees the part of its own device and reduces with `psum`. Or it is a *mesh*
axis under `jax.jit`: code sees the whole batch, and its sharding says where the parts
lie. Which it is follows from the name alone; an unknown name is an error.
"""

from typing import Any

import jax

from optax_lena._measure.parameters import leaves_by_name
from optax_lena._types import PyTree, varying

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


def is_bound(axis_name: AxisName) -> bool:
    """Says whether we are inside `shard_map`, `pmap` or `vmap` over this axis."""
    try:
        jax.lax.axis_size(axis_name)
    except NameError:
        return False
    return True


def is_checked(axis_name: AxisName) -> bool:
    """Says whether types track the axis: `shard_map` with `check_vma`, its default."""
    return bool(varying(jax.lax.axis_index(axis_name)))


def to_varying(tree: PyTree, axis_name: AxisName) -> PyTree:
    """Makes replicated parameters vary over the axis, so that gradients stay local.

    `jax.grad` with respect to parameters that do not vary over an axis sums over that
    axis: in `shard_map` with `check_vma` every device would see the same gradient.
    """
    if not is_checked(axis_name):
        return tree

    return jax.tree.map(
        lambda x: jax.lax.pcast(x, names(axis_name), to="varying"), tree
    )


def check_local(grads: PyTree, axis_name: AxisName) -> None:
    """Raises a `ValueError` for a gradient that is summed over the axis already."""
    if not is_checked(axis_name):
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


def not_spread(batch: PyTree, axis_name: AxisName) -> list[str]:
    """Returns the axes over which no array of a batch varies, as types say it."""
    leaves = jax.tree.leaves(batch)
    if not leaves or not is_checked(axis_name):
        return []
    spread = set().union(*map(varying, leaves))
    return [name for name in names(axis_name) if name not in spread]


def check_loss_differs(loss: Any, copied: list[str]) -> None:
    """Raises a `ValueError` for a loss that is the same on all devices of an axis.

    Args:
      loss: the loss of a microbatch with parameters that are the same on all devices,
        or its type.
      copied: axes over which the batch does not vary.
    """
    same = sorted(set(copied) - varying(loss))
    if same:
        raise ValueError(
            f"`batch` must be spread over the axes of `axis_name`, got one that is the "
            f"same on every device of {same}, so that copies of its examples would "
            "count as others and the noise would come out too small: shard it over "
            "these axes in the `in_specs` of jax.shard_map, or leave them out of "
            "`axis_name`."
        )


def check_own_loss(loss: Any, params: PyTree, axis_name: AxisName) -> None:
    """Raises a `ValueError` for a loss that is not the mean of a device's own examples.

    Args:
      loss: the loss of a microbatch, or its type.
      params: as the gatherer got them.
      axis_name: the axis that it averages over; () for none.
    """
    if names(axis_name) and not is_checked(axis_name):
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
