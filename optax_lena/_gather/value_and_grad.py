r"""Gatherer: the gradient of a large batch and its moments, from a loss function.

In: a loss, and a batch that splits into n microbatches. Out: the loss, its gradient
over the whole batch, and the `GradMoments` of the microbatches' gradients.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from optax_lena._checks import check_callable, check_choice, check_flag
from optax_lena._gather import axes, outputs, placement, shards, ways
from optax_lena._gather.arguments import (
    check_arrays,
    check_averaged,
    check_dense,
    check_further,
    check_key,
    check_some_examples,
)
from optax_lena._gather.axes import AxisName
from optax_lena._gather.call import Call, Options
from optax_lena._measure.layers import Layers, check_layers, per_parameter
from optax_lena._measure.metric import Metric, metric_of
from optax_lena._measure.moments import GradMoments, check_num_microbatches
from optax_lena._types import PyTree


def value_and_grad(
    loss_fn: Callable[..., Any],
    num_microbatches: int,
    *,
    has_aux: bool = False,
    aux: PyTree | None = None,
    axis_name: AxisName | None = None,
    spread: str | None = None,
    layers: Layers = per_parameter,
    param_specs: PyTree | None = None,
) -> "Gatherer":
    r"""Like `jax.value_and_grad` over a large batch, and returns the moments as well.

    The batch is cut into n microbatches, which a `lax.scan` goes through one after
    the other: one accumulated gradient is in memory, whatever n is.

    **Several devices.** Microbatches are spread in *space* (every device goes through
    its own n / devices of them, and one all-reduce sums all) or in *time* (every
    microbatch takes a share of every device's examples, so that each pass sees a batch
    that is sharded as the model expects, and is reduced by itself). Both estimate the
    same noise. Space is cheaper; time works with models that constrain the sharding of
    their activations over the batch's axis.

    **Microbatches of unequal weight.** Where a microbatch's loss is a mean over $m_i$
    tokens (or unpadded examples), pass `weights` $= m_i$. With $p_i = m_i / \sum_j m_j$
    the gradient is $\bar g = \sum_i p_i g_i$, the mean over all tokens. Let $\tau$ be
    the trace of the covariance of one token's gradient and $N = \sum_j m_j$. Then

    $$E \lVert \bar g \rVert^2 = \lVert\mu\rVert^2 + \tau / N, \qquad
      E \sum_i p_i \lVert g_i \rVert^2
        = \lVert\mu\rVert^2 + \sum_i \frac{m_i}{N} \frac{\tau}{m_i}
        = \lVert\mu\rVert^2 + n \tau / N$$

    so noise and signal follow from the two moments exactly as with equal weights.

    Args:
      loss_fn: `loss_fn(params, microbatch, *args, **kwargs) -> loss`, a mean over the
        microbatch; or `(loss, aux)` with `has_aux`. With `key`, it also gets a keyword
        `key`.
      num_microbatches: n, of the whole batch on all devices; at least 2.
      has_aux: whether `loss_fn` returns auxiliary data.
      aux: how they are combined: `"mean"`, `"sum"`, `"examples"` (joined along axis 0
        in the batch's order), `"stack"` (`(n, ...)`) or `"shape"`, for all or in a
        pytree that is a prefix of them. None: `"shape"` for all, so that their shapes
        decide. Data whose first axis grows with the batch are examples (logits),
        other floating-point data are averaged like the loss (BatchNorm statistics,
        accuracies), and any other data are stacked.
      axis_name: the mesh axis (or a tuple of axes) over which the batch is spread.
        Under `jax.jit` it is sharded over that axis; inside `shard_map` or `pmap`,
        `batch` is the device's own part and so are `weights` (`[n / devices]`) and
        joined or stacked auxiliary data. The norms ride in the gradient's all-reduce.
      spread: `"space"` or `"time"`. In time, microbatch i has the examples i, i + n,
        i + 2n, ... None: in space if `axis_name` is given and the model can be traced
        that way, else in time if the arrays lie on several devices.
      layers: which parameters stack several layers (`optax_lena.stacked`).
      param_specs: inside `shard_map` without `check_vma`, how the parameters are
        sharded over *other* axes (tensor parallelism): their `in_specs`; jax.P() where
        every device has a model of its own there.

    Returns:
      A function `f(params, batch, *args, weights=None, key=None, preconditioner=None,
      **kwargs)` that returns `(loss, grads, moments)`, or `((loss, aux), grads,
      moments)`. Data with one example per row are part of `batch`, a pytree. `args` and
      `kwargs` go to every call of `loss_fn` unchanged, except for typed PRNG keys
      (`jax.random.key`), which differ between microbatches. `weights`: `[n]`. `key`:
      a PRNG key, of which microbatch i gets `jax.random.fold_in(key, i)`.
      `preconditioner`: a pytree like the parameters, by which gradients are multiplied
      before their norms are taken, and only there (`optax_lena.adam_preconditioner`),
      or a `Metric` of your own. Loss, gradients and averaged data are weighted means,
      summed in float32 or wider, in their own dtypes.

    Raises:
      ValueError: if n < 2, or another option is invalid; when called, if the batch does
        not divide by n, or n by the number of devices, or no mesh has the axis, or
        `preconditioner` is not like the parameters, or a weight is negative or not
        finite, or `key` is no key, or an auxiliary output is unclear, or a further
        argument is an array with as many rows as the batch, or nothing differs between
        microbatches, neither examples nor keys;
        in `shard_map`, if a parameter is sharded over the axis, or all its devices have
        the same examples, or the loss is averaged over it already, or varies over an
        axis that is not named.
      TypeError: when called, if a parameter is an integer array, or the batch or
        auxiliary data hold anything but arrays.

    Example:
      >>> import jax.numpy as jnp, optax_lena
      >>> loss = lambda params, batch: jnp.mean((params["w"] - batch) ** 2) / 2
      >>> f = optax_lena.value_and_grad(loss, num_microbatches=2)
      >>> batch = jnp.array([1.0, 3.0, 5.0, 7.0])
      >>> value, grads, moments = f({"w": jnp.array(0.0)}, batch)
      >>> print(value, grads["w"])
      10.5 -4.0
      >>> print(moments.micro_sq_norm["w"], moments.batch_sq_norm["w"])
      20.0 16.0
    """
    call = "loss_fn(params, microbatch, *args, **kwargs)"
    check_callable("loss_fn", loss_fn, call)
    check_layers(layers)
    check_num_microbatches(num_microbatches)
    check_flag("has_aux", has_aux)
    outputs.check_kinds(aux, has_aux)
    shards.check_specs(param_specs)
    if axis_name is not None:
        axes.check_axis_name(axis_name)
    if spread is not None:
        check_choice("spread", spread, ways.SPREADS)
    if spread == ways.SPACE and axis_name is None:
        raise ValueError(
            "`axis_name` must name the axis that carries the batch with "
            "`spread='space'`, got None."
        )
    return Gatherer(
        loss_fn,
        int(num_microbatches),
        has_aux=has_aux,
        aux=aux,
        axis_name=axis_name,
        spread=spread,
        layers=layers,
        param_specs=param_specs,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Gatherer(Options):
    """What `value_and_grad` returns; its attributes are that function's arguments."""

    def __call__(
        self,
        params: PyTree,
        batch: PyTree,
        *args: Any,
        weights: jax.typing.ArrayLike | None = None,
        key: jax.Array | None = None,
        preconditioner: PyTree | Metric | None = None,
        **kwargs: Any,
    ) -> tuple[Any, PyTree, GradMoments]:
        """Returns the loss, its gradient over the whole batch, and the moments."""
        metric = metric_of(self.layers, preconditioner, params, "params")
        check_key(key)
        check_averaged(params)
        check_arrays("`batch`", batch)
        check_dense(batch)
        check_further(batch, args, kwargs)
        call = Call(self, params, batch, args, kwargs, weights, key, metric)
        if self.axis_name is not None and axes.is_bound(self.axis_name):
            return ways.over_bound_axis(call, self.axis_name)
        check_some_examples(batch, (args, kwargs, key))
        if self.param_specs is not None:
            of_whole = shards.metric_of_shards(metric, params, (), self.param_specs)
            call = dataclasses.replace(call, metric=of_whole)
        if self.spread == ways.TIME:
            return ways.in_time(call)
        if self.axis_name is not None:
            return ways.over_mesh_axis(call, self.axis_name)
        if placement.spans_devices((params, batch)):
            ways.check_no_weights(call, "the arrays lie on several devices")
            return ways.in_time(call)
        return ways.in_turn(call)
