"""Dtypes: those in which sums are taken, and casts that keep the dtype of an array."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def accumulation_dtype(leaf: Any) -> Any:
    """Returns the dtype in which sums over `leaf` are taken: float32 or wider."""
    dtype = jnp.result_type(leaf)
    if jnp.issubdtype(dtype, jnp.inexact):  # JAX does not promote float8
        return dtype if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)
    return jnp.promote_types(dtype, jnp.float32)


def is_kind(dtype: Any, *kinds: Any) -> bool:
    """Says whether a dtype is of one of these kinds; one of another library is not."""
    try:
        return any(jnp.issubdtype(dtype, kind) for kind in kinds)
    except TypeError:  # such as torch.float32
        return False


def is_key(x: Any) -> bool:
    """Says whether `x` is a typed PRNG key, or an array of them."""
    dtype = getattr(x, "dtype", None)
    return dtype is not None and is_kind(dtype, jax.dtypes.prng_key)


def weight_dtype() -> Any:
    """Returns the dtype of weights and other factors: float32, or float64 with x64."""
    return jnp.result_type(float)


def cast_like(tree: Any, like: Any) -> Any:
    """Returns arrays in the dtypes of others, in a pytree of the same structure."""
    return jax.tree.map(lambda x, other: x.astype(jnp.result_type(other)), tree, like)


def without_dtype(number: ArrayLike, like: jax.Array) -> jax.Array:
    """Converts a real number so that its product with `like` keeps that dtype."""
    return jnp.asarray(number, jnp.finfo(like.dtype).dtype)


def multiply(number: ArrayLike, array: ArrayLike) -> jax.Array:
    """Returns a real number times an array, in the array's dtype, also if complex."""
    array = jnp.asarray(array)
    number = without_dtype(number, array)
    with jax.numpy_dtype_promotion("standard"):
        return number * array


def add(one: jax.Array, other: jax.Array) -> jax.Array:
    """Returns the sum in the wider dtype, also under strict dtype promotion."""
    with jax.numpy_dtype_promotion("standard"):
        return one + other
