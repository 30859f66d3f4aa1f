"""Metrics: in which norm noise is measured."""

import jax.numpy as jnp
import numpy as np
import pytest

import optax_lena
from optax_lena import Metric
from tests import helpers


class Doubled(Metric):
    def sq_norm(self, gradient):
        return 4 * super().sq_norm(gradient)


def test_norms_are_squared_sums_per_leaf_and_per_slice():
    grads = helpers.random_stacks(0)
    got = helpers.flat(Metric(optax_lena.stacked("blocks")).sq_norms(grads))
    for name, g in helpers.flat(grads).items():
        g = g.astype(np.float64)
        axes = (1, 2) if "blocks" in name else None
        np.testing.assert_allclose(got[name], (g * g).sum(axes), rtol=1e-5)


def test_multipliers_enter_as_their_squares():
    grads, p = helpers.random_stacks(0), helpers.random_stacks(1)
    got = helpers.flat(Metric(multipliers=p).sq_norms(grads))
    for name, g in helpers.flat(grads).items():
        expected = ((g.astype(np.float64) * helpers.flat(p)[name]) ** 2).sum()
        np.testing.assert_allclose(got[name], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (jnp.array([3 + 4j, 0], jnp.complex64), 25),
        (jnp.array([300, 400], jnp.float16), 250_000),
    ],
)
def test_norms_are_real_and_in_float32_at_least(value, expected):
    norm = Metric().sq_norms(value)
    assert norm == expected and norm.dtype == jnp.float32


def test_a_metric_of_ones_own_gets_the_layers_of_its_gatherer():
    stack = helpers.random_stacks(0, 4)
    layers = optax_lena.stacked("blocks")
    plain, own = (
        optax_lena.moments_from_stack(stack, layers=layers, preconditioner=metric)[1]
        for metric in (None, Doubled())
    )
    assert own.micro_sq_norm["blocks"]["kernel"].shape == (3,)
    helpers.assert_trees_close(own, plain.rescale(2.0))


class Power(Metric):
    """A metric with an `__init__` of its own."""

    def __init__(self, power):
        object.__setattr__(self, "power", power)

    def sq_norm(self, gradient):
        return jnp.sum(jnp.abs(gradient) ** self.power)


def test_a_metric_may_have_an_init_of_its_own():
    stack = helpers.random_stacks(0, 4)
    layers = optax_lena.stacked("blocks")
    plain, own = (
        optax_lena.moments_from_stack(stack, layers=layers, preconditioner=metric)[1]
        for metric in (None, Power(2))
    )
    helpers.assert_trees_close(own, plain)


@pytest.mark.parametrize("layers", [optax_lena.per_parameter, optax_lena.whole_model])
def test_a_metric_with_other_layers_than_its_gatherer_is_refused(layers):
    metric = Metric(layers=optax_lena.stacked("blocks"))
    message = helpers.says("`preconditioner`", "layers", "got one with", "blocks")
    with pytest.raises(ValueError, match=message):
        optax_lena.moments_from_stack(
            helpers.random_stacks(0, 4), layers=layers, preconditioner=metric
        )
    same = optax_lena.stacked("blocks")
    optax_lena.moments_from_stack(
        helpers.random_stacks(0, 4), layers=same, preconditioner=metric
    )


@pytest.mark.parametrize("multipliers", [{"w": jnp.ones(1)}, {"v": jnp.ones(3)}])
def test_multipliers_in_a_metric_are_like_the_gradient(multipliers):
    stack = {"w": np.ones((4, 3), np.float32)}
    message = helpers.says("`preconditioner`", "shape (3,)", "'w'")
    with pytest.raises(ValueError, match=message):
        optax_lena.moments_from_stack(
            stack, preconditioner=Metric(multipliers=multipliers)
        )
