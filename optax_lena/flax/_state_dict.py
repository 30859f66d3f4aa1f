"""State dicts of flax, in which the names of a state's layers are an array.

Inside a state they are no leaf, and orbax, to which loops give the state dict, saves
only leaves: it would note that there is something, and not restore it.
"""

from typing import Any

import numpy as np
from flax import serialization

from optax_lena._transform.names import NamesAsData, SavedNames


def register() -> None:
    """Registers with flax what the names are in a state dict."""
    serialization.register_serialization_state(
        SavedNames, _to_array, _from_array, override=True
    )


def _to_array(names: SavedNames) -> np.ndarray:
    return names.view(NamesAsData)


def _from_array(names: SavedNames, saved: Any) -> np.ndarray:
    del names
    return np.asarray(saved, np.uint8)
