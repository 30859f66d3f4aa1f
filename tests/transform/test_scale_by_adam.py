"""`scale_by_adam`: optax's at S = 1, and where its averages count examples."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_lena
from tests import helpers

scale_by_adam = optax_lena.scale_by_adam


def directions(tx, updates=6, **extra):
    """Returns what it makes of some gradients, and its last state."""
    state, made = tx.init(helpers.example_params()), []
    for seed in range(updates):
        grads, moments = helpers.example_moments(seed)
        given = {"moments": moments} if extra.get("moments") else {}
        direction, state = tx.update(grads, state, **given)
        made.append(direction)
    return made, state


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(b1=0.0, b2=0.5, eps=1e-3),
        dict(nesterov=True),
        dict(b1=0.8, b2=0.95, mu_dtype="bfloat16"),
    ],
)
def test_at_a_batch_scale_of_one_it_is_optax_s_to_the_last_bit(options):
    got, state = directions(scale_by_adam(1, **options))
    expected, theirs = directions(optax.scale_by_adam(**options))
    helpers.assert_trees_equal(got, expected)
    helpers.assert_trees_equal((state.mu, state.nu), (theirs.mu, theirs.nu))


def test_an_injected_batch_scale_of_one_is_optax_s_too():
    got, _ = directions(optax.inject_hyperparams(scale_by_adam)(1.0))
    theirs = optax.inject_hyperparams(optax.scale_by_adam)()
    helpers.assert_trees_equal(got, directions(theirs)[0])


@pytest.mark.parametrize("nesterov", [False, True])
def test_at_another_it_is_optax_s_with_other_decays(nesterov):
    got, _ = directions(scale_by_adam(4, b1_floor=0.7, nesterov=nesterov))
    theirs = optax.scale_by_adam(0.7, 0.999**4, 1e-8 / 2, nesterov=nesterov)
    helpers.assert_trees_close(got, directions(theirs)[0], rtol=2e-5, atol=1e-7)


def test_floors_at_the_decays_leave_them_alone():
    got, _ = directions(scale_by_adam(64, b1_floor=0.9, b2_floor=0.999, eps=0.0))
    expected, _ = directions(optax.scale_by_adam(eps=0.0))
    helpers.assert_trees_close(got, expected, rtol=1e-6)


def test_without_a_batch_scale_it_is_the_number_of_microbatches():
    got, _ = directions(scale_by_adam(), moments=True)
    helpers.assert_trees_equal(got, directions(scale_by_adam(4))[0])
    with pytest.raises(TypeError, match="moments"):
        directions(scale_by_adam())


def test_the_preconditioner_needs_no_copies_of_its_numbers():
    tx = scale_by_adam(16, b2=0.99, eps=1e-2)
    _, state = directions(tx)
    got = optax_lena.adam_preconditioner(state, helpers.example_params())
    weight = 1 - 0.9**6  # 0.99 ** 16 is below the floor
    expected = jax.tree.map(lambda nu: 1 / (np.sqrt(nu / weight) + 1e-2 / 4), state.nu)
    helpers.assert_trees_close(got, expected, rtol=1e-5)


def test_complex_gradients():
    grads = {"w": jnp.array([3 + 4j, 1 - 1j])}
    ours, theirs = scale_by_adam(1), optax.scale_by_adam()
    got, _ = ours.update(grads, ours.init(grads))
    expected, _ = theirs.update(grads, theirs.init(grads))
    helpers.assert_trees_equal(got, expected)
