"""What is read: what a logger writes for infinity, chunks, prefixes, broken lines."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optax_lena


def without_signal():
    stack = {"w": jnp.array([[1.0, -1.0], [-1.0, 1.0]])}
    grads, moments = optax_lena.moments_from_stack(stack)
    tx = optax_lena.lena(0.1, 2)
    _, state = tx.update(grads, tx.init(grads), grads, moments=moments)
    return optax_lena.metrics(state)


@pytest.mark.parametrize("rounded", ["{!r}", "{:g}", "{:.3g}", "inf"])
def test_the_largest_float_is_infinite(rounded):
    """A log of the noise scale alone says the same as one of noise and signal."""
    logged = without_signal()
    scale = float(rounded.format(float(logged["model/noise_scale"])))
    alone = {"model/noise_scale": scale, "model/base_steps": 2.0}
    for ours in (alone, logged):
        ramp = optax_lena.BatchRamp(batch_scale=8)
        assert ramp.update(ramp.init(), ours) == ramp.init()
    advice = optax_lena.advise([alone] * 20)
    assert np.isinf(advice.critical_scale)
    assert "No signal was seen" in str(advice)


def test_what_was_not_measured_is_not_infinite():
    scales = np.array([30.0, np.nan, 30.0, 1e30, 30.0])
    history = optax_lena.advise({"model/noise_scale": scales}).history
    np.testing.assert_allclose(history.noise_scale, [30, 30, 1e30, 30])


@pytest.mark.parametrize("prefix", ["", "train/", "run/train/"])
@pytest.mark.parametrize("name", ["gain", "noise", "noise_scale"])
def test_a_layer_called_as_the_models_metrics(prefix, name):
    params = {"model": {name: jnp.ones(3), "w": jnp.ones(3)}}
    tx = optax_lena.lena(0.1, 2)
    noise = jax.random.normal(jax.random.key(0), (2, 3))
    stack = jax.tree.map(lambda p: p[None] + noise, params)
    grads, moments = optax_lena.moments_from_stack(stack)
    _, state = tx.update(grads, tx.init(params), params, moments=moments)
    logged = optax_lena.metrics(state)
    # The layer's metrics come first, as in a sorted log.
    keys = sorted(logged, key=lambda key: key.startswith("model/"))
    row = {prefix + key: float(logged[key]) for key in keys}
    advice = optax_lena.advise(row)
    assert set(advice.per_layer) == {f"{prefix}model/{name}", f"{prefix}model/w"}
    of_state = optax_lena.advise(state).curve.noise_scale
    assert advice.curve.noise_scale == pytest.approx(of_state, rel=1e-5)
