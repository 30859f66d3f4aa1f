"""What one layer is: names and groups."""

import copy
import pickle
from typing import NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import optax_lena
from optax_lena import _layers
from tests import helpers

RULES = [
    optax_lena.per_parameter,
    optax_lena.per_module,
    optax_lena.whole_model,
    optax_lena.by_regex("a", "b"),
    optax_lena.stacked("blocks", 1),
]


class Dense(NamedTuple):
    kernel: jax.Array
    bias: jax.Array


class Entry(NamedTuple):
    value: jax.Array
    scale: jax.Array


class Lonely(NamedTuple):
    kernel: jax.Array


class Model(nnx.Module):
    def __init__(self):
        self.conv1 = nnx.Linear(2, 3, rngs=nnx.Rngs(0))


KERNEL, BIAS = jnp.ones((2, 3)), jnp.ones(3)
PLAIN = {"conv1": {"kernel": KERNEL, "bias": BIAS}}


def layers_of(tree, layers=optax_lena.per_parameter):
    init = optax_lena.scale_by_lena(4, layers=layers).init
    return list(jax.eval_shape(init, tree).layer_names())


def names_of(tree):
    return set(_layers.parameter_names(tree))


@pytest.mark.parametrize(
    "tree",
    [
        PLAIN,
        flax.core.freeze(PLAIN),
        {"conv1": Dense(KERNEL, BIAS)},
        nnx.state(Model(), nnx.Param),
    ],
    ids=["dict", "FrozenDict", "NamedTuple", "nnx.State"],
)
def test_names_read_the_same_whatever_holds_the_parameters(tree):
    assert names_of(tree) == {"conv1/kernel", "conv1/bias"}


@pytest.mark.parametrize(
    ("tree", "names"),
    [
        ([KERNEL, [BIAS, BIAS]], {"0", "1/0", "1/1"}),
        ((KERNEL, {"b": BIAS}), {"0", "1/b"}),
        ({"a": Entry(KERNEL, BIAS)}, {"a/value", "a/scale"}),
        ({"a": Lonely(KERNEL)}, {"a/kernel"}),
        (KERNEL, {"model"}),
        ({}, set()),
    ],
)
def test_names_of_other_trees(tree, names):
    assert names_of(tree) == names


def test_every_parameter_has_a_name_of_its_own():
    names = _layers.parameter_names({"a/b": KERNEL, "a": {"b": BIAS}})
    assert len(set(names)) == 2


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
    assert layers_of({"w": KERNEL, "b": BIAS}, optax_lena.per_module) == ["model"]


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
    [*RULES, optax_lena.capped_gain, optax_lena.square_root_gain, optax_lena.linear],
)
def test_nothing_that_inject_hyperparams_would_take_for_a_schedule(argument):
    assert not callable(argument)


@pytest.mark.parametrize("rule", [*RULES, optax_lena.by_regex("kernel", "bias")])
def test_gather_sums_what_scatter_spreads(rule):
    params = helpers.example_params()
    layout = _layers.layer_map(rule, params)
    row = np.arange(1.0, 1 + len(layout.names), dtype=np.float32)
    values = layout.scatter(jnp.asarray(row))
    members = np.bincount(np.concatenate([np.ravel(r) for r in layout.rows]))
    np.testing.assert_array_equal(layout.gather(values), row * members)
    shapes = [
        () if a is None else (p.shape[a],)
        for a, p in zip(layout.axes, jax.tree.leaves(params), strict=True)
    ]
    assert [v.shape for v in values] == shapes
