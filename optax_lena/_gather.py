r"""Gatherer: the gradient of a large batch and its moments, from a loss function.

In: a loss, and a batch that splits into n microbatches. Out: the loss, its gradient
over the whole batch, and the `GradMoments` of the microbatches' gradients.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import keystr

from optax_lena import _axes
from optax_lena._axes import AxisName
from optax_lena._layers import Layers, check_layers, per_parameter
from optax_lena._moments import (
    GradMoments,
    PyTree,
    accumulation_dtype,
    check_num_microbatches,
    check_preconditioner,
    check_weights,
    divide,
    finish,
    sq_norms,
    weigh,
)


def value_and_grad(
    loss_fn: Callable[..., Any],
    num_microbatches: int,
    *,
    has_aux: bool = False,
    axis_name: AxisName | None = None,
    layers: Layers = per_parameter,
) -> Callable[..., tuple[Any, PyTree, GradMoments]]:
    r"""Like `jax.value_and_grad` over a large batch, and returns the moments as well.

    The batch is cut into n microbatches, which a `lax.scan` goes through one after
    the other: one accumulated gradient is in memory, whatever n.

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
      loss_fn: `loss_fn(params, microbatch, *args) -> loss`, a mean over the microbatch;
        or `(loss, aux)` with `has_aux`. With `key`, it also gets a keyword `key`.
      num_microbatches: n, of the whole batch on all devices; at least 2.
      has_aux: whether `loss_fn` returns auxiliary data. Its floating-point leaves are
        averaged like the loss (BatchNorm statistics, accuracies); every other leaf
        (counts, keys) comes back stacked, `(n, ...)`, for you to reduce.
      axis_name: the mesh axis (or a tuple of axes) over which the batch is spread.
        Under `jax.jit` it is sharded over that axis; inside `shard_map` or `pmap`,
        `batch` is the device's own part and so are `weights` (`[n / devices]`) and
        stacked auxiliary leaves. Every device goes through its own n / devices
        microbatches, and the norms ride in the gradient's all-reduce.
      layers: which parameters stack several layers (`optax_lena.stacked`).

    Returns:
      A function `f(params, batch, *args, weights=None, key=None, preconditioner=None)`
      that returns `(loss, grads, moments)`, or `((loss, aux), grads, moments)`. `args`
      go to every call of `loss_fn` unchanged. `weights`: `[n]`. `key`: a PRNG key, of
      which microbatch i gets `jax.random.fold_in(key, i)`. `preconditioner`: a pytree
      like the parameters, by which gradients are multiplied before their norms are
      taken, and only there (`optax_lena.adam_preconditioner`). Loss, gradients and
      averaged leaves are weighted means, summed in float32 or wider, in their own
      dtypes.

    Raises:
      ValueError: if n < 2; when called, if the batch does not divide by n, or n by
        the number of devices, or no mesh has the axis, or `preconditioner` is not like
        the parameters.

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
    check_layers(layers)
    check_num_microbatches(num_microbatches)
    grad_fn = jax.value_and_grad(loss_fn, has_aux=has_aux)

    def gather(
        params: PyTree,
        batch: PyTree,
        *args: Any,
        weights: jax.typing.ArrayLike | None = None,
        key: jax.Array | None = None,
        preconditioner: PyTree | None = None,
    ) -> tuple[Any, PyTree, GradMoments]:
        bound = axis_name is not None and _axes.is_bound(axis_name)
        devices = jax.lax.axis_size(axis_name) if bound else 1
        local = _share(num_microbatches, devices, axis_name)
        each = check_weights(weights, (local,), equal=1 / num_microbatches)
        preconditioner = check_preconditioner(preconditioner, params)
        own_params, own_preconditioner, first = params, preconditioner, 0
        if bound:
            own_params = _axes.to_varying(params, axis_name)
            first = jax.lax.axis_index(axis_name) * local
        elif axis_name is not None:
            own_params = _axes.gather_typed(params, axis_name)
            own_preconditioner = _axes.gather_typed(preconditioner, axis_name)

        def visit(microbatch: PyTree, index: jax.Array) -> tuple[Any, PyTree, PyTree]:
            kwargs = {} if key is None else {"key": jax.random.fold_in(key, index)}
            value, grads = grad_fn(own_params, microbatch, *args, **kwargs)
            return value, grads, sq_norms(grads, layers, own_preconditioner)

        xs = (split(batch, local), first + jnp.arange(local))
        if axis_name is None or bound:
            shapes = jax.eval_shape(visit, *jax.tree.map(lambda x: x[0], xs))
            sums, stacks = weighted_scan(visit, shapes, each, xs)
        else:  # an entry of a sharded array has a shape, but jax cannot take it out
            shapes = jax.eval_shape(visit, *jax.tree.map(_entry, xs))
            sums, stacks = _scan_on_mesh(visit, shapes, each, xs, axis_name)
        totals = None  # equal weights sum to 1, over n microbatches
        if weights is not None:
            totals = jnp.sum(each), jnp.sum(each != 0, dtype=jnp.int32)
        if bound:
            sums, totals = jax.lax.psum((sums, totals), axis_name)
        count: int | jax.Array = num_microbatches
        if totals is not None:
            total, count = totals
            sums = divide(sums, total)

        value, mean_grads, micro_sq_norm = _merge(sums, stacks, shapes)
        value = jax.tree.map(_restore_dtype, value, shapes[0])
        mean_grads = _axes.shard_like(mean_grads, params)
        if preconditioner is not None:
            preconditioner = _axes.shard_like(preconditioner, params)
        grads, moments = finish(
            micro_sq_norm, mean_grads, count, layers, params, preconditioner
        )
        return value, grads, moments

    return gather


def split(batch: PyTree, num_microbatches: int) -> PyTree:
    """Reshapes every leaf `(n * b, ...)` of a batch to `(n, b, ...)`."""

    def split_leaf(path: Any, leaf: Any) -> jax.Array:
        shape = jnp.shape(leaf)
        if not shape or shape[0] % num_microbatches:
            raise ValueError(
                f"`batch` must divide into {num_microbatches} microbatches on axis 0, "
                f"got shape {shape} at {keystr(path) or 'its root'}: drop or pad the "
                "last examples (and pass `weights`), and pass what is no example as a "
                "further argument."
            )
        size = shape[0] // num_microbatches
        return jnp.reshape(leaf, (num_microbatches, size, *shape[1:]))

    return jax.tree_util.tree_map_with_path(split_leaf, batch)


def weighted_scan(
    visit: Callable[..., PyTree], shapes: PyTree, each: jax.Array, xs: PyTree
) -> tuple[list[jax.Array], list[jax.Array]]:
    """Scans `visit` over xs; sums its floating-point leaves, stacks the others.

    Args:
      visit: `visit(*x) -> tree`, for one entry x of xs.
      shapes: what `jax.eval_shape` says of that tree.
      each: `[n]`, the weights in the sums.
      xs: a tuple of pytrees with leading axis n.

    Returns:
      The weighted sums, in float32 or wider, and the stacks `(n, ...)`.
    """

    def body(sums: list[jax.Array], weight_and_x: Any) -> tuple[Any, Any]:
        weight, x = weight_and_x
        leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(visit(*x))]
        floats = [weigh(weight, leaf) for leaf in leaves if _is_float(leaf)]
        others = [leaf for leaf in leaves if not _is_float(leaf)]
        return jax.tree.map(jnp.add, sums, floats), others

    # `zeros_like` keeps what the types say of mesh axes, which scan insists on.
    zeros = [
        jnp.zeros_like(leaf, accumulation_dtype(leaf))
        for leaf in jax.tree.leaves(shapes)
        if _is_float(leaf)
    ]
    return jax.lax.scan(body, zeros, (each, xs))


def _scan_on_mesh(
    visit: Callable[..., PyTree],
    shapes: PyTree,
    each: jax.Array,
    xs: PyTree,
    axis_name: AxisName,
) -> tuple[list[jax.Array], list[jax.Array]]:
    """`weighted_scan` on every device over its own microbatches, then one all-reduce.

    The mapped axis of the `vmap` is the devices': `spmd_axis_name` keeps it sharded
    through whatever `visit` does, so that gradients stay local until they are summed,
    whether the parameters are replicated or sharded, over this axis or another.
    """
    mesh = _axes.mesh_with(axis_name, xs)
    _share(len(each), _axes.axis_size(mesh, axis_name), axis_name)
    scan = functools.partial(weighted_scan, visit, shapes)
    sums, stacks = jax.vmap(scan, spmd_axis_name=axis_name)(
        *_axes.to_devices((each, xs), mesh, axis_name)
    )
    stacks = [x.reshape(-1, *x.shape[2:]) for x in stacks]
    return [jnp.sum(x, axis=0) for x in sums], stacks


def _merge(
    sums: list[jax.Array], stacks: list[jax.Array], shapes: PyTree
) -> tuple[Any, PyTree, PyTree]:
    leaves, treedef = jax.tree.flatten(shapes)
    floats, others = iter(sums), iter(stacks)
    merged = [next(floats) if _is_float(leaf) else next(others) for leaf in leaves]
    return jax.tree.unflatten(treedef, merged)


def _share(num_microbatches: int, devices: int, axis_name: AxisName | None) -> int:
    if num_microbatches % devices:
        raise ValueError(
            f"`num_microbatches` must be a multiple of the {devices} devices on axis "
            f"{axis_name!r}, got {num_microbatches}: every device takes as many."
        )
    return num_microbatches // devices


def _restore_dtype(x: jax.Array, shape: jax.ShapeDtypeStruct) -> jax.Array:
    return x.astype(shape.dtype) if _is_float(shape) else x


def _entry(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape[1:], x.dtype)


def _is_float(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.inexact)
