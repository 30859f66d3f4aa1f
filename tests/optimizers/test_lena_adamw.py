"""`lena_adamw`: against float64, against `optax.adamw`, and in any unit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_lena
from tests import helpers, oracle

UPDATES, N = 30, 4
adam_preconditioner = optax_lena.adam_preconditioner
lena_adamw = optax_lena.lena_adamw


@helpers.PLAIN_MOMENTS
@pytest.mark.parametrize(
    "case",
    [
        dict(),
        dict(warmup_steps=40, weight_decay=0.1),
        dict(b1=0.5, b2=0.9, eps=1e-3, weight_decay=0.0),  # at or below the floors
        dict(b2=0.98, eps=1e-2),
        dict(preconditioned=False),
        dict(learning_rate=optax.cosine_decay_schedule(0.02, 3 * UPDATES)),
    ],
)
def test_agrees_with_float64(case):
    case = {"weight_decay": 1e-4, "learning_rate": 0.02} | case
    preconditioned = case.pop("preconditioned", True)
    stacks, params = helpers.random_stacks(1, UPDATES, N), helpers.example_params()
    _, got, metrics = helpers.train_adam(
        lena_adamw(batch_scale=N, **case),
        params,
        stacks,
        preconditioner=adam_preconditioner if preconditioned else None,
    )
    warmup_steps, rate = case.pop("warmup_steps", 0), case.pop("learning_rate")
    schedule = (lambda t: float(rate(t))) if callable(rate) else lambda t: rate
    for name, w in helpers.flat(params).items():
        layer = oracle.Layer(oracle.normalised, N, warmup_steps, growth=1.1)
        expected, gains = oracle.replay_adamw(
            w,
            helpers.flat(stacks)[name],
            layer,
            learning_rate=schedule,
            preconditioned=preconditioned,
            **case,
        )
        np.testing.assert_allclose(
            helpers.rows(metrics, "gain")[name], gains, rtol=1e-3
        )
        np.testing.assert_allclose(helpers.flat(got)[name], expected, rtol=1e-3)


@pytest.mark.parametrize(
    "arguments",
    [
        dict(),
        dict(weight_decay=0.0, nesterov=True),
        dict(b1=0.8, b2=0.95, eps=1e-3, weight_decay=0.1, mu_dtype="bfloat16"),
        dict(weight_decay_mask={"blocks": True, "conv1": False, "head": True}),
    ],
)
def test_at_a_batch_scale_of_one_it_is_adamw(arguments):
    """To the last bit, whatever the moments say, and though the loss rises."""
    arguments = dict(weight_decay=0.01) | arguments
    ours = lena_adamw(0.02, batch_scale=1, **arguments)
    arguments["mask"] = arguments.pop("weight_decay_mask", None)
    theirs = optax.adamw(0.02, **arguments)
    params = helpers.example_params()
    states = ours.init(params), theirs.init(params)
    for seed in range(4):
        grads, moments = helpers.example_moments(seed)
        extra = dict(moments=moments, value=float(seed))
        got, ours_state = ours.update(grads, states[0], params, **extra)
        want, theirs_state = theirs.update(grads, states[1], params)
        helpers.assert_trees_equal(got, want)
        states = ours_state, theirs_state
        params = optax.apply_updates(params, want)


def test_agrees_with_float64_where_the_batch_changes_in_mid_run():
    """8, 64 and 16 base batches, then half of one: no reset, and nothing compiles."""
    scales = np.repeat([8.0, 64.0, 16.0, 0.5], [8, 8, 8, 6]).astype(np.float32)
    stacks, params = helpers.random_stacks(6, len(scales), N), helpers.example_params()
    schedule = optax.cosine_decay_schedule(0.02, 2000)
    static = ("learning_rate", "b1", "b2")
    make = optax.inject_hyperparams(lena_adamw, static_args=static)
    tx = make(schedule, 8.0, weight_decay=0.1)
    got, gains = train_at(tx, scales, stacks, params)
    for name, w in helpers.flat(params).items():
        expected, expected_gains = oracle.replay_adamw(
            w,
            helpers.flat(stacks)[name],
            oracle.Layer(oracle.normalised, 8.0, growth=1.1),
            learning_rate=lambda t: float(schedule(t)),
            batch_scales=scales.astype(float),
            weight_decay=0.1,
        )
        np.testing.assert_allclose(gains[name], expected_gains, rtol=1e-4)
        steps = np.diff(expected, axis=0, prepend=w[None])
        close = dict(rtol=1e-5, atol=1e-5 * np.abs(steps).mean())
        np.testing.assert_allclose(helpers.flat(got)[name], steps, **close)


def train_at(tx, scales, stacks, params):
    """Trains with an S for every update; returns all updates and their gains."""

    def update(carry, x):
        params, state = carry
        stack, scale = x
        state.hyperparams["batch_scale"] = scale
        p = adam_preconditioner(state, params)
        grads, moments = optax_lena.moments_from_stack(stack, preconditioner=p)
        updates, state = tx.update(grads, state, params, moments=moments)
        params = optax.apply_updates(params, updates)
        return (params, state), (updates, optax_lena.metrics(state))

    run = helpers.jit(lambda start, xs: jax.lax.scan(update, start, xs)[1])
    updates, metrics = run((params, tx.init(params)), (stacks, scales))
    return updates, helpers.rows(metrics, "gain")


def test_at_a_batch_scale_of_one_a_schedule_is_adamw_s():
    schedule = optax.cosine_decay_schedule(0.02, 10)
    stacks, params = helpers.random_stacks(2, 6, N), helpers.example_params()
    _, got, _ = helpers.train_adam(
        lena_adamw(schedule, 1, weight_decay=0.1), params, stacks
    )
    tx = optax.adamw(schedule, weight_decay=0.1)
    state = tx.init(params)
    for t in range(6):
        grads = jax.tree.map(lambda x, t=t: x[t].mean(0), stacks)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        row = jax.tree.map(lambda x, t=t: x[t], got)
        helpers.assert_trees_close(row, params, rtol=1e-4)


@helpers.PLAIN_MOMENTS
def test_the_decay_scales_with_the_rate_and_keeps_its_mask():
    """The rate of a second update is 1.1 squared of the base batch's."""
    tx = lena_adamw(
        0.1, 4, weight_decay=0.5, weight_decay_mask={"bias": False, "kernel": True}
    )
    params = {"bias": jnp.full(2, 3.0), "kernel": jnp.full(2, 3.0)}
    # A mean of zero moves nothing; opposite gradients are noise only, a gain of 4.
    stack = jax.tree.map(lambda _: jnp.array([[1.0] * 2, [-1.0] * 2]), params)
    grads, moments = optax_lena.moments_from_stack(stack)
    _, state = tx.update(grads, tx.init(params), params, moments=moments)
    updates, _ = tx.update(grads, state, params, moments=moments)
    np.testing.assert_array_equal(updates["bias"], 0)
    np.testing.assert_allclose(updates["kernel"], -0.1 * 1.21 * 0.5 * 3, rtol=1e-6)


@pytest.mark.parametrize("factor", [2.0**-12, 2.0**12])
def test_the_gain_does_not_depend_on_the_unit_of_the_loss(factor):
    """From the first update on, as Adam's own updates do not."""
    stacks, params = helpers.random_stacks(4, 20, N), helpers.example_params()
    tx = lena_adamw(0.01, N, eps=1e-30)
    _, _, plain = helpers.train_adam(tx, params, stacks)
    scaled = jax.tree.map(lambda x: x * np.float32(factor), stacks)
    _, _, other = helpers.train_adam(tx, params, scaled)
    for name in plain:
        np.testing.assert_allclose(other[name], plain[name], rtol=1e-4, err_msg=name)


def test_the_first_five_updates_are_not_measured():
    """The variance of 1 / ν̂ is infinite for less than 5 Gaussian gradients."""
    stacks = helpers.random_stacks(0, 7, N)
    params = helpers.example_params()
    _, _, metrics = helpers.train_adam(lena_adamw(0.01, N), params, stacks)
    gains = np.stack(list(helpers.rows(metrics, "gain").values()))
    assert (gains[:, :5] == 1).all() and (gains[:, 5:] > 1).all()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.complex64])
def test_dtypes(dtype):
    params = {"w": jnp.ones((3, 2), dtype)}
    tx = lena_adamw(0.1, 4)
    state = tx.init(params)
    p = adam_preconditioner(state, params)
    assert p["w"].dtype == jnp.float32
    stack = {"w": jnp.ones((4, 3, 2), dtype)}
    grads, moments = optax_lena.moments_from_stack(stack, preconditioner=p)
    updates, _ = tx.update(grads, state, params, moments=moments)
    assert grads["w"].dtype == updates["w"].dtype == dtype
    assert {x["w"].dtype for x in moments[:2]} == {jnp.dtype(jnp.float32)}


def from_a_stack(tx, preconditioner):
    params, state = helpers.example_params(), tx.init(helpers.example_params())
    p = preconditioner and preconditioner(state, params)
    stack = helpers.random_stacks(0, N)
    grads, moments = optax_lena.moments_from_stack(stack, preconditioner=p)
    tx.update(grads, state, params, moments=moments)


def from_calls(wrap):
    def run(tx, preconditioner):
        tx = wrap(tx, preconditioner=preconditioner)
        params = helpers.example_params()
        grads, _ = helpers.example_moments()
        tx.update(grads, tx.init(params), params)

    return run


DOORS = {
    "value_and_grad and others": from_a_stack,
    "accumulate": from_calls(functools.partial(optax_lena.accumulate, every_k=N)),
    "from_successive_gradients": from_calls(optax_lena.from_successive_gradients),
}


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
@pytest.mark.parametrize("optimizer", [lena_adamw, optax_lena.lena_muon])
def test_a_forgotten_preconditioner_is_told_of(optimizer, door):
    """But not at a batch of S = 1. A warning is an error in these tests."""
    message = helpers.says("`moments`", "preconditioner", "of the plain gradient")
    with pytest.warns(RuntimeWarning, match=message) as warned:
        door(optimizer(0.1, N), None)
    assert "optax/transforms" not in warned[0].filename
    door(optimizer(0.1, N), adam_preconditioner)
    door(optimizer(0.1, 1), None)
