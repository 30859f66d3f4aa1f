"""The optimizers around momentum SGD: what they are without LENA, and what decays."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_lena
from tests import helpers


@pytest.mark.parametrize("factory", [optax_lena.lena, optax_lena.lena_amplified])
@pytest.mark.parametrize("nesterov", [False, True])
def test_at_a_batch_scale_of_one_it_is_sgd(factory, nesterov):
    """Spikes too: some gradients here are ten times as long as others."""
    params, lengths = helpers.example_params(), np.tile([1, 1, 1, 10], 5)
    stacks = jax.tree.map(
        lambda x: x * lengths.reshape(-1, *[1] * (x.ndim - 1)),
        helpers.random_stacks(3, len(lengths), 2),
    )
    _, ours, _ = helpers.train(factory(0.1, 1, nesterov=nesterov), params, stacks)
    sgd = optax.sgd(0.1, 0.9, nesterov)

    def step(carry, grads):
        params, state = carry
        updates, state = sgd.update(grads, state)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    grads = jax.tree.map(lambda x: jnp.mean(x, axis=1), stacks)
    _, theirs = jax.lax.scan(step, (params, sgd.init(params)), grads)
    helpers.assert_trees_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "factory",
    [optax_lena.lena, optax_lena.lena_amplified, optax_lena.linear_scaling],
)
def test_nothing_warms_up_unless_asked(factory):
    """At half the base batch a warm-up of one base step would show, too."""
    grads, moments = helpers.example_moments()
    tx = factory(0.1, 0.5)
    _, state = tx.update(grads, tx.init(grads), grads, moments=moments)
    assert optax_lena.metrics(state)["model/min_warmup_factor"] == 1


def test_weight_decay_mask_says_what_decays():
    params, (grads, moments) = helpers.example_params(), helpers.example_moments()
    mask = jax.tree.map(lambda p: p.ndim > 1, params)
    kwargs = dict(momentum=None, weight_decay=0.5)
    step = lambda **more: _update(optax_lena.lena(0.1, 4, **more), params)
    _update = lambda tx, params: tx.update(
        grads, tx.init(params), params, moments=moments
    )[0]
    none, masked, all_ = (
        helpers.flat(step(**more))
        for more in ({"momentum": None}, dict(kwargs, weight_decay_mask=mask), kwargs)
    )
    np.testing.assert_array_equal(masked["conv1/bias"], none["conv1/bias"])
    np.testing.assert_array_equal(masked["head/kernel"], all_["head/kernel"])
    assert (all_["conv1/bias"] < none["conv1/bias"]).all()


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Module:
    """A pytree that can be called, as Equinox's modules can."""

    w: Any

    def __call__(self, x):
        raise AssertionError("a mask that is no function was called")


def test_a_mask_may_be_a_tree_that_can_be_called():
    params = Module({"a": jnp.ones(2), "b": jnp.ones(2)})
    options = dict(weight_decay=0.5, weight_decay_mask=Module({"a": True, "b": False}))
    tx = optax_lena.linear_scaling(1.0, 1, momentum=None, **options)
    grads = jax.tree.map(lambda x: 0 * x, params)
    updates, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_array_equal(updates.w["a"], [-0.5, -0.5])
    np.testing.assert_array_equal(updates.w["b"], [0, 0])


def test_moments_given_to_fixed_linear_scaling_change_reports_only():
    tx = optax_lena.linear_scaling(0.1, 4, warmup_steps=8)
    grads, moments = helpers.example_moments()
    state = tx.init(grads)
    updates, seen = tx.update(grads, state, grads, moments=moments)
    blind_updates, blind = tx.update(grads, state, grads)
    helpers.assert_trees_equal(updates, blind_updates)
    assert optax_lena.layer_report(seen)["model"]["gain"] > 1
    assert optax_lena.layer_report(blind)["model"]["gain"] == 1


def test_the_least_values_are_allowed():
    optax_lena.lena(0, 1, warmup_steps=0, momentum=0, weight_decay=0)


@pytest.mark.parametrize("factory", [optax_lena.lena, optax_lena.lena_amplified])
def test_there_is_a_derivative_by_the_batch_scale(factory):
    """Though no gradient was usual before the first, and none is a spike."""
    params = helpers.example_params()
    grads, moments = helpers.example_moments(n=8)

    def after_two_updates(scale):
        tx, w = factory(0.1, scale), params
        state = tx.init(w)
        for _ in range(2):
            updates, state = tx.update(grads, state, w, moments=moments)
            w = optax.apply_updates(w, updates)
        return sum(jnp.vdot(x, x) for x in jax.tree.leaves(w))

    derivative = helpers.jit(jax.grad(after_two_updates))(8.0)
    above, below = map(helpers.jit(after_two_updates), (8.25, 7.75))
    difference = (above - below) / 0.5
    np.testing.assert_allclose(derivative, difference, rtol=0.01)
