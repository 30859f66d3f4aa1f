"""Edges of the reports: what only a mutation test has asked about."""

import warnings

import jax.numpy as jnp
import pytest

import optax_lena


def reported(stack, batch_scale=2):
    grads, moments = optax_lena.moments_from_stack(stack)
    tx = optax_lena.lena(0.1, batch_scale)
    _, state = tx.update(grads, tx.init(grads), grads, moments=moments)
    return optax_lena.layer_report(state)


CALM, NOISY = jnp.array([3.0, 3.0]), jnp.array([1.0, -1.0])


@pytest.mark.parametrize("stack", [{"a": CALM, "b": NOISY}, {"b": NOISY}])
def test_one_layer_without_noise_is_no_trap(stack):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reported(stack)


@pytest.mark.parametrize("stack", [{"a": CALM}, {"a": CALM, "b": 2 * CALM}])
def test_no_layer_with_noise_is_one(stack):
    with pytest.warns(RuntimeWarning, match="free of noise"):
        reported(stack)
    with warnings.catch_warnings():  # at S = 1 there is no gain to lose
        warnings.simplefilter("error")
        reported(stack, batch_scale=1)
