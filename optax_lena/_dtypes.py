"""Dtypes: in which sums are taken, and numbers that leave an array's own as it is."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def accumulation_dtype(leaf: Any) -> Any:
    """Returns the dtype in which sums over `leaf` are taken: float32 or wider."""
    dtype = jnp.result_type(leaf)
    if jnp.issubdtype(dtype, jnp.inexact):  # float8 promotes to nothing
        return dtype if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)
    return jnp.promote_types(dtype, jnp.float32)


def weight_dtype() -> Any:
    """Returns the dtype of weights and of their sums: float32, or float64 with x64."""
    return jnp.result_type(float)


def cast_like(tree: Any, like: Any) -> Any:
    """Returns arrays in the dtypes of others, in a pytree of the same structure."""
    return jax.tree.map(lambda x, other: x.astype(jnp.result_type(other)), tree, like)


def without_dtype(number: ArrayLike, like: jax.Array) -> jax.Array:
    """Returns a real number without a say in the dtype of its product with `like`."""
    return jnp.asarray(number, jnp.finfo(like.dtype).dtype)


def add(one: jax.Array, other: jax.Array) -> jax.Array:
    """Returns the sum in the wider dtype, also where JAX promotes none by itself."""
    with jax.numpy_dtype_promotion("standard"):
        return one + other
