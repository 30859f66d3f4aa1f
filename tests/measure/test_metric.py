"""Metrics: the norm in which noise is measured."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optax_lena
from optax_lena import Metric
from optax_lena._measure.metric import ShardedMetric
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


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_multiplied_gradients_are_widened_first(dtype):
    """1000 times 300 is beyond float16, and 257 times 3 beyond bfloat16's 8 bits."""
    for gradient, multiplier in ((300.0, 1000.0), (257.0, 3.0)):
        given = jnp.array([gradient], dtype)
        metric = optax_lena.Metric(multipliers={"w": jnp.array([multiplier])})
        norm = metric.sq_norms({"w": given})["w"]
        expected = (float(given[0]) * multiplier) ** 2
        np.testing.assert_allclose(norm, expected, rtol=1e-6)
        assert norm.dtype == jnp.float32


def test_with_64_bits_norms_are_as_wide_as_the_gradients_and_leave_in_32():
    with jax.enable_x64(True):
        for dtype in (np.float32, np.float64):
            stack = {"w": jnp.ones((2, 3), dtype)}
            multipliers = {"w": jnp.ones(3, np.float64)}
            metric = optax_lena.Metric(multipliers=multipliers)
            assert metric.sq_norms({"w": stack["w"][0]})["w"].dtype == dtype
            grads, moments = optax_lena.moments_from_stack(
                stack, preconditioner=multipliers
            )
            assert grads["w"].dtype == dtype
            for norms in moments[:2]:
                assert norms["w"].dtype == np.float32


def test_a_metric_of_ones_own_gets_the_layers_of_its_gatherer():
    stack = helpers.random_stacks(0, 4)
    layers = optax_lena.stacked("blocks")
    plain, own = (
        optax_lena.moments_from_stack(stack, layers=layers, preconditioner=metric)[1]
        for metric in (None, Doubled())
    )
    assert own.micro_sq_norm["blocks"]["kernel"].shape == (3,)
    helpers.assert_trees_close(tuple(own), tuple(plain.rescale(2.0)))


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
    helpers.assert_trees_close(tuple(own), tuple(plain))


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


def test_only_what_is_sharded_is_summed_over_the_shards():
    """Per parameter over its own axes: a sum over two axes, over one, and none."""
    metric = ShardedMetric(optax_lena.Metric(), (("x",), (), ("x", "y")))
    shards = jnp.arange(1.0, 7.0).reshape(2, 3)
    norms = lambda g: metric.sq_norms({"a": g, "b": g, "c": g})
    inner = jax.vmap(norms, axis_name="y")
    got = jax.vmap(inner, axis_name="x")(shards)
    squares = shards**2
    over_x = jnp.broadcast_to(squares.sum(0), (2, 3))
    np.testing.assert_allclose(got["a"], over_x)
    np.testing.assert_allclose(got["b"], squares)
    np.testing.assert_allclose(got["c"], jnp.full((2, 3), squares.sum()))


def test_sums_over_shards_stand_in_the_order_of_the_parameters():
    """All hosts must trace the same program, and sets have another order on each."""
    axes = [("x",), ("y",), ("z",), ("x", "y"), ("x", "z"), ("y", "z"), ("x", "y", "z")]
    metric = ShardedMetric(optax_lena.Metric(), (*axes, ("x",)))
    norms = lambda g: metric.sq_norms([g] * 8)
    for axis in "xyz":
        norms = jax.vmap(norms, axis_name=axis)
    summed = []
    with pytest.MonkeyPatch.context() as patched:
        psum = jax.lax.psum
        patched.setattr(
            jax.lax, "psum", lambda x, name: summed.append(name) or psum(x, name)
        )
        norms(jnp.ones((2, 2, 2)))
    assert summed == axes
