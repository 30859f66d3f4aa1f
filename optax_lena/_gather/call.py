"""One call of a gatherer: its options and arguments, and what all ways share."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from optax_lena._dtypes import is_key
from optax_lena._gather import outputs, passes
from optax_lena._gather.arguments import check_arrays
from optax_lena._gather.axes import AxisName
from optax_lena._gather.outputs import Plan
from optax_lena._measure.layers import Layers
from optax_lena._measure.metric import Metric, ShardedMetric
from optax_lena._measure.moments import GradMoments, check_weights
from optax_lena._measure.sums import divide, mean_and_moments, pack
from optax_lena._types import PyTree, shard_like


@dataclasses.dataclass(frozen=True, eq=False)
class Options:
    """The arguments of `value_and_grad`, which describes them; they are checked."""

    loss_fn: Callable[..., Any]
    num_microbatches: int
    has_aux: bool
    aux: PyTree | None
    axis_name: AxisName | None
    spread: str | None
    layers: Layers
    param_specs: PyTree | None


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """The arguments of one call, and what is done to every microbatch."""

    options: Options
    params: PyTree
    batch: PyTree
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    weights: jax.typing.ArrayLike | None
    key: jax.Array | None
    metric: Metric | ShardedMetric

    def weights_of(self, count: int) -> jax.Array:
        """Returns the weights of `count` of the n microbatches, `[count]`."""
        equal = 1 / self.options.num_microbatches
        return check_weights(self.weights, (count,), equal=equal)

    def loss_of(self, params: PyTree, microbatch: PyTree, index: jax.Array) -> Any:
        """Computes the loss of one microbatch, with its auxiliary data."""
        args, kwargs = fold_in((self.args, self.kwargs), index)
        if self.key is not None:
            kwargs["key"] = jax.random.fold_in(self.key, index)
        return self.options.loss_fn(params, microbatch, *args, **kwargs)

    def grad_of(self, microbatch: PyTree, index: jax.Array) -> tuple[Any, PyTree, Any]:
        """Differentiates the loss of one microbatch, and takes the gradient's norms."""
        has_aux = self.options.has_aux
        grad_fn = jax.value_and_grad(self.loss_of, has_aux=has_aux)
        value, grads = grad_fn(self.params, microbatch, index)
        if has_aux:
            check_arrays("The auxiliary data of `loss_fn`", value[1])
        return value, grads, pack(self.metric.sq_norms(grads))

    def plan(self, shapes: PyTree, microbatch: PyTree, larger: PyTree) -> Plan:
        """Decides how every leaf that `grad_of` returns is combined.

        Args:
          shapes: what it returns, as `eval_types` says.
          microbatch: the microbatch that it was called with.
          larger: several times as many examples.

        Returns:
          The shapes, and a kind for each.
        """
        value, *rest = shapes
        means = [outputs.MEAN] * len(jax.tree.leaves(rest))
        if not self.options.has_aux:
            return Plan(shapes, [outputs.MEAN, *means])
        sizes = {jnp.shape(leaf)[0] for leaf in jax.tree.leaves(microbatch)}

        def aux_of_larger() -> PyTree:
            _, aux = jax.eval_shape(self.loss_of, self.params, larger, jnp.int32(0))
            return aux

        of_aux = outputs.kinds_of(value[1], self.options.aux, sizes, aux_of_larger)
        return Plan(shapes, [outputs.MEAN, *of_aux, *means])

    def result(
        self,
        sums: list[jax.Array],
        stacks: list[jax.Array],
        plan: Plan,
        total: jax.Array | None,
        count: int | jax.Array,
    ) -> tuple[Any, PyTree, GradMoments]:
        """Turns sums over microbatches into means; takes the mean gradient's norms."""
        merged = passes.merge(sums, stacks, plan)
        leaves, treedef = jax.tree.flatten(merged)
        leaves = [
            divide(x, total) if total is not None and kind == outputs.MEAN else x
            for x, kind in zip(leaves, plan.kinds, strict=True)
        ]
        value, mean_grads, micro = jax.tree.unflatten(treedef, leaves)
        value = jax.tree.map(
            lambda x, like: x.astype(like.dtype) if outputs.is_float(like) else x,
            value,
            plan.shapes[0],
        )
        mean_grads = shard_like(mean_grads, self.params)
        grads, moments = mean_and_moments(
            mean_grads, micro, count, self.metric, self.params
        )
        return value, grads, moments


def fold_in(tree: PyTree, number: jax.Array) -> PyTree:
    """Gives a microbatch keys of its own: dropout masks differ between examples.

    Args:
      tree: a tree whose typed PRNG keys, or stacks of them, are folded; the rest stays.
      number: the microbatch's number.

    Returns:
      The tree with other keys.
    """

    def fold(leaf: Any) -> Any:
        if not is_key(leaf):
            return leaf
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(leaf.reshape(-1), number)
        return keys.reshape(leaf.shape)

    return jax.tree.map(fold, tree)
