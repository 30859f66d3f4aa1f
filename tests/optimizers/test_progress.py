"""The factor on updates of normalised length, with which each is worth r."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_lena
from tests import helpers

OPTIMIZERS = {
    "lena_adamw": lambda scale: optax_lena.lena_adamw(
        1e-6, scale, b1=0.0, b2=0.95, weight_decay=0.0
    ),
    "lena_lars": lambda scale: optax_lena.lena_lars(1e-3, scale, momentum=0.0),
}
# By which the noise is multiplied whose gain an update is worth.
WORTH = {"lena_adamw": 8, "lena_lars": 1}
# The same directions at the rate of the whole gain.
WITH_THE_WHOLE_GAIN = {
    "lena_adamw": lambda scale: optax.chain(
        optax.scale_by_adam(b1=0.0, b2=0.95),
        optax_lena.scale_by_lena(scale),
        optax.scale(-1e-6),
    ),
    "lena_lars": lambda scale: optax.chain(
        optax.scale_by_trust_ratio(trust_coefficient=0.001),
        optax_lena.scale_by_lena(scale),
        optax.scale(-1e-3),
    ),
}


def progress(name, scale, optimizers=OPTIMIZERS):
    """Mean step along the true gradient, its standard error, and the mean gain.

    400 entries of signal 0.1 and noise 1 per base batch, 300 updates after 100.
    """
    size, updates, n = 400, 400, 4
    tx = optimizers[name](scale)
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((updates, n, size)) / np.sqrt(scale / n)
    stacks = {"w": (0.1 + noise).astype(np.float32)}
    params = {"w": jnp.full(size, 1.0)}
    precondition = None
    if name == "lena_adamw":
        precondition = functools.partial(optax_lena.adam_preconditioner, b2=0.95)

    def update(state, stack):
        p = precondition and precondition(state, params)
        grads, moments = optax_lena.moments_from_stack(stack, preconditioner=p)
        updates, state = tx.update(grads, state, params, moments=moments)
        gain = optax_lena.metrics(state)["gain/w"]
        return state, (-jnp.mean(updates["w"]), gain)

    _, (steps, gains) = helpers.jit(functools.partial(jax.lax.scan, update))(
        tx.init(params), stacks
    )
    steps, gains = (np.asarray(x[100:], np.float64) for x in (steps, gains))
    error = steps.std(ddof=1) / np.sqrt(len(steps))
    return steps.mean(), error, gains.mean()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_update_makes_the_progress_of_as_many_base_updates_as_it_is_worth(name):
    """The square root of the gain comes from the division, the rest from the rate.

    Within 4 standard errors and 5 % for ν, which follows 20 gradients only.
    """
    base, base_error, gain = progress(name, 1.0)
    assert gain == 1
    large, error, gain = progress(name, 16.0)
    assert abs(gain / (1.01 / (1 / 16 + 0.01)) - 1) < 0.1
    noise = WORTH[name]
    truth = (noise + 0.01) / (noise / 16 + 0.01)
    ratio = large / base
    spread = ratio * np.hypot(error / large, base_error / base)
    assert spread < 0.1 * ratio
    assert abs(ratio - truth) < 4 * spread + 0.05 * truth
    whole, _, _ = progress(name, 16.0, WITH_THE_WHOLE_GAIN)
    assert whole / base > 2 * truth
