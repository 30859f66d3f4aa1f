"""The gatherer for losses of an nnx model."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from optax_lena._checks import check_flag
from optax_lena._gather import outputs
from optax_lena._gather.arguments import check_further, check_some_examples
from optax_lena._gather.axes import AxisName, is_bound
from optax_lena._gather.value_and_grad import value_and_grad as _value_and_grad
from optax_lena._measure.layers import Layers, per_parameter
from optax_lena._measure.moments import GradMoments
from optax_lena._types import PyTree
from optax_lena.flax._pure_loss import PureLoss


def value_and_grad(
    loss_fn: Callable[..., Any],
    num_microbatches: int,
    *,
    wrt: Any = nnx.Param,
    has_aux: bool = False,
    aux: PyTree | None = None,
    axis_name: AxisName | None = None,
    spread: str | None = None,
    layers: Layers = per_parameter,
    param_specs: PyTree | None = None,
) -> Callable[..., tuple[Any, Any, GradMoments]]:
    """`optax_lena.value_and_grad` for losses of an `nnx.Module`.

    Variables outside `wrt` that the loss does not change stay as they are, bit for bit,
    and are not summed. What it changes in the same way in every microbatch (counters)
    is changed once. What depends on the examples is averaged over the microbatches
    (BatchNorm statistics), as in data parallelism, or joined along axis 0
    (intermediates of every example).

    Every microbatch draws its own numbers from the `nnx.Rngs` of the model and of the
    arguments (dropout), whose counters advance as after one call.

    Args:
      loss_fn: `loss_fn(model, microbatch, *args, **kwargs) -> loss`, or `(loss, aux)`.
        Arguments may hold modules and `nnx.Rngs`.
      num_microbatches: n, of the whole batch on all devices; at least 2.
      wrt: the filter that selects the parameters, as in `nnx.Optimizer`.
      has_aux: whether `loss_fn` returns auxiliary data.
      aux: how they are combined, as in `optax_lena.value_and_grad`.
      axis_name: the mesh axis that carries the batch, likewise.
      spread: how devices share microbatches, likewise.
      layers: which parameters stack several layers (`optax_lena.stacked`).
      param_specs: how parameters are sharded inside `shard_map`, likewise.

    Returns:
      A function `f(model, batch, *args, weights=None, key=None, preconditioner=None,
      **kwargs)` that returns `(loss, grads, moments)` or `((loss, aux), grads,
      moments)`, to be passed on as `optimizer.update(model, grads, moments=moments)`.
      With `key`, the loss gets a keyword `key`, one for each microbatch. For Adam,
      `preconditioner` is `optax_lena.adam_preconditioner(optimizer.opt_state,
      nnx.state(model, wrt))`.

    Raises:
      ValueError: as in `optax_lena.value_and_grad`; when called, if the loss changes a
        variable in a way that cannot be put together from several microbatches.

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
    check_flag("has_aux", has_aux)
    outputs.check_kinds(aux, has_aux)
    # One gatherer: its options are checked before it is called.
    gatherer = _value_and_grad(
        loss_fn,
        num_microbatches,
        has_aux=True,
        aux=(outputs.SHAPE if aux is None else aux, outputs.SHAPE),
        axis_name=axis_name,
        spread=spread,
        layers=layers,
        param_specs=param_specs,
    )

    def gather(
        model: Any,
        batch: PyTree,
        *args: Any,
        weights: jax.typing.ArrayLike | None = None,
        key: jax.Array | None = None,
        preconditioner: PyTree | None = None,
        **kwargs: Any,
    ) -> tuple[Any, Any, GradMoments]:
        check_further(batch, args, kwargs)
        loss = PureLoss(loss_fn, has_aux, wrt, model, args, kwargs, key is not None)
        own = _own(num_microbatches, axis_name)
        if own == num_microbatches:
            check_some_examples(batch, (args, kwargs, key, *loss.random_states()))
        same = loss.same_in_every_microbatch(batch, own)
        pure = functools.partial(loss, changing=same.changing())
        key = jax.random.key(0) if key is None else key
        given = {"weights": weights, "key": key, "preconditioner": preconditioner}
        f = dataclasses.replace(gatherer, loss_fn=pure)
        (value, (aux, changed)), grads, moments = f(loss.params, batch, **given)
        loss.write(same, changed)
        return (value, aux) if has_aux else value, grads, moments

    return gather


def _own(num_microbatches: int, axis_name: AxisName | None) -> int:
    """Returns how many microbatches are on this device."""
    is_mapped = axis_name is not None and is_bound(axis_name)
    devices = jax.lax.axis_size(axis_name) if is_mapped else 1
    return num_microbatches // devices
