r"""Gatherer: the gradient of a large batch and its moments, from a loss function.

In: a loss, and a batch that splits into n microbatches. Out: the loss, its gradient
over the whole batch, and the `GradMoments` of the microbatches' gradients.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import with_sharding_constraint
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec, reshard
from jax.tree_util import keystr

from optax_lena._layers import Layers, check_layers, per_parameter
from optax_lena._moments import (
    GradMoments,
    PyTree,
    accumulation_dtype,
    check_num_microbatches,
    finish,
    shares,
    sq_norms,
    weigh,
)

AxisName = str | tuple[str, ...]


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
      num_microbatches: n, at least 2; the batch's axis 0 must divide by it.
      has_aux: whether `loss_fn` returns auxiliary data. Its floating-point leaves are
        averaged like the loss (BatchNorm statistics, accuracies); every other leaf
        (counts, keys) comes back stacked, `(n, ...)`, for you to reduce.
      axis_name: under `jax.jit`, the mesh axis (or axes) over which the batch is
        sharded. Every device then goes through its own n / devices microbatches, and
        the norms ride in the gradient's all-reduce.
      layers: which parameters stack several layers (`optax_lena.stacked`).

    Returns:
      A function `f(params, batch, *args, weights=None, key=None)` that returns
      `(loss, grads, moments)`, or `((loss, aux), grads, moments)`. `args` go to every
      call of `loss_fn` unchanged. `weights`: `[n]`. `key`: a PRNG key, of which
      microbatch i gets `jax.random.fold_in(key, i)`. Loss, gradients and averaged
      leaves are weighted means, summed in float32 or wider, in their own dtypes.

    Raises:
      ValueError: if n < 2, or, when called, if the batch does not divide by n.

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
    ) -> tuple[Any, PyTree, GradMoments]:
        whole_params = _gather_explicit(params, axis_name)
        parts, count = shares(weights, num_microbatches)
        microbatches = split(batch, num_microbatches)

        def visit(microbatch: PyTree, index: jax.Array) -> tuple[PyTree, PyTree]:
            kwargs = {} if key is None else {"key": jax.random.fold_in(key, index)}
            value_and_grads = grad_fn(whole_params, microbatch, *args, **kwargs)
            return value_and_grads, sq_norms(value_and_grads[1], layers)

        xs = (microbatches, jnp.arange(num_microbatches))
        shapes = jax.eval_shape(visit, *jax.tree.map(_entry, xs))
        if axis_name is None:
            means = weighted_scan(visit, shapes, parts, xs)
        else:
            means = _sharded_scan(visit, shapes, parts, xs, axis_name)
        (value, mean_grads), micro_sq_norm = means
        mean_grads = _scatter_explicit(mean_grads, params)
        moments = finish(micro_sq_norm, mean_grads, count, layers)
        value, grads = jax.tree.map(
            lambda x, s: x.astype(s.dtype), (value, mean_grads), shapes[0]
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
    visit: Callable[..., PyTree], shapes: PyTree, parts: jax.Array, xs: PyTree
) -> PyTree:
    """Scans `visit` over xs and sums what it returns, weighted with `parts`.

    Args:
      visit: `visit(*x) -> tree`, for one entry x of xs.
      shapes: the shapes and dtypes of that tree.
      parts: `[n]`, the weights.
      xs: a tuple of pytrees with leading axis n.

    Returns:
      The tree with every floating-point leaf summed, in float32 or wider, and every
      other leaf stacked `(n, ...)`.
    """
    leaves, treedef = jax.tree.flatten(shapes)
    zeros = [
        jnp.zeros(leaf.shape, accumulation_dtype(leaf.dtype)) if _is_float(leaf) else None
        for leaf in leaves
    ]

    def body(sums: list[Any], part_and_x: Any) -> tuple[list[Any], list[Any]]:
        part, x = part_and_x
        new = [jnp.asarray(leaf) for leaf in jax.tree.leaves(visit(*x))]
        pairs = list(zip(sums, new, strict=True))
        sums = [s if s is None else s + weigh(part, v.astype(s.dtype)) for s, v in pairs]
        return sums, [v if s is None else None for s, v in pairs]

    sums, stacks = jax.lax.scan(body, zeros, (parts, xs))
    merged = [stack if s is None else s for s, stack in zip(sums, stacks, strict=True)]
    return jax.tree.unflatten(treedef, merged)


def _sharded_scan(
    visit: Callable[..., PyTree],
    shapes: PyTree,
    parts: jax.Array,
    xs: PyTree,
    axis_name: AxisName,
) -> PyTree:
    """`weighted_scan` on every device over its own microbatches, then one all-reduce.

    The mapped axis of the `vmap` is the devices': `spmd_axis_name` keeps it sharded
    through whatever `visit` does, so that gradients stay local until they are summed,
    whether the parameters are replicated or sharded, over this axis or another.
    """
    mesh = _mesh_of(xs, axis_name)
    devices = math.prod(mesh.shape[name] for name in _as_tuple(axis_name))
    if len(parts) % devices:
        raise ValueError(
            f"`num_microbatches` must be a multiple of the {devices} devices on axis "
            f"{axis_name!r}, got {len(parts)}: every device takes the same number."
        )
    sharding = NamedSharding(mesh, PartitionSpec(axis_name))
    place = reshard if _is_explicit(mesh, axis_name) else with_sharding_constraint

    def to_devices(x: jax.Array) -> jax.Array:
        return place(x.reshape(devices, len(x) // devices, *x.shape[1:]), sharding)

    def merge(x: jax.Array, shape: jax.ShapeDtypeStruct) -> jax.Array:
        return jnp.sum(x, axis=0) if _is_float(shape) else x.reshape(-1, *shape.shape)

    local = jax.vmap(
        lambda parts, xs: weighted_scan(visit, shapes, parts, xs),
        spmd_axis_name=axis_name,
    )(*jax.tree.map(to_devices, (parts, xs)))
    return jax.tree.map(merge, local, shapes)


def _mesh_of(tree: PyTree, axis_name: AxisName) -> AbstractMesh:
    """Finds the mesh that has `axis_name`: the context's, or the batch's own."""
    meshes = [jax.sharding.get_abstract_mesh()]
    meshes += [jax.typeof(leaf).sharding.mesh for leaf in jax.tree.leaves(tree)]
    for mesh in meshes:
        if set(_as_tuple(axis_name)) <= set(mesh.axis_names):
            return mesh
    raise ValueError(
        f"`axis_name` must name an axis of the mesh over which the batch is sharded, "
        f"got {axis_name!r} and no such mesh: call this under `jax.jit`, with a batch "
        "that was placed with a NamedSharding or inside `jax.set_mesh(mesh)`. Inside "
        "shard_map or pmap use optax_lena.value_and_grad_over_axis."
    )


def _is_explicit(mesh: Any, axis_name: AxisName) -> bool:
    types = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    return any(types[name] == AxisType.Explicit for name in _as_tuple(axis_name))


def _gather_explicit(params: PyTree, axis_name: AxisName | None) -> PyTree:
    """Gathers parameters whose type says that they are sharded over `axis_name`.

    With explicit axis types one axis cannot shard both the microbatches and the
    gradients of a mapped computation. With automatic ones XLA gathers layer by layer.
    """

    def gather(p: jax.Array) -> jax.Array:
        sharding = jax.typeof(p).sharding
        spec = [_drop(entry, axis_name) for entry in sharding.spec]
        if PartitionSpec(*spec) == sharding.spec:
            return p
        return reshard(p, NamedSharding(sharding.mesh, PartitionSpec(*spec)))

    return params if axis_name is None else jax.tree.map(gather, params)


def _scatter_explicit(grads: PyTree, params: PyTree) -> PyTree:
    """Gives gradients the sharding that the parameters' types ask for."""

    def scatter(g: jax.Array, p: jax.Array) -> jax.Array:
        sharding = jax.typeof(p).sharding
        same = jax.typeof(g).sharding == sharding
        return g if same or not sharding.mesh._any_axis_explicit else reshard(g, sharding)

    return jax.tree.map(scatter, grads, params)


def _entry(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape[1:], x.dtype)


def _is_float(x: jax.ShapeDtypeStruct) -> bool:
    return jnp.issubdtype(x.dtype, jnp.inexact)


def _as_tuple(axis_name: AxisName) -> tuple[str, ...]:
    return axis_name if isinstance(axis_name, tuple) else (axis_name,)


def _drop(entry: Any, axis_name: AxisName) -> Any:
    """Removes the named axes from one entry of a PartitionSpec."""
    names = () if entry is None else _as_tuple(entry)
    kept = tuple(name for name in names if name not in _as_tuple(axis_name))
    return kept[0] if len(kept) == 1 else kept or None
