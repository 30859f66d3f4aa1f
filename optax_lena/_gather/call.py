"""One call of a gatherer: its options and arguments, and what all ways share."""

import dataclasses
import sys
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_leaves_with_path

from optax_lena._checks import shown
from optax_lena._dtypes import is_kind
from optax_lena._gather import outputs, passes
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

    def grad_of(self, microbatch: PyTree, index: jax.Array) -> tuple[Any, PyTree, Any]:
        """Differentiates the loss of one microbatch, and takes the gradient's norms."""
        args, kwargs = fold_in((self.args, self.kwargs), index)
        if self.key is not None:
            kwargs["key"] = jax.random.fold_in(self.key, index)
        loss_fn, has_aux = self.options.loss_fn, self.options.has_aux
        grad_fn = jax.value_and_grad(loss_fn, has_aux=has_aux)
        value, grads = grad_fn(self.params, microbatch, *args, **kwargs)
        if has_aux:
            check_arrays("The auxiliary data of `loss_fn`", value[1])
        return value, grads, pack(self.metric.sq_norms(grads))

    def plan(self, shapes: PyTree, microbatch: PyTree, larger: PyTree) -> Plan:
        """Decides how every leaf that `grad_of` returns is combined.

        Args:
          shapes: what it returns, as `jax.eval_shape` says.
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
            value, *_ = jax.eval_shape(self.grad_of, larger, jnp.int32(0))
            return value[1]

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


def check_arrays(what: str, tree: PyTree) -> None:
    """Raises a `TypeError` that names a leaf of `tree` which is no array."""
    kinds = (np.number, np.bool_, jax.dtypes.extended)
    for path, leaf in tree_leaves_with_path(tree):
        dtype = getattr(leaf, "dtype", type(leaf))
        is_number = isinstance(leaf, (bool, int, float, complex))
        if not is_number and not is_kind(dtype, *kinds):
            got = f"an array of {dtype}" if hasattr(leaf, "dtype") else shown(leaf)
            raise TypeError(
                f"{what} must hold arrays of numbers, got {got} at "
                f"{keystr(path) or 'its root'}: leave it out, or make numbers of it."
            )


def check_dense(batch: PyTree) -> None:
    """Raises a `TypeError` that names a sparse array, whose leaves have no examples."""
    sparse = sys.modules.get("jax.experimental.sparse")
    if sparse is None:  # then there is none
        return
    is_sparse = lambda x: isinstance(x, sparse.JAXSparse)  # noqa: E731
    for path, leaf in tree_leaves_with_path(batch, is_leaf=is_sparse):
        if is_sparse(leaf):
            raise TypeError(
                f"`batch` must hold dense arrays, got {type(leaf).__name__} at "
                f"{keystr(path) or 'its root'}, which would be cut along what it "
                "stores and not along its rows: pass x.todense(), or arrays of indices "
                "and values with a row for each example."
            )


def check_some_examples(batch: Any, further: Any) -> None:
    """Raises a `ValueError` where nothing differs between microbatches.

    Such as a batch without arrays, for a loss that closes over it: every gain is 1.

    Args:
      batch: the batch.
      further: whatever else may hold keys, which differ between microbatches.
    """
    if not jax.tree.leaves(batch) and not any(map(_is_key, jax.tree.leaves(further))):
        raise ValueError(
            f"`batch` must hold the examples, got {batch!r} and no typed PRNG key, so "
            "that all microbatches would be the same and every gain 1: let the loss "
            "take as an argument what it closes over. A loss that draws its examples "
            "takes a key as a further argument, such as jax.random.key(0), or as `key`."
        )


def check_further(batch: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Checks the arguments beside the batch for labels, and warns of raw keys.

    Args:
      batch: the batch.
      args: the arguments after it, which every microbatch gets whole.
      kwargs: the keyword arguments, likewise.

    Raises:
      ValueError: for `f(params, x, y)`, where y looks like the labels of x. Every
        microbatch would get all of y, and broadcast it or read wrong rows, silently.
    """
    if any(map(_may_be_raw_key, jax.tree.leaves((args, kwargs)))):
        warnings.warn(
            "A further argument looks like a PRNG key of jax.random.PRNGKey, which is "
            "an array like any other: every microbatch gets the same random numbers. "
            "Pass a typed key, such as jax.random.key(0) or "
            "jax.random.wrap_key_data(raw_key), or the raw one as `key=`.",
            RuntimeWarning,
            stacklevel=3,
        )
    rows: tuple[int, ...] = ()
    for leaf in jax.tree.leaves(batch):
        rows = jnp.shape(leaf)[:1] or rows
    for arg in args:
        if not _is_array(arg) or _may_be_raw_key(arg):
            continue
        if rows not in ((), (1,)) and arg.shape[:1] == rows:
            raise ValueError(
                f"`batch` must hold all that has an example per row, got {rows[0]} "
                f"examples and a further argument of shape {arg.shape}, which every "
                "microbatch would get whole: pass `(x, y)` as the batch, or by keyword "
                "what is no example."
            )


def _is_array(x: Any) -> bool:
    return isinstance(x, (jax.Array, np.ndarray))


def _may_be_raw_key(x: Any) -> bool:
    """Says whether an array has the dtype and the shape of a raw PRNG key."""
    return _is_array(x) and x.dtype == jnp.uint32 and x.shape in ((2,), (4,))


def check_key(key: Any) -> None:
    """Raises a `ValueError` unless `key` is None, or one PRNG key of either kind."""
    dtype, shape = (getattr(key, x, None) for x in ("dtype", "shape"))
    is_raw = dtype == jnp.uint32 and shape is not None and len(shape) == 1
    if key is not None and not (_is_key(key) and shape == ()) and not is_raw:
        raise ValueError(
            f"`key` must be one PRNG key, such as jax.random.key(0), got {key!r}."
        )


def fold_in(tree: PyTree, number: jax.Array) -> PyTree:
    """Gives a microbatch keys of its own: dropout masks differ between examples.

    Args:
      tree: a tree whose typed PRNG keys, or stacks of them, are folded; the rest stays.
      number: the microbatch's number.

    Returns:
      The tree with other keys.
    """

    def fold(leaf: Any) -> Any:
        if not _is_key(leaf):
            return leaf
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(leaf.reshape(-1), number)
        return keys.reshape(leaf.shape)

    return jax.tree.map(fold, tree)


def _is_key(x: Any) -> bool:
    dtype = getattr(x, "dtype", None)
    return dtype is not None and is_kind(dtype, jax.dtypes.prng_key)
