"""The optax state: what a `LayerRate` remembers, with the names of its rows.

Rows must stay with their layers. Names are part of the pytree's structure, so reports
work under `jit`; and every row carries a digest of its name as data, so that rows
follow their layers through any checkpoint, also one that restores by position.
"""

import functools
import hashlib
from collections import namedtuple
from collections.abc import Iterable
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import GetAttrKey

from optax_lena._eager import choose, is_known
from optax_lena._parts.clocks import Clocks, Count
from optax_lena._parts.layer_rate import LayerRate
from optax_lena._parts.state import Applied, LayerRateState

# The class below declares their types.
_Leaves: Any = namedtuple("_Leaves", [*LayerRateState._fields, "row_ids"])


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


class ScaleByLenaState(_Leaves):
    """State of `scale_by_lena`: a few numbers per layer.

    A named tuple of arrays, and beside it the layers' names, which are structure: no
    leaf for JAX, nor for programs that walk through tuples themselves. Vectors have a
    row for each layer and, last, one for the whole model.

    Attributes:
      averages: the estimator's state: noise, signal and their weight, `[rows]` each.
      loss_limit: the loss limit's state; `()` without one.
      guard: the guard's state; `()` without one.
      progress: `[rows]`, warm-up progress in base-batch steps.
      warmup_end: float32 `[rows]`, the base-batch step at which it ended; -1 before.
      clocks: exact sums of steps: `base_steps`, `gain_steps` and `rate_steps`, each a
        `Count` that `read()` turns into one number.
      applied: what the last update did.
      row_ids: uint32 `[2 * layers]`, two for each layer: a digest of its name.
      names: the layers' names, as they are saved; `layer_names` reads them.
    """

    averages: Any
    loss_limit: Any
    guard: Any
    progress: Count
    warmup_end: jax.Array
    clocks: Clocks
    applied: Applied
    row_ids: jax.Array
    names: SavedNames
    _fields = (*_Leaves._fields, "names")

    def __new__(
        cls,
        averages: Any,
        loss_limit: Any,
        guard: Any,
        progress: Count,
        warmup_end: jax.Array,
        clocks: Clocks,
        applied: Applied,
        row_ids: jax.Array,
        names: tuple[str, ...] | np.ndarray = (),
    ) -> Self:
        """Makes the state from its fields."""
        rows = averages, loss_limit, guard, progress, warmup_end, clocks, applied
        state = super().__new__(cls, *rows, row_ids)
        is_saved = isinstance(names, np.ndarray)
        state.names = names.view(SavedNames) if is_saved else SavedNames(names)
        return state

    @classmethod
    def _make(cls, iterable: Iterable[Any]) -> Self:
        """Makes the state from its arrays, with the names behind them or without."""
        return cls(*iterable)

    def _asdict(self) -> dict[str, Any]:
        """Returns the fields by name."""
        return {name: getattr(self, name) for name in self._fields}

    def _replace(self, **kwargs: Any) -> Self:
        """Returns a state with other fields."""
        return type(self)(**self._asdict() | kwargs)

    def layer_names(self) -> tuple[str, ...]:
        """Returns the layers' names, in the order of the rows."""
        return self.names.read()

    def rows(self) -> LayerRateState:
        """Returns the state without names."""
        return LayerRateState(
            **{name: getattr(self, name) for name in LayerRateState._fields}
        )


class _Names:
    """The names inside a pytree's structure: unknown until compared with known ones.

    `optax.tree.map_params` initialises with a placeholder for the parameters, and maps
    the state that it gets over a real one. The result has the placeholder's structure;
    as the two are compared, the placeholder's names become the real ones.
    """

    def __init__(self, names: tuple[str, ...]):
        self.names = names

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Names):
            return NotImplemented
        self.names = self.names or other.names
        other.names = other.names or self.names
        return self.names == other.names

    def __hash__(self) -> int:
        return hash(self.names)

    def __repr__(self) -> str:
        return f"<names of {len(self.names)} layers>"


def _flatten(state: ScaleByLenaState) -> tuple[tuple[Any, ...], _Names]:
    return tuple(state), _Names(state.layer_names())


def _flatten_with_keys(state: ScaleByLenaState) -> tuple[Any, _Names]:
    keys = map(GetAttrKey, _Leaves._fields)
    return tuple(zip(keys, state, strict=True)), _Names(state.layer_names())


def _unflatten(names: _Names, leaves: Any) -> ScaleByLenaState:
    return ScaleByLenaState(*leaves, names=names.names)


jax.tree_util.register_pytree_with_keys(
    ScaleByLenaState, _flatten_with_keys, _unflatten, _flatten
)


def named(rows: LayerRateState, names: tuple[str, ...]) -> ScaleByLenaState:
    """Returns the state whose rows belong to layers of these names, in float32."""
    rows = jax.tree.map(_to_float32, rows)
    return ScaleByLenaState(*rows, row_ids=_array_of_ids(names), names=names)


def _to_float32(x: jax.Array) -> jax.Array:
    # Also under jax_enable_x64, and whatever hyperparameters were injected. A copy: JAX
    # would donate twice what two fields share outside of jit, or what the user holds.
    return jnp.array(x, jnp.float32 if jnp.issubdtype(x.dtype, jnp.floating) else None)


def row_ids(names: tuple[str, ...]) -> np.ndarray:
    """Returns a 64-bit digest of every name, uint32 `[2 * layers]`."""
    digests = [hashlib.blake2b(n.encode(), digest_size=8).digest() for n in names]
    return np.frombuffer(b"".join(digests), np.uint32)


def _array_of_ids(names: tuple[str, ...]) -> jax.Array:
    # In jax 0.8 an array made from a NumPy array has no mesh; a sum has the current
    # one. And under `jax.vmap` over an explicit mesh axis a NumPy constant cannot stand
    # in the branch of a condition.
    return jnp.zeros(2 * len(names), jnp.uint32) + row_ids(names)


def follow_names(
    rate: LayerRate, state: ScaleByLenaState, names: tuple[str, ...]
) -> LayerRateState:
    """Returns the rows in the order of `names`, wherever a checkpoint has put them.

    A layer whose name the state does not know starts afresh.

    Args:
      rate: initialises such rows.
      state: the state before the update.
      names: the names of the layers to update.

    Returns:
      What the rate remembers, in rows for `names` and, last, the whole model.

    Raises:
      ValueError: if the state has other layers, or its vectors another length.
    """
    check_names(state, names)
    if not names:
        return state.rows()
    wanted = _array_of_ids(names)

    def reorder(rows: LayerRateState) -> LayerRateState:
        place = _places(wanted, state.row_ids)
        place = jnp.pad(place, (0, 1), constant_values=len(names))

        def pick(old: jax.Array, new: jax.Array) -> jax.Array:
            if old.shape[:1] != (len(names) + 1,):
                return old
            known = jnp.reshape(place >= 0, (-1, *(1,) * (old.ndim - 1)))
            return jnp.where(known, old[place], new.astype(old.dtype))

        return jax.tree.map(pick, rows, rate.init(len(names) + 1))

    is_in_place = jnp.all(state.row_ids == wanted)
    return choose(is_in_place, lambda rows: rows, reorder, state.rows())


def _places(wanted: jax.Array, given: jax.Array) -> jax.Array:
    """Returns where each wanted digest stands among the given; -1 where it does not.

    Both are sorted together, so that a wanted one follows its like: a table of all
    pairs would take a gigabyte for the rows of a large mixture of experts.
    """
    digests = jnp.concatenate([given, wanted]).reshape(-1, 2)
    count, entries = len(given) // 2, jnp.arange(len(digests))
    is_wanted = entries >= count
    first, second, is_wanted, entries = jax.lax.sort(
        (digests[:, 0], digests[:, 1], is_wanted, entries), num_keys=3
    )
    before = functools.partial(jnp.roll, shift=1)
    is_match = (first == before(first)) & (second == before(second)) & is_wanted
    # What is not wanted has no row, and what is out of bounds is dropped.
    row = jnp.where(is_wanted, entries - count, len(wanted))
    place = jnp.where(is_match, before(entries), -1)
    return jnp.full(len(wanted) // 2, -1).at[row].set(place, mode="drop")


def check_names(state: ScaleByLenaState, names: tuple[str, ...]) -> None:
    """Raises a `ValueError` unless the state was made for these layers."""
    known = state.layer_names()
    differing = sorted(set(names) ^ set(known))
    if known and differing:
        raise ValueError(
            "`state` was made for other layers than `updates` has; they differ in "
            f"{differing[:4]}. Call `init` on the parameters that you train, or "
            "restore a checkpoint of them. To go on in mid-run, keep the clocks: "
            "optax.tree.set(tx.init(params), clocks=optax.tree.get(state, 'clocks'))."
        )
    shape = jnp.shape(state.progress.whole)
    if shape != (len(names) + 1,):
        raise ValueError(
            f"`state` must have vectors of length {len(names) + 1}, for the layers "
            f"{list(names[:4])} and the whole model, got shape {shape}: it was "
            "restored from another model's checkpoint, or is a stack of states (take "
            "one, or map the update over them with jax.vmap)."
        )


def follows(state: ScaleByLenaState) -> bool:
    """Says whether the rows stand in the order of the names; true where not known."""
    names = state.layer_names()
    if not names or not is_known(state.row_ids) or state.row_ids.ndim != 1:
        return True
    return np.array_equal(np.asarray(state.row_ids), row_ids(names))
