"""Gatherer: every device's own gradient in, the mean and its moments out."""

import jax
import jax.numpy as jnp

from optax_lena._gather import axes, shards
from optax_lena._gather.axes import AxisName
from optax_lena._measure.layers import Layers, per_parameter
from optax_lena._measure.metric import Metric, metric_of
from optax_lena._measure.moments import (
    GradMoments,
    check_num_microbatches,
    check_weights,
)
from optax_lena._measure.sums import divide, mean_and_moments, pack, weigh
from optax_lena._types import PyTree


def moments_over_axis(
    grads: PyTree,
    axis_name: AxisName,
    *,
    weight: jax.typing.ArrayLike | None = None,
    layers: Layers = per_parameter,
    preconditioner: PyTree | Metric | None = None,
    param_specs: PyTree | None = None,
) -> tuple[PyTree, GradMoments]:
    r"""Averages every device's own gradients and returns the moments that LENA needs.

    For `shard_map` and `pmap`: one microbatch per device. It is `jax.lax.pmean` with
    the norms in the same all-reduce.

    $$\bar g = \frac1n \sum_{i \in \text{axis}} g_i, \qquad
      \text{micro\_sq\_norm} = \frac1n \sum_{i \in \text{axis}} \lVert g_i \rVert^2$$

    .. warning::
      The gradients must be local. Inside `jax.shard_map`, `jax.grad` with respect to
      replicated parameters returns gradients that are summed over the axis already;
      that is an error here. With `check_vma=False` and in `pmap` JAX's types do not
      show it: if you averaged first, every layer reports a gain of exactly 1. With
      `optax_lena.value_and_grad(loss_fn, n, axis_name=...)` this cannot happen.

    Args:
      grads: the gradients of this device's microbatch.
      axis_name: the axis, or a tuple of axes, over which the batch is spread.
      weight: `()`, what this device's mean was taken over (tokens, unpadded examples);
        None for equal weights. See `optax_lena.value_and_grad`.
      layers: which parameters stack several layers (`optax_lena.stacked`).
      preconditioner: a pytree like `grads`, the same on every device, by which every
        gradient is multiplied before its norm is taken
        (`optax_lena.adam_preconditioner`), or a `Metric`; None: their own norms.
      param_specs: how the parameters are sharded over *other* axes of the `shard_map`
        (tensor parallelism): the `PartitionSpec`s of its `in_specs`, a prefix of
        `grads`. With `check_vma`, the default, JAX's types say it, and None is right.
        jax.P(): the devices there hold different models, and no shards.

    Returns:
      The mean gradients, in the dtype of `grads`, and their `GradMoments`; both are
      the same on every device.

    Raises:
      ValueError: if the axis is not bound here, or there is one device only, or a
        gradient is not local, or a weight is negative or not finite, or
        `preconditioner` is not like `grads`, or nothing says how parameters are sharded
        over another axis.
      TypeError: if a gradient is an integer array.

    Example:
      >>> import jax, jax.numpy as jnp, optax_lena
      >>> def step(grad):
      ...     return optax_lena.moments_over_axis({"w": grad}, "batch")
      >>> grads, moments = jax.vmap(step, axis_name="batch", out_axes=None)(
      ...     jnp.array([3.0, 5.0])
      ... )
      >>> print(grads["w"], moments.micro_sq_norm["w"], moments.batch_sq_norm["w"])
      4.0 17.0 16.0
    """
    axes.check_axis_name(axis_name)
    shards.check_specs(param_specs)
    if not axes.is_bound(axis_name):
        raise ValueError(
            f"`axis_name` must name an axis that is bound here, got {axis_name!r}: "
            "call it inside jax.shard_map, jax.pmap, or a jax.vmap with that name."
        )
    count = jax.lax.axis_size(axis_name)
    check_num_microbatches(count, f"the devices on axis {axis_name!r}")
    axes.check_local(grads, axis_name)
    own = check_weights(weight, (), equal=1 / count, name="weight")
    metric = metric_of(layers, preconditioner, grads)
    metric = shards.metric_of_shards(metric, grads, axis_name, param_specs)
    norms = pack(metric.sq_norms(grads))
    weighed = jax.tree.map(lambda x: weigh(own, x), (grads, norms))
    if weight is None:
        mean, micro = jax.lax.psum(weighed, axis_name)
        return mean_and_moments(mean, micro, count, metric, grads)
    counted = (own != 0).astype(jnp.int32)
    sums, total, count = jax.lax.psum((weighed, own, counted), axis_name)
    mean, micro = divide(sums, total)
    return mean_and_moments(mean, micro, count, metric, grads)
