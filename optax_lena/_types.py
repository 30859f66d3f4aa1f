"""What an array's type says: over which axes of a mesh it varies, or is sharded."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec, reshard

PyTree = Any
# What has a shape and a dtype and no values.
_ABSTRACT = (jax.ShapeDtypeStruct, jax.core.ShapedArray)


def varying(x: Any) -> frozenset[str]:
    """Returns the bound axes over which the type of `x` says that it varies."""
    # `jax.typeof` refuses some of what `jax.eval_shape` returns under partly manual
    # meshes: a struct that varies, and has no sharding.
    aval = x if isinstance(x, _ABSTRACT) else jax.typeof(x)
    manual = getattr(aval, "manual_axis_type", None)  # jax >= 0.10
    axes = getattr(aval, "vma", None) if manual is None else manual.varying
    return axes or frozenset()


def vary_like(tree: Any, like: Any) -> Any:
    """Returns a tree whose leaves vary over the axes of another's, in `shard_map`.

    Where every device has a state of its own, as between the averages of local SGD,
    what an update sets to a constant has the type of the state before it, as the carry
    of `jax.lax.scan` must.

    Args:
      tree: arrays.
      like: arrays in the same order.

    Returns:
      The arrays of `tree`.
    """
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return tree

    def cast(leaf: Any, other: Any) -> Any:
        axes = tuple(sorted(varying(other) - varying(leaf)))
        return jax.lax.pcast(leaf, axes, to="varying") if axes else leaf

    leaves, treedef = jax.tree.flatten(tree)
    others = jax.tree.leaves(like)
    return treedef.unflatten(map(cast, leaves, others))


def shard_axes(tree: Any, whole: Any) -> tuple[tuple[str, ...], ...]:
    """Returns, for every leaf of `tree`, the bound axes over which it is sharded.

    The leaf varies over these axes, and nothing in `whole` does. Over an axis over
    which `whole` varies too, every device has a model of its own.

    Args:
      tree: what a device holds.
      whole: values of whole tensors: moments, or a loss, or its type.

    Returns:
      The names of the axes, sorted; none where the device holds the whole.
    """
    own = frozenset().union(*map(varying, jax.tree.leaves(whole)))
    return tuple(tuple(sorted(varying(leaf) - own)) for leaf in jax.tree.leaves(tree))


def eval_types(function: Callable[..., PyTree], *args: Any) -> PyTree:
    """Does what `jax.eval_shape` does, and returns types.

    What `jax.eval_shape` returns knows shardings only where all axes of a mesh are
    explicit, and not where another one is automatic.

    Args:
      function: a function of pytrees of arrays.
      *args: arrays, or their shapes and dtypes.

    Returns:
      The type (`jax.typeof`) of every array that the function would return.
    """
    jaxpr, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
    return jax.tree.structure(shapes).unflatten(jaxpr.out_avals)


def zeros_of(leaf: Any, dtype: Any) -> jax.Array:
    """Returns zeros of an array's shape that vary and are sharded as its type says."""
    if not isinstance(leaf, _ABSTRACT):
        return jnp.zeros_like(leaf, dtype=dtype)
    # A type also names the mesh where XLA decides how to shard.
    is_free = isinstance(leaf, jax.core.ShapedArray) and (
        AxisType.Explicit not in leaf.sharding.mesh.axis_types
    )
    sharding = None if is_free else leaf.sharding
    zeros = jnp.zeros(leaf.shape, dtype, device=sharding)
    axes = tuple(sorted(varying(leaf)))
    return jax.lax.pcast(zeros, axes, to="varying") if axes else zeros


def replicated(x: jax.Array) -> jax.Array:
    """Replicates an array on every device where mesh axes are explicit.

    There the sharding is part of the type, and arrays that are sharded in different
    ways cannot be concatenated.
    """
    sharding = jax.typeof(x).sharding
    is_typed = AxisType.Explicit in sharding.mesh.axis_types
    is_whole = all(entry is None for entry in sharding.spec)
    if not is_typed or is_whole:
        return x
    return reshard(x, NamedSharding(sharding.mesh, PartitionSpec()))


def shard_like(tree: Any, like: Any) -> Any:
    """Gives arrays the shardings of others, where shardings are part of the types.

    Args:
      tree: gradients or updates.
      like: a pytree of the same structure, such as the parameters.

    Returns:
      The arrays, sharded where mesh axes are explicit.
    """

    def shard(x: jax.Array, other: jax.Array) -> jax.Array:
        sharding = jax.typeof(other).sharding
        is_typed = AxisType.Explicit in sharding.mesh.axis_types
        is_same = jax.typeof(x).sharding == sharding
        return reshard(x, sharding) if is_typed and not is_same else x

    return jax.tree.map(shard, tree, like)


def bound_axes() -> list[str]:
    """Returns the bound axes of the mesh that have several devices."""
    mesh = jax.sharding.get_abstract_mesh()
    return [name for name in mesh.manual_axes if mesh.shape[name] > 1]
