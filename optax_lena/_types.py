"""What the type of an array says of it: over which axes of a mesh it varies."""

from typing import Any

import jax


def varying(x: Any) -> frozenset[str]:
    """Returns the bound axes over which the type of `x` says that it varies."""
    # `jax.typeof` refuses some of what `jax.eval_shape` returns under partly manual
    # meshes: a struct that varies, and has no sharding.
    aval = x if isinstance(x, jax.ShapeDtypeStruct) else jax.typeof(x)
    manual = getattr(aval, "manual_axis_type", None)  # jax >= 0.10
    axes = getattr(aval, "vma", None) if manual is None else manual.varying
    return axes or frozenset()


def shard_axes(tree: Any, whole: Any) -> tuple[tuple[str, ...], ...]:
    """Says of every leaf of `tree` over which bound axes it is in shards.

    Those over which it varies, and nothing in `whole` does. Over an axis over which
    that varies as well every device has a model of its own.

    Args:
      tree: what a device holds.
      whole: what is of whole tensors: moments, or a loss, or its type.

    Returns:
      The names of the axes, sorted; none where the device holds the whole.
    """
    own = frozenset().union(*map(varying, jax.tree.leaves(whole)))
    return tuple(tuple(sorted(varying(leaf) - own)) for leaf in jax.tree.leaves(tree))


def bound_axes() -> list[str]:
    """Returns the bound axes of the mesh that have several devices."""
    mesh = jax.sharding.get_abstract_mesh()
    return [name for name in mesh.manual_axes if mesh.shape[name] > 1]
