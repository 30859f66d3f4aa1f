"""Parameters: their names, and checks that name the one which is wrong.

In: a pytree of parameters, gradients or the like. Out: one readable name per leaf.
"""

from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import GetAttrKey, KeyPath, keystr, tree_leaves_with_path

from optax_lena._dtypes import is_kind
from optax_lena._measure.layers import MODEL
from optax_lena._types import shard_axes

_VALUE = (GetAttrKey("value"),)


def parameter_names(tree: Any) -> list[str]:
    """Returns one readable name, such as `conv1/kernel`, per leaf of `tree`."""
    paths = [path for path, _ in tree_leaves_with_path(tree)]
    siblings = Counter(path[:-1] for path in paths)
    # nnx.Variable, nnx.VariableState and linen's boxes show their array as an
    # attribute `value`. It is no part of the name, unless it has siblings.
    paths = [
        path[:-1] if path[-1:] == _VALUE and siblings[path[:-1]] == 1 else path
        for path in paths
    ]
    names = [keystr(path, simple=True, separator="/") or MODEL for path in paths]
    # The key "a/b" beside a key "b" below "a" would read the same.
    names = _made_unique(names, list(map(_escaped, paths)))
    return _made_unique(names, list(map(keystr, paths)))


def _made_unique(names: list[str], others: list[str]) -> list[str]:
    """Returns the names, with another one in place of each that is not unique."""
    count = Counter(names)
    pairs = zip(names, others, strict=True)
    return [name if count[name] == 1 else other for name, other in pairs]


def _escaped(path: KeyPath) -> str:
    """Returns the name of a path, of whose slashes all separate keys."""
    keys = (keystr((key,), simple=True).replace("/", "%2F") for key in path)
    return "/".join(keys)


def leaves_by_name(tree: Any) -> dict[str, Any]:
    """Returns the leaves of `tree` by their names, in their order."""
    return dict(zip(parameter_names(tree), jax.tree.leaves(tree), strict=True))


def tree_of_names(tree: Any) -> Any:
    """Returns a pytree like `tree` whose leaves are their names."""
    return jax.tree.unflatten(jax.tree.structure(tree), parameter_names(tree))


def check_inexact(name: str, tree: Any) -> None:
    """Raises a `TypeError` that names a parameter which is not floating-point."""
    for i, leaf in enumerate(jax.tree.leaves(tree)):
        dtype = getattr(leaf, "dtype", type(leaf))
        is_inexact = dtype in (float, complex) or is_kind(dtype, jnp.inexact)
        if not is_inexact:
            got = getattr(dtype, "name", None) or getattr(dtype, "__name__", dtype)
            raise TypeError(
                f"`{name}` must be floating-point, got {got} at "
                f"parameter {parameter_names(tree)[i]!r}: {_remedy(leaf)}"
            )


def _remedy(leaf: Any) -> str:
    """Returns what to do with a leaf that is not floating-point."""
    if hasattr(leaf, "dtype") or isinstance(leaf, int):
        return (
            "such a parameter has no gradient. Put None in its place, and pass it as "
            "a further argument of the loss (optax_lena.flax.value_and_grad does so "
            "for an nnx model), or convert it."
        )
    return (
        "it is no array. Make its class a pytree, such as with "
        "jax.tree_util.register_dataclass."
    )


def check_no_shards(optimizer: str, tree: Any, moments: Any) -> None:
    """Raises a `ValueError` for a shard, where `optimizer` needs the whole tensor.

    Args:
      optimizer: the name of the optimizer.
      tree: the tensors that it needs whole.
      moments: those of the gradient, of whole tensors. Over an axis over which they
        vary too, every device has a model of its own.
    """
    for parameter, sharded in zip(
        parameter_names(tree), shard_axes(tree, moments), strict=True
    ):
        if sharded and moments is not None:
            raise ValueError(
                f"`params` of `{optimizer}` must be whole on every device, got a shard "
                f"of {parameter!r}, which varies over the axes {list(sharded)}: it "
                "would treat each shard as a whole parameter. Update under jax.jit, "
                "where any sharding will do, or gather parameters and gradients first."
            )
