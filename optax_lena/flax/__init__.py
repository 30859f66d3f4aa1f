"""Flax: what linen and nnx need to hand moments to the optimizer.

linen's `TrainState.apply_gradients` never passes keyword arguments on to the optimizer,
so it needs a subclass. `nnx.Optimizer.update(model, grads, moments=moments)` does; for
nnx this module differentiates a loss of a *model*. It also registers with flax how the
names of a state's layers are saved.
"""

import importlib.util

if importlib.util.find_spec("flax") is None:
    raise ImportError(
        "optax_lena.flax needs flax, which is not installed: pip install "
        "'optax_lena[flax]'."
    )

from optax_lena.flax import _state_dict
from optax_lena.flax._train_state import TrainState as TrainState
from optax_lena.flax._value_and_grad import value_and_grad as value_and_grad

_state_dict.register()
