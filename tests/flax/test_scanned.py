"""Scanned blocks have the rates that they would have in the unrolled network."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import optax_lena
import optax_lena.flax
from tests import helpers
from tests.flax.problem import (
    BATCH,
    N,
    make_optimizer,
    make_train_step,
    nnx_loss,
)

BLOCKS, WIDTH = 3, 8


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        return x + nn.tanh(nn.Dense(WIDTH, name="dense")(x)), None


class Scanned(nn.Module):
    @nn.compact
    def __call__(self, x):
        blocks = nn.scan(
            Block, {"params": 0}, split_rngs={"params": True}, length=BLOCKS
        )
        return nn.Dense(1, name="head")(blocks(name="blocks")(x, None)[0])


class Unrolled(nn.Module):
    @nn.compact
    def __call__(self, x):
        for i in range(BLOCKS):
            x, _ = Block(name=f"block{i}")(x)
        return nn.Dense(1, name="head")(x)


class NnxScanned(nnx.Module):
    def __init__(self):
        @nnx.split_rngs(splits=BLOCKS)
        @nnx.vmap(in_axes=0, out_axes=0)
        def create(rngs):
            return nnx.Linear(WIDTH, WIDTH, rngs=rngs)

        rngs = nnx.Rngs(0)
        self.blocks = create(rngs)
        self.head = nnx.Linear(WIDTH, 1, rngs=rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def forward(x, block):
            return x + nnx.tanh(block(x))

        return self.head(forward(x, self.blocks))


class NnxUnrolled(nnx.Module):
    def __init__(self, scanned):
        self.blocks = nnx.List(
            nnx.Linear(WIDTH, WIDTH, rngs=nnx.Rngs(0)) for _ in range(BLOCKS)
        )
        self.head = nnx.Linear(WIDTH, 1, rngs=nnx.Rngs(0))
        for i, block in enumerate(self.blocks):
            block.kernel[...] = scanned.blocks.kernel[i]
            block.bias[...] = scanned.blocks.bias[i]
        self.head.kernel[...] = scanned.head.kernel[...]

    def __call__(self, x):
        for block in self.blocks:
            x = x + nnx.tanh(block(x))
        return self.head(x)


def scan_batch(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(BATCH, WIDTH)).astype(np.float32)
    return {"x": jnp.asarray(x), "y": jnp.asarray(x[:, :1] * x[:, 1:2])}


def train_linen(model, params, layers):
    tx = optax_lena.lena(0.02, batch_scale=N, warmup_steps=15, layers=layers)

    def loss_fn(params, batch):
        predicted = model.apply({"params": params}, batch["x"])
        return jnp.mean((predicted - batch["y"]) ** 2)

    gather = optax_lena.value_and_grad(loss_fn, N, layers=layers)
    state = optax_lena.flax.TrainState.create(
        apply_fn=model.apply, params=params, tx=tx
    )

    @jax.jit
    def step(state, batch):
        _, grads, moments = gather(state.params, batch)
        return state.apply_gradients(grads=grads, moments=moments)

    reports = []
    for seed in range(5):
        state = step(state, scan_batch(seed))
        reports.append(optax_lena.layer_report(state.opt_state))
    return reports


def train_nnx(model, layers):
    optimizer = make_optimizer(model, layers=layers)
    step = make_train_step(metrics=False, layers=layers)
    reports = []
    for seed in range(5):
        step(model, optimizer, scan_batch(seed))
        reports.append(optax_lena.layer_report(optimizer.opt_state))
    return reports


def assert_same_rates(scanned, unrolled, twins):
    """`twins`: the scanned network's layers to the unrolled network's."""
    for ours, theirs in zip(scanned, unrolled, strict=True):
        assert ours.keys() == twins.keys()
        assert theirs.keys() == set(twins.values())
        for name, twin in twins.items():
            rate, expected = (
                row["trust_ratio"] * row["warmup_factor"]
                for row in (ours[name], theirs[twin])
            )
            np.testing.assert_allclose(rate, expected, rtol=1e-5, err_msg=name)
    rates = {row["trust_ratio"] for row in scanned[-1].values()}
    assert len(rates) > BLOCKS  # blocks differ, and not all are at the cap


def test_scanned_linen_blocks_have_the_unrolled_blocks_rates():
    scanned, unrolled = Scanned(), Unrolled()
    params = scanned.init(jax.random.key(0), jnp.zeros((1, WIDTH)))["params"]
    unrolled_params = {"head": params["head"]} | {
        f"block{i}": jax.tree.map(lambda x, i=i: x[i], params["blocks"])
        for i in range(BLOCKS)
    }
    twins = {f"head/{p}": f"head/{p}" for p in ("bias", "kernel")} | {
        f"blocks/dense/{p}[{i}]": f"block{i}/dense/{p}"
        for p in ("bias", "kernel")
        for i in range(BLOCKS)
    }
    assert_same_rates(
        train_linen(scanned, params, optax_lena.stacked("^blocks")),
        train_linen(unrolled, unrolled_params, optax_lena.per_parameter),
        twins,
    )


def test_scanned_nnx_blocks_have_the_unrolled_blocks_rates():
    scanned = NnxScanned()
    unrolled = NnxUnrolled(scanned)
    twins = {f"head/{p}": f"head/{p}" for p in ("bias", "kernel")} | {
        f"blocks/{p}[{i}]": f"blocks/{i}/{p}"
        for p in ("bias", "kernel")
        for i in range(BLOCKS)
    }
    assert_same_rates(
        train_nnx(scanned, optax_lena.stacked("^blocks")),
        train_nnx(unrolled, optax_lena.per_parameter),
        twins,
    )


def over_axis(axis, remat):
    """A network that scans over blocks which are stacked along an axis."""

    class Block(nnx.Module):
        def __init__(self, rngs):
            self.dense = nnx.Linear(WIDTH, WIDTH, rngs=rngs)

        def __call__(self, x):
            return x + nnx.tanh(self.dense(x))

    class Network(nnx.Module):
        def __init__(self):
            create = nnx.vmap(Block, in_axes=0, out_axes=axis)
            self.blocks = nnx.split_rngs(splits=BLOCKS)(create)(nnx.Rngs(0))

        def __call__(self, x):
            call = nnx.remat(Block.__call__) if remat else Block.__call__
            scan = nnx.scan(in_axes=(axis, nnx.Carry), out_axes=nnx.Carry)
            return scan(call)(self.blocks, x)[:, :1]

    return Network()


class Looped(nnx.Module):
    """The same block again and again, in each of nnx's other loops."""

    def __init__(self, how):
        self.how = how
        self.dense = nnx.Linear(WIDTH, WIDTH, rngs=nnx.Rngs(0))

    def __call__(self, x):
        call = nnx.remat(lambda dense, x: dense(x))
        if self.how == "scan":
            scan = nnx.scan(in_axes=(None, nnx.Carry), length=3, out_axes=nnx.Carry)
            return scan(call)(self.dense, x)[:, :1]
        if self.how == "cond":
            is_true = jnp.sum(x) < jnp.inf
            return nnx.cond(is_true, call, lambda dense, x: x, self.dense, x)[:, :1]
        body = lambda i, carry: (carry[0], call(*carry))
        return nnx.fori_loop(0, 3, body, (self.dense, x))[1][:, :1]


def assert_is_plain(make):
    """Loss and gradient of all microbatches are those of the whole batch."""
    batch, gather = scan_batch(0), optax_lena.flax.value_and_grad(nnx_loss, N)
    expected, like = nnx.value_and_grad(nnx_loss)(make(), batch)
    value, grads, _ = gather(make(), batch)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    got, like = (nnx.to_pure_dict(x) for x in (grads, like))
    helpers.assert_trees_close(got, like, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("axis", "remat"), [(0, True), (1, False), (1, True)])
def test_nnx_scan_over_blocks_writes_no_parameter(axis, remat):
    """It returns every variable, each a stack of what the blocks returned."""
    assert_is_plain(lambda: over_axis(axis, remat))


@pytest.mark.parametrize("how", ["scan", "cond", "fori_loop"])
def test_nnx_loop_writes_no_parameter(how):
    assert_is_plain(lambda: Looped(how))


class Writing(nnx.Module):
    def __init__(self, how):
        self.how, scanned = how, NnxScanned()
        self.blocks, self.dense = scanned.blocks, scanned.head

    def __call__(self, x):
        def write(dense):
            dense.bias[...] = 0.9 * dense.bias[...]
            return dense(x)

        if self.how == "scan":
            scan = nnx.scan(in_axes=0, out_axes=0)
            return scan(nnx.remat(write))(self.blocks).mean(0)[:, :1]
        if self.how == "cond":
            return nnx.cond(jnp.sum(x) > 0, write, lambda d: d(x), self.dense)
        loop = functools.partial(nnx.fori_loop, 0, 3)
        return loop(lambda i, c: (c[0], write(c[0])), (self.dense, x[:, :1]))[1]


@pytest.mark.parametrize("how", ["scan", "cond", "fori_loop"])
def test_nnx_loop_that_writes_a_parameter_is_an_error(how):
    gather = optax_lena.flax.value_and_grad(nnx_loss, N)
    with pytest.raises(ValueError, match=helpers.says("must not change", "bias'")):
        gather(Writing(how), scan_batch(0))
