r"""Sums over microbatches: gradients and their squared norms, one after the other.

In: the gradient of each microbatch, and its weight. Out: the mean gradient and its
`GradMoments`. Every gatherer is built on these sums; a loop that has its own scan can
use them through `IncrementalMoments`.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optax_lena._checks import check_is
from optax_lena._dtypes import (
    accumulation_dtype,
    cast_like,
    multiply,
    weight_dtype,
)
from optax_lena._measure.layers import Layers, check_layers, per_parameter
from optax_lena._measure.layout import layout_of
from optax_lena._measure.metric import Metric, ShardedMetric, metric_of
from optax_lena._measure.moments import (
    GradMoments,
    PreconditionedMoments,
    align_norms,
    check_count,
    check_moments,
    check_weights,
    moments_in,
)
from optax_lena._measure.parameters import leaves_by_name
from optax_lena._types import PyTree, eval_types, vary_like, zeros_of


class MomentSums(NamedTuple):
    """Weighted sums over the microbatches so far, which can be added up further.

    Attributes:
      grads: the sums of the gradients, a pytree like them in float32 or wider.
      micro_sq_norm: the sums of their squared norms, one vector for all parameters (and
        slices of stacked ones), in float32 or wider.
      weight: `()`, the sum of the weights, in float32, or in float64 with x64.
      num_microbatches: `()` int32, how many have a weight.
    """

    grads: PyTree
    micro_sq_norm: jax.Array
    weight: jax.Array
    num_microbatches: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class IncrementalMoments:
    """Moments for loops that have their own scan over microbatches.

    One gradient is in memory. The sums are a plain pytree: they go through `lax.scan`,
    `jax.lax.psum` over the devices, `jax.tree.map(jnp.add, ...)` and checkpoints.

    Attributes:
      layers: which parameters stack several layers (`optax_lena.stacked`).
      preconditioner: what gradients are multiplied by before their norms are taken
        (`optax_lena.adam_preconditioner`), or a `Metric`; None: nothing.

    Example:
      >>> import jax, jax.numpy as jnp, optax_lena
      >>> incremental = optax_lena.IncrementalMoments()
      >>> def body(sums, grad):
      ...     return incremental.add(sums, {"w": grad}), None
      >>> sums = incremental.init({"w": jnp.zeros(())})
      >>> sums, _ = jax.lax.scan(body, sums, jnp.array([3.0, 5.0]))
      >>> grads, moments = incremental.finish(sums)
      >>> print(grads["w"], moments.micro_sq_norm["w"], moments.batch_sq_norm["w"])
      4.0 17.0 16.0
    """

    layers: Layers = per_parameter
    preconditioner: Any = None

    def __post_init__(self) -> None:
        """Checks the layers."""
        check_layers(self.layers)

    def init(self, params: PyTree) -> MomentSums:
        """Returns the sums before the first microbatch.

        Args:
          params: the parameters, or their shapes and dtypes. Inside `jax.shard_map` the
            sums vary over the axes that the parameters vary over.

        Returns:
          The sums, with zeros of the parameters' shapes and shardings.
        """
        norms = eval_types(
            lambda tree: pack(Metric(self.layers).sq_norms(tree)), params
        )
        # Where gradients are each device's own, so may their weights be.
        counts = jnp.zeros((), weight_dtype()), jnp.zeros((), jnp.int32)
        weight, num_microbatches = vary_like(counts, (norms, norms))
        return MomentSums(
            grads=jax.tree.map(lambda x: zeros_of(x, accumulation_dtype(x)), params),
            micro_sq_norm=zeros_of(norms, norms.dtype),
            weight=weight,
            num_microbatches=num_microbatches,
        )

    def add(
        self,
        sums: MomentSums,
        grads: PyTree,
        *,
        weight: jax.typing.ArrayLike = 1.0,
        moments: GradMoments | None = None,
    ) -> MomentSums:
        """Adds the gradient of one microbatch.

        Args:
          sums: what the previous call returned, or `init`.
          grads: the microbatch's gradients.
          weight: `()`, what its mean was taken over (tokens, unpadded examples). A
            microbatch with a weight of 0 is left out, whatever its gradient is.
          moments: if `grads` is itself a mean over several microbatches (devices), its
            moments.

        Returns:
          The new sums.

        Raises:
          ValueError: if the moments do not fit `grads`, or the gradients do not fit
            `sums`, or the weight is negative or not finite.
          TypeError: if `sums` are no `MomentSums`, or the gradients are integers.
        """
        check_is("sums", sums, MomentSums, "IncrementalMoments.init(params)")
        weight = check_weights(weight, (), equal=1, name="weight")
        metric = metric_of(self.layers, self.preconditioner, grads)
        _check_like("grads", grads, sums.grads)
        if moments is None:
            return add_gradient(sums, grads, metric.sq_norms(grads), 1, weight)
        check_moments(moments, grads)
        check_count(moments.num_microbatches)
        _check_metric(moments, metric)
        norms = align_norms(
            moments.micro_sq_norm,
            "moments.micro_sq_norm",
            grads,
            layout_of(self.layers, grads),
        )
        return add_gradient(sums, grads, norms, moments.num_microbatches, weight)

    def finish(
        self, sums: MomentSums, like: PyTree | None = None
    ) -> tuple[PyTree, GradMoments]:
        """Returns the mean gradient and its moments.

        Args:
          sums: over all microbatches: `jax.lax.psum(sums, axis)` first, if every device
            has summed its own.
          like: gradients or parameters in whose dtypes the mean is returned; None: in
            float32 or wider.

        Returns:
          The mean gradient, and `GradMoments` whose count is an array. All are 0 if the
          weights sum to 0.

        Raises:
          ValueError: if `like` is not like the gradients of `sums`.
          TypeError: if `sums` are no `MomentSums`.
        """
        check_is("sums", sums, MomentSums, "IncrementalMoments.init(params)")
        like = sums.grads if like is None else like
        _check_like("like", like, sums.grads)
        metric = metric_of(self.layers, self.preconditioner, sums.grads)
        mean, micro = divide((sums.grads, sums.micro_sq_norm), sums.weight)
        return mean_and_moments(mean, micro, sums.num_microbatches, metric, like)


def _check_metric(moments: GradMoments, metric: Metric) -> None:
    if isinstance(moments, PreconditionedMoments) == metric.is_plain:
        own, given = ("none", "one") if metric.is_plain else ("one", "none")
        raise ValueError(
            "`moments` must be taken with the `preconditioner` of the sums that they "
            f"are added to: the sums have {own}, got moments with {given}. Give the "
            "same to the gatherer, and to IncrementalMoments or accumulate."
        )


def add_gradient(
    sums: MomentSums,
    grads: PyTree,
    sq_norms: PyTree,
    count: int | jax.Array,
    weight: jax.typing.ArrayLike,
) -> MomentSums:
    """Adds `weight` times a gradient and its squared norms."""
    weight = jnp.asarray(weight, sums.weight.dtype)
    packed = pack(sq_norms)
    return MomentSums(
        grads=jax.tree.map(lambda s, g: s + weigh(weight, g), sums.grads, grads),
        micro_sq_norm=sums.micro_sq_norm
        + weigh(weight, packed).astype(sums.micro_sq_norm.dtype),
        weight=sums.weight + weight,
        num_microbatches=sums.num_microbatches
        + jnp.where(weight == 0, 0, jnp.int32(count)),
    )


def mean_and_moments(
    mean: PyTree,
    micro_sq_norm: jax.Array,
    count: int | jax.Array,
    metric: Metric | ShardedMetric,
    like: PyTree,
) -> tuple[PyTree, GradMoments]:
    """Takes the norms of the mean, then casts the mean to the dtypes of `like`.

    Args:
      mean: the gradients' mean, in the accumulation dtypes.
      micro_sq_norm: the mean of their squared norms, packed.
      count: n, of the microbatches.
      metric: the metric that takes the norms.
      like: gradients or parameters.

    Returns:
      The mean gradient and its moments.
    """
    batch = metric.sq_norms(mean)
    micro = unpack(micro_sq_norm, batch)
    return cast_like(mean, like), moments_in(metric, micro, batch, count)


def divide(tree: PyTree, total: jax.Array) -> PyTree:
    """Divides floating-point sums by a total; all are 0 if that is 0."""
    scale = jnp.where(total == 0, 0, 1 / jnp.where(total == 0, 1, total))
    return jax.tree.map(functools.partial(multiply, scale), tree)


def weigh(weight: jax.Array, value: jax.typing.ArrayLike) -> jax.Array:
    """Returns `weight * value` in float32 or wider, ready to be summed.

    A weight of 0 gives 0 whatever the value: a microbatch that is all padding has a
    weight of 0 and usually a loss of 0 / 0.
    """
    value = jnp.asarray(value, accumulation_dtype(value))
    return jnp.where(weight == 0, jnp.zeros_like(value), multiply(weight, value))


def pack(norms: PyTree) -> jax.Array:
    """Puts the squared norms of all parameters into one vector."""
    leaves = [jnp.ravel(x) for x in jax.tree.leaves(norms)]
    return jnp.concatenate(leaves) if leaves else jnp.zeros((0,), jnp.float32)


def unpack(packed: jax.Array, like: PyTree) -> PyTree:
    """Undoes `pack`: returns a pytree of the shapes of `like`."""
    leaves, treedef = jax.tree.flatten(like)
    ends = [0]
    for leaf in leaves:
        ends.append(ends[-1] + leaf.size)
    parts = [packed[a:b] for a, b in zip(ends, ends[1:], strict=False)]
    return treedef.unflatten(
        [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
    )


def _check_like(name: str, tree: PyTree, grads: PyTree) -> None:
    """Raises a `ValueError` unless `tree` has the shapes that the sums have."""
    given, expected = (
        {name: jnp.shape(leaf) for name, leaf in leaves_by_name(x).items()}
        for x in (tree, grads)
    )
    if given != expected:
        differing = [
            p for p in {**expected, **given} if given.get(p) != expected.get(p)
        ]
        raise ValueError(
            f"`{name}` must be like the parameters that `sums` were made for, shape "
            f"{expected.get(differing[0], 'none')} at parameter {differing[0]!r}, got "
            f"{given.get(differing[0], 'none')}."
        )
