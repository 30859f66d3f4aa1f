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
