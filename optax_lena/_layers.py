"""What is one layer: from the parameters of a model to rows of statistics.

In: a pytree of parameters (or gradients) and a `Layers` rule. Out: a `LayerMap`, which
says for every parameter in which row of a `[layers]` vector its statistics stand.
Everything downstream of this file works on such vectors.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.xla_metadata import set_xla_metadata
from jax.tree_util import GetAttrKey, keystr, tree_leaves_with_path

MODEL = "model"
_VALUE = (GetAttrKey("value"),)


class Layers:
    """A rule that says which parameters form one layer.

    Instances are immutable, compare by value and are deliberately not callable:
    `optax.inject_hyperparams` takes every callable argument for a schedule.
    Subclass it and override `layer_of` for a grouping of your own.
    """

    def layer_of(self, parameter: str) -> str:
        """Names the layer that a parameter belongs to.

        Args:
          parameter: the parameter's path, such as `"conv1/kernel"`.

        Returns:
          The layer's name: parameters with the same one form one layer.
        """
        raise NotImplementedError

    def stack_axis(self, parameter: str) -> int | None:
        """Says on which axis a parameter stacks several layers.

        Args:
          parameter: the parameter's path, such as `"blocks/kernel"`.

        Returns:
          The axis, or None if the parameter belongs to one layer.
        """
        del parameter
        return None


@dataclasses.dataclass(frozen=True)
class _PerParameter(Layers):
    def layer_of(self, parameter: str) -> str:
        return parameter


@dataclasses.dataclass(frozen=True)
class _PerModule(Layers):
    def layer_of(self, parameter: str) -> str:
        return parameter.rpartition("/")[0] or MODEL


@dataclasses.dataclass(frozen=True)
class _WholeModel(Layers):
    def layer_of(self, parameter: str) -> str:
        return MODEL


@dataclasses.dataclass(frozen=True)
class _ByRegex(Layers):
    patterns: tuple[str, ...]

    def layer_of(self, parameter: str) -> str:
        for pattern in self.patterns:
            if match := re.search(pattern, parameter):
                groups = [g for g in match.groups() if g is not None]
                return "/".join(groups) or match.group(0) or parameter
        return parameter


@dataclasses.dataclass(frozen=True)
class _Stacked(Layers):
    pattern: str
    axis: int
    others: Layers

    def layer_of(self, parameter: str) -> str:
        if re.search(self.pattern, parameter):
            return parameter
        return self.others.layer_of(parameter)

    def stack_axis(self, parameter: str) -> int | None:
        if re.search(self.pattern, parameter):
            return self.axis
        return self.others.stack_axis(parameter)


per_parameter: Layers = _PerParameter()
"""Every parameter tensor is one layer: the paper's choice, and the default."""

per_module: Layers = _PerModule()
"""The parameters of one module (its kernel and its bias) are one layer."""

whole_model: Layers = _WholeModel()
"""The whole model is one layer: AdaScale's choice."""


def by_regex(*patterns: str) -> Layers:
    r"""Parameters in whose names the same text is found share a layer.

    The first pattern that matches (`re.search`) decides. The layer is named by what
    matched: by the text of the pattern's groups where it has any, else by the whole
    match. A parameter that no pattern matches is a layer of its own.

    Args:
      *patterns: regular expressions over names such as `"block3/attention/kernel"`.

    Returns:
      The rule, for the argument `layers`.

    Raises:
      ValueError: without a pattern, or with one that is not a regular expression.

    Example:
      >>> import optax_lena
      >>> layers = optax_lena.by_regex(r"block\d+", r"(bias)$")
      >>> [layers.layer_of(p) for p in ("block3/attn/kernel", "head/bias", "head/w")]
      ['block3', 'bias', 'head/w']
    """
    if not patterns:
        raise ValueError("by_regex needs at least one regular expression, got none.")
    for pattern in patterns:
        _check_regex("by_regex", pattern)
    return _ByRegex(patterns)


def stacked(regex: str, axis: int = 0, *, others: Layers = per_parameter) -> Layers:
    """Each slice of a matching parameter is a layer: for `nn.scan` and `nnx.vmap`.

    A scanned network keeps one array for all its blocks. With this rule each block
    has its own statistics, warm-up and rate, as it would in the unrolled network.

    Args:
      regex: selects (`re.search`) the parameters that stack several layers.
      axis: the axis of those parameters along which the layers lie.
      others: the rule for the parameters that do not match.

    Returns:
      The rule, for the argument `layers` of the transformation *and* of the gatherer.

    Raises:
      ValueError: if `regex` is not a regular expression, or `axis` not an integer.

    Example:
      >>> import jax.numpy as jnp, optax_lena
      >>> params = {"blocks": jnp.ones((3, 8, 8)), "head": jnp.ones((8, 2))}
      >>> tx = optax_lena.lena(0.1, 4, layers=optax_lena.stacked("blocks"))
      >>> list(optax_lena.layer_report(tx.init(params), params))
      ['blocks[0]', 'blocks[1]', 'blocks[2]', 'head']
    """
    _check_regex("stacked", regex)
    check_layers(others)
    if not isinstance(axis, int):
        raise ValueError(f"`axis` must be an integer, got {axis!r}.")
    return _Stacked(regex, axis, others)


def _check_regex(where: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ValueError(
            f"{where} takes regular expressions over parameter names such as "
            f"'conv1/kernel', got {pattern!r}: {error}."
        ) from error


def check_layers(layers: Any) -> None:
    """Raises a `ValueError` unless `layers` is a `Layers` rule."""
    if not isinstance(layers, Layers):
        raise ValueError(
            "`layers` must be a rule such as optax_lena.per_parameter, per_module, "
            f"whole_model, by_regex(...) or stacked(...), got {layers!r}."
        )


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
    count = Counter(names)
    return [
        name if count[name] == 1 else keystr(path)
        for name, path in zip(names, paths, strict=True)
    ]


@dataclasses.dataclass(frozen=True)
class LayerMap:
    """Where each parameter's statistics stand in a vector over layers.

    Attributes:
      names: the layers' names, in order of first appearance.
      parameters: the parameters' names, in the order of the tree's leaves.
      rows: for each parameter the row of its layer, an integer; for a stacked
        parameter the rows of its slices.
      axes: for each parameter the axis that stacks layers, or None.
    """

    names: tuple[str, ...]
    parameters: tuple[str, ...]
    rows: tuple[int | tuple[int, ...], ...]
    axes: tuple[int | None, ...]

    def gather(self, values: Sequence[jax.Array]) -> jax.Array:
        """Sums per-parameter values into a `[layers]` float32 vector.

        Args:
          values: per parameter an array of shape `()`, or `(slices,)` if stacked.

        Returns:
          The sums, in the order of `names`.
        """
        if not values:
            return jnp.zeros((0,), jnp.float32)
        flat = jnp.concatenate([jnp.ravel(v).astype(jnp.float32) for v in values])
        rows = np.concatenate([np.ravel(r) for r in self.rows])
        if np.array_equal(rows, np.arange(len(self.names))):
            return flat
        return jax.ops.segment_sum(flat, rows, num_segments=len(self.names))

    def scatter(self, vector: jax.Array) -> list[jax.Array]:
        """Returns, per parameter, its entries of a `[layers]` vector."""
        if not isinstance(vector, jax.core.Tracer):
            return self._entries(vector)
        return jax.lax.platform_dependent(
            vector, cpu=self._entries_at_places, default=self._entries
        )

    def _entries(self, vector: jax.Array) -> list[jax.Array]:
        # A plain integer makes a static slice, an index array a gather.
        return [
            jax.lax.index_in_dim(vector, row, keepdims=False)
            if isinstance(row, int)
            else vector[np.asarray(row)]
            for row in self.rows
        ]

    def _entries_at_places(self, vector: jax.Array) -> list[jax.Array]:
        # XLA:CPU compiles kernels of equal code once, but takes 20 ms for every kernel
        # whose slice is at a place of its own. So the kernels read the place from
        # memory: XLA sees no constants in what a call returns that it may not inline.
        # If it inlines nevertheless, only compile time is lost. Other platforms keep
        # the slices, which cost a GPU no launch.
        rows = sorted({row for row in self.rows if isinstance(row, int)})
        number = jax.jit(lambda vector: (vector, [jnp.int32(row) for row in rows]))
        with set_xla_metadata(inlineable="false"):
            vector, places = number(vector)
        place_of = dict(zip(rows, places, strict=True))
        return [
            jax.lax.dynamic_slice(
                vector, (place_of[row],), (1,), allow_negative_indices=False
            ).reshape(())
            if isinstance(row, int)
            else vector[np.asarray(row)]
            for row in self.rows
        ]


def layer_map(layers: Layers, tree: Any) -> LayerMap:
    """Applies a rule to a tree of parameters (arrays or their shapes and dtypes)."""
    parameters = parameter_names(tree)
    axes = tuple(layers.stack_axis(p) for p in parameters)
    index: dict[str, int] = {}
    rows: list[int | tuple[int, ...]] = []
    for parameter, leaf, axis in zip(
        parameters, jax.tree.leaves(tree), axes, strict=True
    ):
        layer = layers.layer_of(parameter)
        if axis is None:
            rows.append(index.setdefault(layer, len(index)))
            continue
        slices = range(stack_size(parameter, leaf, axis))
        names = [f"{layer}[{i}]" for i in slices]
        rows.append(tuple(index.setdefault(name, len(index)) for name in names))
    return LayerMap(tuple(index), tuple(parameters), tuple(rows), axes)


def stack_size(parameter: str, leaf: Any, axis: int) -> int:
    """Returns how many layers `leaf` stacks along `axis`."""
    shape = jnp.shape(leaf)
    if not -len(shape) <= axis < len(shape):
        raise ValueError(
            f"`layers` says that parameter {parameter!r} stacks layers on axis {axis}, "
            f"but its shape is {shape}: name an axis it has, or a narrower regex."
        )
    return shape[axis]
