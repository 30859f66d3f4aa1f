"""Moments under a preconditioner, whichever gatherer takes them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_lena
from tests import helpers
from tests.helpers import says

UPDATES, N = 30, 4
adam_preconditioner = optax_lena.adam_preconditioner
lena_adamw = optax_lena.lena_adamw


@pytest.mark.parametrize("weighs", [False, True])
def test_moments_agree_with_float64(weighs):
    stack = helpers.random_stacks(0, 6)
    p = helpers.random_stacks(1)
    weights = np.array([1, 2, 3, 0, 5, 6], np.float32)
    kwargs = {"weights": weights} if weighs else {}
    shares = weights / 17.0 if weighs else np.full(6, 1 / 6)
    grads, moments = optax_lena.moments_from_stack(stack, preconditioner=p, **kwargs)
    raw, _ = optax_lena.moments_from_stack(stack, **kwargs)
    helpers.assert_trees_equal(grads, raw)
    micro, batch = map(helpers.flat, moments[:2])
    for name, g in helpers.flat(stack).items():
        g = (g.astype(np.float64) * helpers.flat(p)[name]).reshape(6, -1)
        np.testing.assert_allclose(micro[name], shares @ (g * g).sum(1), rtol=1e-5)
        np.testing.assert_allclose(batch[name], np.sum((shares @ g) ** 2), rtol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "parts"),
    [
        ({"w": jnp.ones(4)}, ("shape (3,)", "'w'", "got (4,)")),
        ({"w": jnp.ones(())}, ("shape (3,)", "'w'", "got ()")),
        ({}, ("shape (3,)", "'w'", "got none")),
        ({"w": jnp.ones(3), "v": jnp.ones(2)}, ("shape none", "'v'", "got (2,)")),
    ],
)
def test_a_preconditioner_of_another_tree(wrong, parts):
    message = says("`preconditioner`", *parts, "adam_preconditioner(opt_state, params)")
    grads = {"w": jnp.ones((4, 3))}
    with pytest.raises(ValueError, match=message):
        optax_lena.moments_from_stack(grads, preconditioner=wrong)
    f = optax_lena.value_and_grad(lambda w, x: jnp.sum(w["w"]) * jnp.mean(x), 2)
    with pytest.raises(ValueError, match=message):
        f({"w": jnp.ones(3)}, jnp.ones(4), preconditioner=wrong)
    over_axis = lambda g: optax_lena.moments_over_axis(g, "i", preconditioner=wrong)
    with pytest.raises(ValueError, match=message):
        jax.vmap(over_axis, axis_name="i")(grads)
    tx = optax_lena.accumulate(lena_adamw(0.1, 4), 4, preconditioner=lambda *_: wrong)
    row = {"w": jnp.ones(3)}
    with pytest.raises(ValueError, match=message):
        tx.update(row, tx.init(row), row)


def test_accumulate_equals_the_stack():
    stacks = helpers.random_stacks(3, 12, N)
    params = helpers.example_params()
    _, expected, metrics = helpers.train_adam(lena_adamw(0.01), params, stacks)
    tx = optax_lena.accumulate(
        lena_adamw(0.01), N, preconditioner=optax_lena.adam_preconditioner
    )

    def call(carry, grads):
        params, state = carry
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), stacks)
    run = helpers.jit(functools.partial(jax.lax.scan, call))
    (got, state), _ = run((params, tx.init(params)), rows)
    last = lambda tree: jax.tree.map(lambda x: x[-1], tree)
    helpers.assert_trees_close(got, last(expected), rtol=1e-4)
    helpers.assert_trees_close(
        optax_lena.metrics(state), last(metrics), rtol=1e-3, atol=1e-5
    )


def test_successive_gradients_under_a_preconditioner():
    """Two halves of a batch, measured as p times their gradients."""
    p = {"w": jnp.array([1.0, 10.0])}
    tx = optax_lena.from_successive_gradients(
        optax_lena.scale_by_lena(8), preconditioner=lambda state, params: p
    )
    state = tx.init(p)
    for grad in ([3.0, 0.2], [1.0, 0.4]):
        _, state = tx.update({"w": jnp.array(grad)}, state)
    row = optax_lena.layer_report(state)["w"]
    # d = (2² + 2²) / 4 = 2, m = (9 + 4 + 1 + 16) / 2 = 15
    np.testing.assert_allclose([row["noise"], row["signal"]], [8 * 4, 11], rtol=1e-5)
