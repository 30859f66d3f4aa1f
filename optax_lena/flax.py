"""Flax: what linen and nnx need to hand moments to the optimizer.

linen's `TrainState.apply_gradients` never passes keyword arguments on to the optimizer,
so it needs a subclass. `nnx.Optimizer.update(model, grads, moments=moments)` does; for
nnx this module differentiates a loss of a *model*.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optax_lena._gather.axes import AxisName
from optax_lena._gather.value_and_grad import value_and_grad as _value_and_grad
from optax_lena._measure.layers import Layers, per_parameter
from optax_lena._measure.layout import PyTree
from optax_lena._measure.moments import GradMoments

try:
    from flax import nnx
    from flax.training import train_state
except ImportError as error:
    raise ImportError(
        "optax_lena.flax needs flax, which is not installed: pip install "
        "'optax_lena[flax]'."
    ) from error


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
        self, *, grads: PyTree, moments: GradMoments | None = None, **kwargs: Any
    ) -> "TrainState":
        """Makes one update of the parameters.

        Args:
          grads: the gradients, a pytree like the parameters.
          moments: their moments; None for optimizers that need none
            (`optax_lena.accumulate`).
          **kwargs: other fields of the state to replace, such as batch statistics.

        Returns:
          The state with new `params`, `opt_state` and `step`.
        """
        if moments is None:
            return super().apply_gradients(grads=grads, **kwargs)
        tx = optax.with_extra_args_support(self.tx)
        update = functools.partial(tx.update, moments=moments)
        bound = optax.GradientTransformation(self.tx.init, update)
        state = super(TrainState, self.replace(tx=bound))
        return state.apply_gradients(grads=grads, **kwargs).replace(tx=self.tx)


def value_and_grad(
    loss_fn: Callable[..., Any],
    num_microbatches: int,
    *,
    wrt: Any = nnx.Param,
    has_aux: bool = False,
    axis_name: AxisName | None = None,
    layers: Layers = per_parameter,
) -> Callable[..., tuple[Any, Any, GradMoments]]:
    """`optax_lena.value_and_grad` for losses of an `nnx.Module`.

    What the loss changes in the model (BatchNorm statistics) is averaged over the
    microbatches and written back to the model, as data parallelism would. Every
    microbatch draws its own numbers from the model's `nnx.Rngs` (dropout), whose
    counters go on as after one call.

    Args:
      loss_fn: `loss_fn(model, microbatch, *args) -> loss`, or `(loss, aux)`.
      num_microbatches: n; see `optax_lena.value_and_grad`.
      wrt: the filter that selects the parameters, as in `nnx.Optimizer`.
      has_aux: whether `loss_fn` returns auxiliary data.
      axis_name: the mesh axis that carries the batch; see
        `optax_lena.value_and_grad`.
      layers: which parameters stack several layers (`optax_lena.stacked`).

    Returns:
      A function `f(model, batch, *args, weights=None, preconditioner=None)` that
      returns `(loss, grads, moments)` or `((loss, aux), grads, moments)`, to be passed
      on as `optimizer.update(model, grads, moments=moments)`. For Adam,
      `preconditioner` is `optax_lena.adam_preconditioner(optimizer.opt_state,
      nnx.state(model, wrt))`.

    Example:
      >>> import jax.numpy as jnp, optax_lena, optax_lena.flax
      >>> from flax import nnx
      >>> model = nnx.Linear(1, 1, rngs=nnx.Rngs(0))
      >>> optimizer = nnx.Optimizer(model, optax_lena.lena(0.1, 4), wrt=nnx.Param)
      >>> gather = optax_lena.flax.value_and_grad(
      ...     lambda model, x: jnp.mean((model(x) - 3 * x) ** 2), num_microbatches=4
      ... )
      >>> x = jnp.arange(8.0).reshape(8, 1) / 8
      >>> loss, grads, moments = gather(model, x)
      >>> updates = optimizer.update(model, grads, moments=moments)
      >>> sorted(optax_lena.layer_report(optimizer.opt_state))
      ['bias', 'kernel']
    """

    def gather(
        model: Any,
        batch: PyTree,
        *args: Any,
        weights: jax.typing.ArrayLike | None = None,
        preconditioner: PyTree | None = None,
    ) -> tuple[Any, Any, GradMoments]:
        graphdef, params, rngs, rest = nnx.split(model, wrt, nnx.RngState, ...)

        def pure_loss(
            params: Any, microbatch: PyTree, rest: Any, *args: Any, key: jax.Array
        ) -> tuple[jax.Array, Any]:
            own_rngs = _fold_in(rngs, key)
            # A copy: nnx does not let the loss mutate variables of an outer trace.
            local = nnx.merge(graphdef, params, own_rngs, rest, copy=True)
            out = loss_fn(local, microbatch, *args)
            loss, aux = out if has_aux else (out, None)
            _, _, new_rngs, new_rest = nnx.split(local, wrt, nnx.RngState, ...)
            counts = nnx.filter_state(new_rngs, nnx.RngCount)
            return loss, (aux, new_rest, counts)

        (loss, (aux, new_rest, counts)), grads, moments = _value_and_grad(
            pure_loss,
            num_microbatches,
            has_aux=True,
            axis_name=axis_name,
            layers=layers,
        )(
            params,
            batch,
            rest,
            *args,
            weights=weights,
            key=jax.random.key(0),
            preconditioner=preconditioner,
        )
        # Every microbatch draws as often, so that their counters are equal.
        nnx.update(model, new_rest, jax.tree.map(lambda count: count.max(0), counts))
        return (loss, aux) if has_aux else loss, grads, moments

    return gather


def _fold_in(rngs: Any, key: jax.Array) -> Any:
    """Makes a microbatch's keys of the model's; `key` differs by microbatch."""
    number = jax.random.bits(key)

    def fold(leaf: jax.Array) -> jax.Array:
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return jax.random.fold_in(leaf, number) if is_key else leaf

    return jax.tree.map(fold, rngs)
