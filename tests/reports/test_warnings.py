"""What a report warns of: no noise, no gradients, moved rows, an ended schedule."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_lena
from optax_lena._reports.report import _warn_of_summed_gradients

CALM, NOISY = jnp.array([3.0, 3.0]), jnp.array([1.0, -1.0])
SIGNAL = jnp.array([3.0, 1.0])  # with noise


def reported(stack, batch_scale=2):
    return optax_lena.layer_report(updated(optax_lena.lena(0.1, batch_scale), stack, 1))


def updated(tx, stack, updates, **given):
    """The state after so many updates with the same gradients."""
    grads, moments = optax_lena.moments_from_stack(stack, **given)
    step = lambda _, state: tx.update(grads, state, grads, moments=moments)[1]
    return jax.lax.fori_loop(0, updates, step, tx.init(grads))


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


@pytest.mark.parametrize(
    ("noise", "signal", "batch_scale", "warns"),
    [
        (1e-5 * 4 * 0.5, 0.5, 4, True),
        (0.9e-5 * 4 * 0.5, 0.5, 4, True),
        (1.1e-5 * 4 * 0.5, 0.5, 4, False),
        (0.0, 0.5, 1.5, True),
        (0.0, 0.5, 1, False),
        (0.0, 0.0, 4, False),
        (0.0, -0.5, 4, False),
    ],
)
def test_a_millionth_of_noise_is_rounding(noise, signal, batch_scale, warns):
    columns = {"noise": np.array([noise]), "signal": np.array([signal])}
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        _warn_of_summed_gradients(columns, batch_scale)
        _warn_of_summed_gradients({k: x[:0] for k, x in columns.items()}, batch_scale)
    assert len(record) == warns


def test_warnings_point_at_the_call_of_the_report():
    grads, moments = optax_lena.moments_from_stack({"a": CALM})
    tx = optax_lena.lena(0.1, 2)
    _, state = tx.update(grads, tx.init(grads), grads, moments=moments)
    other = tx.init({"b": jnp.ones(())})[2].row_ids
    moved = [s._replace(row_ids=other) if hasattr(s, "row_ids") else s for s in state]
    for given, words in ((state, "free of noise"), (tuple(moved), "other layers")):
        with warnings.catch_warnings(record=True) as record:
            warnings.simplefilter("always")
            optax_lena.layer_report(given)
        (warning, *_) = [w for w in record if words in str(w.message)]
        assert warning.filename == __file__


ZERO, NOT_FINITE = jnp.zeros(2), jnp.array([1.0, jnp.inf])


@pytest.mark.parametrize(
    "given",
    [
        {"stack": {"a": ZERO, "b": ZERO}},
        {"stack": {"a": NOT_FINITE, "b": NOT_FINITE}},
        # What Adam makes of a gradient before it has seen one.
        {"stack": {"a": NOISY}, "preconditioner": {"a": jnp.zeros(())}},
    ],
)
def test_gradients_that_nothing_was_measured_of_are_told(given):
    tx = optax_lena.lena(0.1, 2)
    with warnings.catch_warnings():  # the first batches may be such ones
        warnings.simplefilter("error")
        optax_lena.layer_report(updated(tx, updates=10, **given))
    with pytest.warns(RuntimeWarning, match=r"No layer has .*adam_preconditioner\("):
        optax_lena.layer_report(updated(tx, updates=11, **given))


def test_they_are_told_by_the_label_of_a_partition():
    parts = {label: optax_lena.lena(0.1, 2) for label in ("frozen", "trained")}
    tx = optax.partition(parts, {"a": "frozen", "b": "trained"})
    with pytest.warns(RuntimeWarning, match="No layer of 'frozen' has"):
        optax_lena.layer_report(updated(tx, {"a": ZERO, "b": SIGNAL}, updates=11))


@pytest.mark.parametrize(
    "tx", [optax_lena.lena_adamw(0.1), optax_lena.monitor(optax.adamw(0.1))]
)
@pytest.mark.parametrize("updates", [2, 5, 11])
def test_the_first_updates_of_adam_measure_nothing_and_are_no_trap(tx, updates):
    params, stack = {"a": jnp.ones(())}, {"a": jnp.array([1.0, 3.0])}

    def step(_, state):
        p = optax_lena.adam_preconditioner(state, params)
        grads, moments = optax_lena.moments_from_stack(stack, preconditioner=p)
        return tx.update(grads, state, params, moments=moments)[1]

    state = jax.lax.fori_loop(0, updates, step, tx.init(params))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optax_lena.layer_report(state)


@pytest.mark.parametrize("batch_scale", [1, 2])
def test_one_layer_without_a_gradient_is_no_trap(batch_scale):
    tx = optax_lena.lena(0.1, batch_scale)
    stack = {"a": ZERO, "b": SIGNAL} if batch_scale > 1 else {"a": ZERO}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optax_lena.layer_report(updated(tx, stack, updates=11))


@pytest.mark.parametrize("kind", ["shuffled", "sorted", "sorted, in time"])
def test_batches_in_the_order_of_their_classes_are_told(kind):
    """Each class pulls the parameter its own way, and together they hardly pull."""
    tx = optax_lena.lena(0.1, batch_scale=8)
    spread = {"spread": "time"} if kind == "sorted, in time" else {}
    gather = optax_lena.value_and_grad(
        lambda w, x: jnp.mean((w[None] - x) ** 2), num_microbatches=8, **spread
    )

    def step(t, carry):
        w, state = carry
        batch = jax.random.randint(jax.random.key(t), (64, 1), -4, 5)
        batch = batch if kind == "shuffled" else jnp.sort(batch, axis=0)
        _, grads, moments = gather(w, batch)
        updates, state = tx.update(grads, state, w, moments=moments)
        return w + updates, state

    w = jnp.zeros(20)
    _, state = jax.lax.fori_loop(0, 50, step, (w, tx.init(w)))
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        optax_lena.layer_report(state)
    messages = [str(warning.message) for warning in record]
    assert len(messages) == (kind == "sorted")
    assert all("differ by more than chance" in message for message in messages)


def test_nor_are_rates_that_need_no_moments():
    tx = optax_lena.linear_scaling(0.1, 2)
    step = lambda _, state: tx.update({"a": ZERO}, state)[1]
    state = jax.lax.fori_loop(0, 11, step, tx.init({"a": ZERO}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optax_lena.layer_report(state)


@pytest.mark.parametrize(("updates", "warns"), [(1, 0), (2, 1)])
def test_a_schedule_may_start_at_zero_and_not_stay_there(updates, warns):
    tx = optax_lena.lena(lambda count: 0.0 * count, batch_scale=2)
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        optax_lena.layer_report(updated(tx, {"a": NOISY}, updates))
    messages = [str(warning.message) for warning in record]
    assert len(messages) == warns
    assert all("a learning rate of 0:" in message for message in messages)


def test_a_negative_schedule_is_told():
    """One that counts updates falls on, called with eight base batches in each."""
    tx = optax_lena.lena(lambda count: 0.1 * (1 - count / 10), batch_scale=8)
    stack = {"w": jnp.array([[1.0, 2.0], [3.0, 1.0]])}
    grads, moments = optax_lena.moments_from_stack(stack)
    state = tx.init(grads)
    for _ in range(3):
        optax_lena.layer_report(state)
        _, state = tx.update(grads, state, grads, moments=moments)
    with pytest.warns(RuntimeWarning, match="learning rate of -0.06.* base batches"):
        optax_lena.layer_report(state)
