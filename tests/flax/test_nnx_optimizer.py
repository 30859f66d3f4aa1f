"""`nnx.Optimizer`, and the optimizer by hand, under both ways of compiling nnx."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import optax_lena
from tests import helpers


class Model(nnx.Module):
    def __init__(self, rngs):
        self.conv1 = nnx.Linear(3, 4, rngs=rngs)
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(jnp.tanh(self.conv1(x)))


BATCH = np.random.default_rng(0).standard_normal((16, 3)).astype(np.float32)


def nnx_gather(model):
    graphdef, params = nnx.split(model)
    loss = lambda params, x: jnp.mean((nnx.merge(graphdef, params)(x) - 1) ** 2)
    return optax_lena.value_and_grad(loss, 4)(params, BATCH)


def nnx_train(split):
    model = Model(nnx.Rngs(0))
    tx = optax_lena.lena(0.1, 4, warmup_steps=8)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    losses = []
    if split:
        graphdef, state = nnx.split((model, optimizer))

        @jax.jit
        def train_step(state):
            model, optimizer = nnx.merge(graphdef, state)
            value, grads, moments = nnx_gather(model)
            optimizer.update(model, grads, moments=moments)
            return nnx.state((model, optimizer)), value

        for _ in range(3):
            state, value = train_step(state)
            losses.append(float(value))
        model, optimizer = nnx.merge(graphdef, state)
    else:

        @nnx.jit
        def train_step(model, optimizer):
            value, grads, moments = nnx_gather(model)
            optimizer.update(model, grads, moments=moments)
            return value

        losses = [float(train_step(model, optimizer)) for _ in range(3)]
    return model, optimizer, losses


@pytest.mark.parametrize("split", [False, True])
def test_nnx_optimizer(split):
    model, optimizer, losses = nnx_train(split)
    assert losses[2] < losses[1] < losses[0]
    report = optax_lena.layer_report(optimizer.opt_state)
    assert set(report) == {
        f"{m}/{p}" for m in ("conv1", "head") for p in ("kernel", "bias")
    }
    assert all(1 <= row["gain"] <= 4 for row in report.values())

    params = nnx.to_pure_dict(nnx.state(Model(nnx.Rngs(0)), nnx.Param))
    tx = optax_lena.lena(0.1, 4, warmup_steps=8)
    state = tx.init(params)

    @jax.jit
    def plain_step(params, state):
        def loss(p, x):
            hidden = jnp.tanh(x @ p["conv1"]["kernel"] + p["conv1"]["bias"][None])
            out = hidden @ p["head"]["kernel"] + p["head"]["bias"][None]
            return jnp.mean((out - 1) ** 2)

        _, grads, moments = optax_lena.value_and_grad(loss, 4)(params, BATCH)
        updates, state_ = tx.update(grads, state, params, moments=moments)
        return optax.apply_updates(params, updates), state_

    for _ in range(3):
        params, state = plain_step(params, state)
    got = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    helpers.assert_trees_close(got, params, rtol=1e-4, atol=1e-6)
