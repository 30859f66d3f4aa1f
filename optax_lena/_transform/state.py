"""The optax state: what a `LayerRate` remembers, with the names of its rows.

Rows must stay with their layers. Names are part of the pytree's structure, so reports
work under `jit`; and every row carries a digest of its name as data, so that rows
follow their layers through any checkpoint, also one that restores by position
(`rows.py`).
"""

from collections import namedtuple
from collections.abc import Iterable
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import GetAttrKey

from optax_lena._parts.clocks import Clocks, Count
from optax_lena._parts.state import Applied, LayerRateState
from optax_lena._transform.names import NamesInStructure, SavedNames, array_of_ids

# The class below declares their types.
_Leaves: Any = namedtuple("_Leaves", [*LayerRateState._fields, "row_ids"])


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


def _flatten(state: ScaleByLenaState) -> tuple[tuple[Any, ...], NamesInStructure]:
    return tuple(state), NamesInStructure(state.layer_names())


def _flatten_with_keys(state: ScaleByLenaState) -> tuple[Any, NamesInStructure]:
    keys = map(GetAttrKey, _Leaves._fields)
    return tuple(zip(keys, state, strict=True)), NamesInStructure(state.layer_names())


def _unflatten(names: NamesInStructure, leaves: Any) -> ScaleByLenaState:
    return ScaleByLenaState(*leaves, names=names.names)


jax.tree_util.register_pytree_with_keys(
    ScaleByLenaState, _flatten_with_keys, _unflatten, _flatten
)


def named(rows: LayerRateState, names: tuple[str, ...]) -> ScaleByLenaState:
    """Returns the state whose rows belong to layers of these names, in float32."""
    rows = jax.tree.map(_to_float32, rows)
    return ScaleByLenaState(*rows, row_ids=array_of_ids(names), names=names)


def _to_float32(x: jax.Array) -> jax.Array:
    # Also under jax_enable_x64, and whatever hyperparameters were injected. A copy: JAX
    # would donate twice what two fields share outside of jit, or what the user holds.
    return jnp.array(x, jnp.float32 if jnp.issubdtype(x.dtype, jnp.floating) else None)
