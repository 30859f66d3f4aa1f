"""Which parameters form one layer: a rule over parameters' names.

In: the name of a parameter. Out: the name of its layer, and whether the parameter
stacks several. `layout.py` applies a rule to a model.
"""

import dataclasses
import numbers
import re
from collections.abc import Sequence
from typing import Any

MODEL = "model"


class Layers:
    """A rule that says which parameters form one layer.

    Instances are immutable, compare by value and are deliberately not callable:
    `optax.inject_hyperparams` takes every callable argument for a schedule.
    Subclass it and override `layer_of` for a grouping of your own.

    Example:
      >>> import dataclasses, optax_lena
      >>> @dataclasses.dataclass(frozen=True)
      ... class ByBlock(optax_lena.Layers):
      ...     def layer_of(self, parameter):
      ...         return parameter.partition("/")[0]
      >>> ByBlock().layer_of("block3/attention/kernel"), ByBlock() == ByBlock()
      ('block3', True)
    """

    def layer_of(self, parameter: str) -> str:
        """Names the layer that a parameter belongs to.

        Args:
          parameter: the parameter's path, such as `"conv1/kernel"`.

        Returns:
          The layer's name: parameters with the same layer name form one layer.
        """
        raise NotImplementedError(
            "a subclass of Layers must have a method layer_of(parameter) that returns "
            f"the name of the parameter's layer, got {type(self).__name__} without one."
        )

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
"""The parameters of one module (its kernel and its bias) are one layer; arrays at the
root of the pytree are the layer `"model"`."""

whole_model: Layers = _WholeModel()
"""The whole model is one layer: AdaScale's choice."""


def by_regex(*patterns: str) -> Layers:
    r"""Makes one layer of the parameters in whose names the same text is found.

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
        raise ValueError(
            "`patterns` must hold at least one regular expression, got (): give some, "
            'such as by_regex(r"block\\d+"), or take per_parameter.'
        )
    for pattern in patterns:
        check_regex("by_regex: `patterns`", pattern)
    return _ByRegex(patterns)


def stacked(regex: str, axis: int = 0, *, others: Layers = per_parameter) -> Layers:
    """Makes each slice of a matching parameter a layer: for `nn.scan` and `nnx.vmap`.

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
    check_regex("stacked: `regex`", regex)
    check_layers(others, "others")
    if not isinstance(axis, numbers.Integral) or isinstance(axis, bool):
        raise ValueError(
            f"`axis` must be an integer, got {axis!r}: it is the axis along which the "
            "layers are stacked."
        )
    return _Stacked(regex, int(axis), others)


def unused_patterns(layers: Layers, parameters: Sequence[str]) -> list[str]:
    """Returns the regular expressions of a rule that are found in no parameter's name.

    Args:
      layers: the rule.
      parameters: the parameters' names.

    Returns:
      The patterns; none for a rule that has none.
    """
    own: tuple[str, ...] = ()
    if isinstance(layers, _ByRegex):
        own = layers.patterns
    if isinstance(layers, _Stacked):
        own = layers.pattern, *unused_patterns(layers.others, parameters)
    return [x for x in own if not any(re.search(x, name) for name in parameters)]


def check_regex(where: str, pattern: str) -> None:
    """Raises a `ValueError` unless `pattern` is a regular expression."""
    try:
        re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ValueError(
            f"{where} must be a regular expression over parameter names such as "
            f"'conv1/kernel', got {pattern!r}: {error}."
        ) from error


def check_layers(layers: Any, name: str = "layers") -> None:
    """Raises a `ValueError` unless `layers` is a `Layers` rule."""
    if not isinstance(layers, Layers):
        raise ValueError(
            f"`{name}` must be a rule such as optax_lena.per_parameter, per_module, "
            f"whole_model, by_regex(...) or stacked(...), got {layers!r}."
        )
