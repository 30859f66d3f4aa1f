"""Rows follow their names: wherever a checkpoint has put them, and in whatever order.

In: a state, and the names of the layers to update. Out: what the `LayerRate` remembers,
in rows for these names.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from optax_lena._eager import choose, is_known
from optax_lena._parts.layer_rate import LayerRate
from optax_lena._parts.state import LayerRateState
from optax_lena._transform.names import array_of_ids, row_ids
from optax_lena._transform.state import ScaleByLenaState
from optax_lena._types import vary_like


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
    # Of the state's type before the branches: `jax.vmap` turns these into a selection,
    # within which what comes from outside cannot begin to vary.
    wanted = vary_like(array_of_ids(names), state.row_ids)

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
