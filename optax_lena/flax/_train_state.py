"""A linen `TrainState` that hands moments to the optimizer."""

import functools
from typing import Any, Self

import jax
import optax
from flax.linen.fp8_ops import OVERWRITE_WITH_GRADIENT
from flax.training import train_state

from optax_lena._measure.moments import GradMoments
from optax_lena._types import PyTree


class TrainState(train_state.TrainState):
    """`flax.training.train_state.TrainState` that hands moments to the optimizer.

    Example:
      >>> import jax, jax.numpy as jnp, flax.linen as nn, optax_lena, optax_lena.flax
      >>> model = nn.Dense(1)
      >>> x = jnp.arange(8.0).reshape(8, 1) / 8
      >>> state = optax_lena.flax.TrainState.create(
      ...     apply_fn=model.apply,
      ...     params=model.init(jax.random.key(0), x)["params"],
      ...     tx=optax_lena.lena(0.1, batch_scale=4),
      ... )
      >>> def loss_fn(params, x):
      ...     return jnp.mean((state.apply_fn({"params": params}, x) - 3 * x) ** 2)
      >>> gather = optax_lena.value_and_grad(loss_fn, num_microbatches=4)
      >>> loss, grads, moments = gather(state.params, x)
      >>> state = state.apply_gradients(grads=grads, moments=moments)
      >>> sorted(optax_lena.layer_report(state.opt_state))
      ['bias', 'kernel']
    """

    def apply_gradients(
        self,
        *,
        grads: PyTree,
        moments: GradMoments | None = None,
        value: jax.Array | None = None,
        weight: jax.typing.ArrayLike | None = None,
        **kwargs: Any,
    ) -> Self:
        """Makes one update of the parameters.

        Args:
          grads: the gradients, a pytree like the parameters.
          moments: their moments; None for optimizers that need none
            (`optax_lena.accumulate`).
          value: the loss of the whole batch, for optimizers that read it
            (`optax_lena.lena_amplified`); None: not given.
          weight: what the gradient is a mean over, such as a number of tokens, for
            `optax_lena.accumulate`; None: not given.
          **kwargs: other fields of the state to replace, such as batch statistics.

        Returns:
          The state with new `params`, `opt_state` and `step`.
        """
        if moments is not None and OVERWRITE_WITH_GRADIENT in grads:
            # The optimizer gets no more than these (fp8).
            micro, batch = (norms["params"] for norms in moments[:2])
            moments = moments._replace(micro_sq_norm=micro, batch_sq_norm=batch)
        given = {"moments": moments, "value": value, "weight": weight}
        given = {name: x for name, x in given.items() if x is not None}
        if not given:
            return super().apply_gradients(grads=grads, **kwargs)
        tx = optax.with_extra_args_support(self.tx)
        update = functools.partial(tx.update, **given)
        bound = optax.GradientTransformation(self.tx.init, update)
        state = super(TrainState, self.replace(tx=bound))
        return state.apply_gradients(grads=grads, **kwargs).replace(tx=self.tx)
