"""linen: a train state that hands moments on, and flax's own with `accumulate`."""

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import linen as nn
from flax.training import train_state

import optax_lena
import optax_lena.flax
from tests import helpers
from tests.flax.problem import (
    N,
    linen_loss,
    make_batch,
    make_linen_state,
    split,
)


class BatchNormState(optax_lena.flax.TrainState):
    batch_stats: dict


def test_linen_train_state_updates_as_the_optimizer_does():
    tx = optax_lena.lena(0.1, batch_scale=N, warmup_steps=10)
    model_state = make_linen_state(tx)[1]["batch_stats"]
    state, _ = make_linen_state(tx, BatchNormState, batch_stats=model_state)
    params, opt_state = state.params, tx.init(state.params)

    @jax.jit
    def gather(params, batch_stats, batch):
        loss_fn = linen_loss(state.apply_fn, batch_stats)
        return optax_lena.value_and_grad(loss_fn, N, has_aux=True)(params, batch)

    for seed in range(2):
        batch = make_batch(seed)
        (_, stats), grads, moments = gather(state.params, state.batch_stats, batch)
        updates, opt_state = tx.update(grads, opt_state, params, moments=moments)
        params = optax.apply_updates(params, updates)
        state = state.apply_gradients(grads=grads, moments=moments, batch_stats=stats)
        assert state.batch_stats is stats

    helpers.assert_trees_equal(state.params, params)
    helpers.assert_trees_equal(state.opt_state, opt_state)
    assert int(state.step) == 2
    assert state.tx is tx
    mean = state.batch_stats["BatchNorm_0"]["mean"]
    assert not np.array_equal(mean, model_state["BatchNorm_0"]["mean"])


def test_linen_train_state_without_moments_is_flax_own():
    tx = optax.adamw(0.1)
    states = [
        make_linen_state(tx, cls)[0]
        for cls in (optax_lena.flax.TrainState, train_state.TrainState)
    ]
    grads = jax.tree.map(jnp.cos, states[0].params)
    states = [state.apply_gradients(grads=grads) for state in states]
    helpers.assert_trees_equal(states[0].params, states[1].params)
    assert int(states[0].step) == 1


def test_linen_train_state_ignores_moments_that_the_optimizer_cannot_take():
    state, _ = make_linen_state(optax.sgd(0.5))
    grads = jax.tree.map(jnp.cos, state.params)
    stack = jax.tree.map(lambda g: jnp.stack([g, g]), grads)
    _, moments = optax_lena.moments_from_stack(stack)
    new = state.apply_gradients(grads=grads, moments=moments)
    helpers.assert_trees_equal(new.params, state.apply_gradients(grads=grads).params)


def test_linen_train_state_hands_the_loss_to_the_optimizer():
    state, variables = make_linen_state(optax_lena.lena_amplified(0.1, batch_scale=N))
    loss_fn = linen_loss(state.apply_fn, variables["batch_stats"])
    gather = jax.jit(optax_lena.value_and_grad(loss_fn, N, has_aux=True))
    (loss, _), grads, moments = gather(state.params, make_batch())
    for value in (loss, 2 * loss):
        state = state.apply_gradients(grads=grads, moments=moments, value=value)
    assert optax_lena.metrics(state.opt_state)["model/noise_share"] == 0.5
    wrapped = optax_lena.accumulate(optax_lena.lena_amplified(0.1, batch_scale=N), N)
    state, _ = make_linen_state(wrapped)
    for _ in range(N):  # without moments
        state = state.apply_gradients(grads=grads, value=loss)
    limit = helpers.lena_state(state.opt_state).loss_limit
    assert limit.highest == pytest.approx(loss)


def test_linen_train_state_hands_weights_to_accumulate():
    tx = optax_lena.accumulate(optax_lena.lena(0.1, batch_scale=N), N)
    state, _ = make_linen_state(tx)
    grads = jax.tree.map(jnp.ones_like, state.params)
    state = state.apply_gradients(grads=grads, weight=3.0)
    assert state.opt_state.sums.weight == 3


def test_flax_own_train_state_does_not_pass_moments_on():
    """The trap that `optax_lena.flax.TrainState` is for: kwargs replace fields."""
    tx = optax_lena.lena(0.1, batch_scale=N)
    state, variables = make_linen_state(tx, train_state.TrainState)
    loss_fn = linen_loss(state.apply_fn, variables["batch_stats"])
    gather = jax.jit(optax_lena.value_and_grad(loss_fn, N, has_aux=True))
    _, grads, moments = gather(state.params, make_batch())
    with pytest.raises(TypeError, match="moments"):
        state.apply_gradients(grads=grads, moments=moments)


@jax.jit
def linen_train_step(state, batch_stats, batch):
    """Flax's own step, unmodified: one gradient per call, no moments."""
    loss_fn = linen_loss(state.apply_fn, batch_stats)
    grads, _ = jax.grad(loss_fn, has_aux=True)(state.params, batch)
    return state.apply_gradients(grads=grads)


def accumulating_loop(state, batch_stats, batches):
    for batch in batches:
        state = linen_train_step(state, batch_stats, batch)
    return state


def test_accumulate_needs_no_change_of_a_linen_loop():
    lena = optax_lena.lena(0.1, batch_scale=N, warmup_steps=10)
    accumulating, variables = make_linen_state(
        optax_lena.accumulate(lena, N), train_state.TrainState
    )
    state, _ = make_linen_state(lena)
    batch_stats, batch = variables["batch_stats"], make_batch()

    accumulating = accumulating_loop(accumulating, batch_stats, split(batch))
    loss_fn = linen_loss(state.apply_fn, batch_stats)
    gather = jax.jit(optax_lena.value_and_grad(loss_fn, N, has_aux=True))
    _, grads, moments = gather(state.params, batch)
    state = state.apply_gradients(grads=grads, moments=moments)

    helpers.assert_trees_close(accumulating.params, state.params, 1e-5, 1e-7)
    inner = accumulating.opt_state.inner_state
    helpers.assert_trees_close(inner, state.opt_state, 1e-4, 1e-7)


def through_msgpack(state, empty, path):
    del path
    return flax.serialization.from_bytes(empty, flax.serialization.to_bytes(state))


def through_orbax(state, empty, path):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, state)
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(path, jax.tree.map(jnp.zeros_like, empty))


@pytest.mark.parametrize("through", [through_msgpack, through_orbax])
@pytest.mark.parametrize("calls_before", [4, 6])
def test_linen_state_resumes_bit_for_bit(tmp_path, through, calls_before):
    """Also in the middle of an accumulation: 4 calls make one update."""
    tx = optax_lena.accumulate(optax_lena.lena(0.1, warmup_steps=10), 4)
    empty, variables = make_linen_state(tx, train_state.TrainState)
    stats, batches = variables["batch_stats"], split(make_batch())
    before = accumulating_loop(empty, stats, batches[:calls_before])
    assert int(before.opt_state.calls) == calls_before % 4

    restored = through(before, empty, tmp_path / "checkpoint")
    helpers.assert_trees_equal(restored, before)
    restored = jax.tree.map(jnp.asarray, restored)
    after = accumulating_loop(restored, stats, batches[calls_before:])
    expected = accumulating_loop(before, stats, batches[calls_before:])
    helpers.assert_trees_equal(after, expected)
    assert int(after.opt_state.updates) == 2
    assert optax_lena.layer_report(after.opt_state)["Dense_0/kernel"]["progress"] > 2


def fp8_state(tx):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(16, dot_general_cls=nn.Fp8DirectDotGeneralOp)(x)

    model, x = Model(), jax.random.normal(jax.random.key(0), (64, 16))
    loss_fn = lambda variables, x: jnp.mean((model.apply(variables, x) - 1) ** 2)
    state = optax_lena.flax.TrainState.create(
        apply_fn=model.apply, params=model.init(jax.random.key(0), x), tx=tx
    )
    return state, loss_fn, x


def test_maxima_of_fp8_layers_are_not_averaged():
    state, loss_fn, x = fp8_state(optax_lena.lena(0.1, 8))
    message = helpers.says("'_overwrite_with_gradient'", "from_successive_gradients")
    with pytest.raises(ValueError, match=message):
        optax_lena.value_and_grad(loss_fn, 8)(state.params, x)


def test_maxima_of_fp8_layers_have_no_moments_in_the_optimizer():
    state, loss_fn, x = fp8_state(optax_lena.lena(0.1, 2))
    halves = [jax.grad(loss_fn)(state.params, half) for half in (x[:32], x[32:])]
    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *halves)
    _, moments = optax_lena.moments_from_stack(stack)
    grads = jax.grad(loss_fn)(state.params, x)
    after = state.apply_gradients(grads=grads, moments=moments)
    overwritten = "_overwrite_with_gradient"
    helpers.assert_trees_equal(after.params[overwritten], grads[overwritten])
    names = sorted(optax_lena.layer_report(after.opt_state))
    assert names == ["Dense_0/bias", "Dense_0/kernel"]


def test_fp8_layers_train_from_successive_gradients():
    tx = optax_lena.from_successive_gradients(optax_lena.lena(0.1, 8))
    state, loss_fn, x = fp8_state(tx)
    first = loss_fn(state.params, x)
    for _ in range(5):
        state = state.apply_gradients(grads=jax.grad(loss_fn)(state.params, x))
    assert loss_fn(state.params, x) < first
