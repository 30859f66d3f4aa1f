"""The names of layers in a state: as structure, as bytes to save, and as digests.

In: names. Out: what keeps a row with its layer. Reports under `jax.jit` read the names
from the pytree's structure, a state dict has them as bytes, and a checkpoint that
restores arrays by position still has a digest of every row's name.
"""

import functools
import hashlib
from collections.abc import Iterable
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np


class NamesAsData(np.ndarray):
    """The layers' names in a state dict: as bytes, each with a zero behind it."""

    def __call__(self, x: Any) -> Any:
        """Returns its argument.

        Loops with one function for each leaf (EasyLM's checkpointer) walk through state
        and functions as flax does, and find the names where a function should be.
        """
        return x


class SavedNames(NamesAsData):
    """The layers' names inside a state.

    `optax.tree.set` and flax walk through the `_fields` of a named tuple themselves. To
    optax, strings would be leaves. Flax saves an array but no type of our own, and puts
    what it loaded in its place, even if a model has other names.
    """

    def __new__(cls, names: Iterable[str]) -> Self:
        """Encodes the names."""
        return np.frombuffer(_encode(tuple(names)), np.uint8).view(cls)

    def read(self) -> tuple[str, ...]:
        """Decodes the names."""
        return _decode(self.tobytes())


# Cached: JAX flattens and unflattens a state at every call of a compiled function.
@functools.lru_cache
def _encode(names: tuple[str, ...]) -> bytes:
    return "".join(f"{name}\0" for name in names).encode()


@functools.lru_cache
def _decode(names: bytes) -> tuple[str, ...]:
    return tuple(names.decode().split("\0")[:-1])


# No leaf: to JAX the names are structure.
jax.tree_util.register_pytree_node(
    SavedNames,
    lambda names: ((), names.tobytes()),
    lambda names, _: np.frombuffer(names, np.uint8).view(SavedNames),
)


class NamesInStructure:
    """The names inside a pytree's structure: unknown until compared with known ones.

    `optax.tree.map_params` initialises with a placeholder for the parameters, and maps
    the state that it gets over a real one. The result has the placeholder's structure;
    as the two are compared, the placeholder's names become the real ones.
    """

    def __init__(self, names: tuple[str, ...]):
        self.names = names

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NamesInStructure):
            return NotImplemented
        self.names = self.names or other.names
        other.names = other.names or self.names
        return self.names == other.names

    def __hash__(self) -> int:
        return hash(self.names)

    def __repr__(self) -> str:
        return f"<names of {len(self.names)} layers>"


def row_ids(names: tuple[str, ...]) -> np.ndarray:
    """Returns a 64-bit digest of every name, uint32 `[2 * layers]`."""
    digests = [hashlib.blake2b(n.encode(), digest_size=8).digest() for n in names]
    return np.frombuffer(b"".join(digests), np.uint32)


def array_of_ids(names: tuple[str, ...]) -> jax.Array:
    """Returns the same as an array for the mesh and the program that it is used in."""
    # In jax 0.8 an array made from a NumPy array has no mesh; a sum has the current
    # one. And under `jax.vmap` over an explicit mesh axis a NumPy constant cannot stand
    # in the branch of a condition.
    return jnp.zeros(2 * len(names), jnp.uint32) + row_ids(names)
