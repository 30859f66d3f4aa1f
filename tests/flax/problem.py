"""One batch for every model, a train step for every nnx model, and a linen model."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import optax_lena
import optax_lena.flax

N, BATCH, FEATURES = 8, 32, 4


def make_batch(seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(BATCH, FEATURES)).astype(np.float32)
    y = x[:, :1] + 0.1 * rng.normal(size=(BATCH, 1)).astype(np.float32)
    return {"x": jnp.asarray(x), "y": jnp.asarray(y)}


def split(batch, n=N):
    pieces = {name: jnp.split(x, n) for name, x in batch.items()}
    return [{name: piece[i] for name, piece in pieces.items()} for i in range(n)]


def nnx_loss(model, batch):
    return jnp.mean((model(batch["x"]) - batch["y"]) ** 2)


def make_train_step(metrics=True, **kwargs):
    gather = optax_lena.flax.value_and_grad(nnx_loss, N, **kwargs)

    @nnx.jit
    def train_step(model, optimizer, batch):
        loss, grads, moments = gather(model, batch)
        optimizer.update(model, grads, moments=moments)
        return loss, optax_lena.metrics(optimizer.opt_state) if metrics else None

    return train_step


def make_optimizer(model, **kwargs):
    tx = optax_lena.lena(0.05, batch_scale=N, warmup_steps=20, **kwargs)
    return nnx.Optimizer(model, tx, wrt=nnx.Param)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(6)(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.5)(x)
        return nn.Dense(1)(nn.relu(x))


@functools.cache
def linen_variables():
    init = jax.jit(functools.partial(Net().init, train=False))
    return init(jax.random.key(0), jnp.zeros((1, FEATURES)))


def make_linen_state(tx, cls=optax_lena.flax.TrainState, **fields):
    params, model = linen_variables()["params"], Net()
    state = cls.create(apply_fn=model.apply, params=params, tx=tx, **fields)
    return state, linen_variables()


def linen_loss(apply_fn, batch_stats):
    def loss_fn(params, batch):
        variables = {"params": params, "batch_stats": batch_stats}
        predicted, new = apply_fn(
            variables, batch["x"], train=True, mutable=["batch_stats"]
        )
        return jnp.mean((predicted - batch["y"]) ** 2), new["batch_stats"]

    return loss_fn
