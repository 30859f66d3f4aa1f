"""Layouts: what parameters are called, and where their layers stand in a vector."""

from typing import NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import optax_lena
from optax_lena._measure.layout import layout_of
from optax_lena._measure.parameters import parameter_names
from tests import helpers


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


def names_of(tree):
    return set(parameter_names(tree))


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
    model = {"a": {"b": BIAS, "c": BIAS}, "a/b": KERNEL, "d": KERNEL}
    assert parameter_names(model) == ["a/b", "a/c", "a%2Fb", "d"]
    modules = layout_of(optax_lena.per_module, model)
    assert (modules.names, modules.rows) == (("a", "model"), (0, 0, 1, 1))
    escaped = {"a/b": {"c/d": BIAS}, "a": {"b": {"c/d": BIAS, "c": {"d": BIAS}}}}
    assert names_of(escaped) == {"a%2Fb/c%2Fd", "a/b/c%2Fd", "a/b/c/d"}
    odd = {"a/b": BIAS, "a%2Fb": BIAS, "a": {"b": BIAS}}
    assert len(names_of(odd)) == 3


RULES = [
    optax_lena.per_parameter,
    optax_lena.per_module,
    optax_lena.whole_model,
    optax_lena.by_regex("a", "b"),
    optax_lena.stacked("blocks", 1),
    optax_lena.by_regex("kernel", "bias"),
]


@pytest.mark.parametrize("rule", RULES)
def test_gather_sums_what_scatter_spreads(rule):
    params = helpers.example_params()
    layout = layout_of(rule, params)
    row = np.arange(1.0, 1 + len(layout.names), dtype=np.float32)
    values = layout.scatter(jnp.asarray(row))
    members = np.bincount(np.concatenate([np.ravel(r) for r in layout.rows]))
    np.testing.assert_array_equal(layout.gather(values), row * members)
    shapes = [
        () if a is None else (p.shape[a],)
        for a, p in zip(layout.axes, jax.tree.leaves(params), strict=True)
    ]
    assert [v.shape for v in values] == shapes


@pytest.mark.parametrize("under_jit", [False, True])
def test_every_place_is_read_where_it_was_written(under_jit):
    """Under `jit` on a CPU the places come from memory and not from constants."""
    params = helpers.example_params()
    layout = layout_of(optax_lena.stacked("blocks"), params)
    scatter = jax.jit(layout.scatter) if under_jit else layout.scatter
    values = scatter(jnp.arange(6.0))
    expected = [[0, 1, 2], 3, 4, 5]
    for value, want in zip(values, expected, strict=True):
        np.testing.assert_array_equal(value, want)


@pytest.mark.parametrize(("key", "name"), [("x\0y", r"x\0y"), ("a\udc80", r"a\udc80")])
def test_names_can_be_saved_as_text(key, name):
    """A zero ends a saved name, and a surrogate, as of files' names, is no UTF-8."""
    grads, moments = optax_lena.moments_from_stack({key: jnp.ones((2, 3))})
    assert layout_of(optax_lena.per_parameter, grads).names == (name,)
    tx = optax_lena.lena(0.1, batch_scale=2)
    _, state = tx.update(grads, tx.init(grads), grads, moments=moments)
    assert list(optax_lena.metrics(state))[-1].endswith(f"/{name}")


def test_an_empty_tree_has_an_empty_layout():
    layout = layout_of(optax_lena.per_parameter, {})
    assert layout.names == layout.parameters == ()
    assert layout.gather([]).shape == (0,)
    assert layout.scatter(jnp.zeros(0)) == []


def test_a_stack_of_no_layers_has_no_rows():
    """As in an ablation of the depth."""
    params = {"blocks": jnp.ones((0, 3)), "head": jnp.ones(2)}
    layout = layout_of(optax_lena.stacked("^blocks$"), params)
    assert layout.names == ("head",)
    for jitted in (False, True):
        scatter = helpers.jit(layout.scatter) if jitted else layout.scatter
        blocks, head = scatter(jnp.array([2.0]))
        assert blocks.shape == (0,) and head == 2
    stack = jax.tree.map(lambda x: jnp.stack([x, 3 * x]), params)
    layers = optax_lena.stacked("^blocks$")
    grads, moments = optax_lena.moments_from_stack(stack, layers=layers)
    tx = optax_lena.lena(0.1, 4, layers=layers)
    updates, _ = tx.update(grads, tx.init(params), params, moments=moments)
    assert updates["blocks"].shape == (0, 3)


class NoPytree:
    w = jnp.ones(2)


def test_an_object_is_told_how_to_become_a_pytree():
    message = helpers.says("NoPytree", "'model'", "no array", "register_dataclass")
    params = {"model": NoPytree()}
    with pytest.raises(TypeError, match=message):
        optax_lena.scale_by_lena(batch_scale=2).init(params)
    gather = optax_lena.value_and_grad(lambda p, x: jnp.mean(x @ p["model"].w), 2)
    with pytest.raises(TypeError, match=message):
        gather(params, jnp.ones((4, 2)))


def test_none_in_the_place_of_integers_is_what_their_error_says():
    params = {"steps": jnp.int32(3), "w": jnp.ones(2)}
    gather = optax_lena.value_and_grad(lambda p, x: jnp.mean(x @ p["w"]), 2)
    tx = optax_lena.lena(0.1, batch_scale=2)
    message = helpers.says("'steps'", "Put None in its place", "further argument")
    with pytest.raises(TypeError, match=message):
        gather(params, jnp.ones((4, 2)))
    with pytest.raises(TypeError, match=message):
        tx.init(params)
    params = params | {"steps": None}
    _, grads, moments = gather(params, jnp.ones((4, 2)))
    updates, _ = tx.update(grads, tx.init(params), params, moments=moments)
    assert updates["steps"] is None and jnp.all(updates["w"] < 0)
