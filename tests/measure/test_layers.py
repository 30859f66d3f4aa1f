"""What one layer is: the rules that group parameters."""

import copy
import dataclasses
import pickle
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import optax_lena
from tests import helpers

RULES = [
    optax_lena.per_parameter,
    optax_lena.per_module,
    optax_lena.whole_model,
    optax_lena.by_regex("a", "b"),
    optax_lena.stacked("blocks", 1),
]


def layers_of(tree, layers=optax_lena.per_parameter):
    init = optax_lena.scale_by_lena(4, layers=layers).init
    return list(jax.eval_shape(init, tree).layer_names())


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (
            optax_lena.per_parameter,
            ["blocks/kernel", "conv1/bias", "conv1/kernel", "head/kernel"],
        ),
        (optax_lena.per_module, ["blocks", "conv1", "head"]),
        (optax_lena.whole_model, ["model"]),
        (optax_lena.by_regex("kernel"), ["kernel", "conv1/bias"]),
        (optax_lena.by_regex("conv1", "kernel"), ["kernel", "conv1"]),
        (
            optax_lena.by_regex(r"(conv|head).*(kernel)"),
            ["blocks/kernel", "conv1/bias", "conv/kernel", "head/kernel"],
        ),
        (optax_lena.by_regex("(x)?conv1", "ker"), ["ker", "conv1"]),
        (
            optax_lena.by_regex(r"(conv\d)?.*bias"),  # the empty text names no layer
            ["blocks/kernel", "conv1", "conv1/kernel", "head/kernel"],
        ),
        (
            optax_lena.by_regex("x?"),
            ["blocks/kernel", "conv1/bias", "conv1/kernel", "head/kernel"],
        ),
        (
            optax_lena.stacked("blocks"),
            [f"blocks/kernel[{i}]" for i in range(3)]
            + ["conv1/bias", "conv1/kernel", "head/kernel"],
        ),
        (
            optax_lena.stacked("conv1/kernel", -2, others=optax_lena.per_module),
            ["blocks", "conv1"] + [f"conv1/kernel[{i}]" for i in range(3)] + ["head"],
        ),
        (
            optax_lena.stacked("head", others=optax_lena.stacked("blocks", 1)),
            ["blocks/kernel[0]", "blocks/kernel[1]", "conv1/bias", "conv1/kernel"]
            + [f"head/kernel[{i}]" for i in range(4)],
        ),
    ],
)
def test_layers_of_the_example(layers, expected):
    assert layers_of(helpers.example_params(), layers) == expected


def test_per_module_at_the_root_is_the_model():
    tree = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
    assert layers_of(tree, optax_lena.per_module) == ["model"]


def test_a_grouping_of_ones_own():
    class ByLength(optax_lena.Layers):
        def layer_of(self, parameter):
            return f"length{len(parameter)}"

    params = helpers.example_params()
    assert layers_of(params, ByLength()) == [
        "length13",
        "length10",
        "length12",
        "length11",
    ]
    assert ByLength().stack_axis("any") is None


def test_the_base_class_leaves_the_grouping_open():
    with pytest.raises(NotImplementedError):
        optax_lena.Layers().layer_of("w")


@pytest.mark.parametrize("rule", RULES)
def test_rules_compare_by_value_and_survive_pickling(rule):
    for other in (pickle.loads(pickle.dumps(rule)), copy.deepcopy(rule)):
        assert other == rule and hash(other) == hash(rule)
    assert sum(rule == other for other in RULES) == 1


@pytest.mark.parametrize(
    "argument",
    [
        *RULES,
        optax_lena.capped_gain,
        optax_lena.amplified_gain,
        optax_lena.square_root_gain,
        optax_lena.linear,
        optax_lena.LayerRate(),
        optax_lena.Averages(),
        optax_lena.SpikeLimit(),
        optax_lena.FixedWarmup(),
        optax_lena.StateAwareWarmup(),
    ],
)
def test_nothing_that_inject_hyperparams_would_take_for_a_schedule(argument):
    assert not callable(argument)


@dataclasses.dataclass(frozen=True)
class StackedOn(optax_lena.Layers):
    """A rule of one's own, whose axis nothing has checked."""

    axis: Any

    def layer_of(self, parameter):
        return parameter

    def stack_axis(self, parameter):
        return self.axis


@pytest.mark.parametrize("axis", [1, -2, "0", 0.0])
def test_a_stack_axis_that_is_not_there(axis):
    layers = StackedOn(axis)
    message = helpers.says("`layers`", "'b'", f"axis {axis}", "(3,)", "narrower")
    with pytest.raises(ValueError, match=message):
        optax_lena.lena(0.1, 4, layers=layers).init({"b": jnp.ones(3)})
    with pytest.raises(ValueError, match=message):
        optax_lena.moments_from_stack({"b": jnp.ones((4, 3))}, layers=layers)


@pytest.mark.parametrize(
    ("layers", "unused"),
    [
        (optax_lena.stacked("block/.*"), "block/.*"),
        (optax_lena.by_regex("blocks/.*", "block/.*"), "block/.*"),
        (optax_lena.stacked("blocks", others=optax_lena.by_regex("tail")), "tail"),
    ],
)
def test_a_pattern_that_selects_nothing_is_told_of(layers, unused):
    """Gatherer and transformation have the same rule, and nothing else would."""
    params = {"blocks": {"kernel": jnp.ones((2, 3))}, "head": jnp.ones(3)}
    message = helpers.says("`layers`", repr(unused), "blocks/kernel, head")
    with pytest.warns(RuntimeWarning, match=message):
        optax_lena.lena(0.1, 4, layers=layers).init(params)


def test_a_pattern_may_be_meant_for_another_part_of_the_model():
    """And for another model than one without parameters."""
    tx = optax_lena.lena(0.1, 4, layers=optax_lena.stacked("blocks"))
    labels = {"blocks": "blocks", "head": "others"}
    parted = optax.partition({"blocks": tx, "others": tx}, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parted.init({"blocks": jnp.ones((2, 3)), "head": jnp.ones(3)})
        tx.init({})
