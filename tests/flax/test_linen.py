"""Flax: linen's TrainState, nnx models and optimizers, scanned blocks."""

import functools

import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from flax.training import train_state
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import optax_lena
import optax_lena.flax
from tests import helpers

N, BATCH, FEATURES = 8, 32, 4


def make_batch(seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(BATCH, FEATURES)).astype(np.float32)
    y = x[:, :1] + 0.1 * rng.normal(size=(BATCH, 1)).astype(np.float32)
    return {"x": jnp.asarray(x), "y": jnp.asarray(y)}


def split(batch, n=N):
    pieces = {name: jnp.split(x, n) for name, x in batch.items()}
    return [{name: piece[i] for name, piece in pieces.items()} for i in range(n)]


# linen


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


# nnx


class Model(nnx.Module):
    def __init__(self, seed=0, rate=0.5):
        rngs = nnx.Rngs(seed)
        # No bias: batch norm takes it out, and its gradient would be rounding noise.
        self.hidden = nnx.Linear(FEATURES, 16, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(16, momentum=0.5, rngs=rngs)
        self.dropout = nnx.Dropout(rate, rngs=rngs)
        self.readout = nnx.Linear(16, 1, rngs=rngs)

    def __call__(self, x):
        return self.readout(self.dropout(nnx.relu(self.norm(self.hidden(x)))))


def nnx_loss(model, batch):
    return jnp.mean((model(batch["x"]) - batch["y"]) ** 2)


def masks_loss(model, batch):
    """Its auxiliary data: which of 64 ones the dropout layer lets through."""
    kept = model.dropout(jnp.ones(64)) > 0
    return nnx_loss(model, batch), {"kept": kept, "example": batch["x"][0]}


def stats_of(model):
    return nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))


def to_dict(state):
    return nnx.to_pure_dict(state)


def mean_of(trees, weights=None):
    return jax.tree.map(
        lambda *xs: np.average(np.stack(xs), axis=0, weights=weights), *trees
    )


WEIGHTS = np.array([1, 2, 3, 0, 1, 1, 5, 1], np.float32)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_nnx_gradients_and_statistics_are_means_over_microbatches(weights):
    model, batch = Model(rate=0.0), make_batch()
    losses, grads, stats = [], [], []
    plain_grad = nnx.jit(nnx.value_and_grad(nnx_loss))
    for microbatch in split(batch):
        copy = Model(rate=0.0)
        loss, grad = plain_grad(copy, microbatch)
        losses.append(loss)
        grads.append(to_dict(grad))
        stats.append(stats_of(copy))

    before = stats_of(model)
    gather = nnx.jit(optax_lena.flax.value_and_grad(nnx_loss, N))
    loss, mean_grads, moments = gather(model, batch, weights=weights)

    np.testing.assert_allclose(loss, np.average(losses, weights=weights), rtol=1e-5)
    helpers.assert_trees_close(to_dict(mean_grads), mean_of(grads, weights), 1e-4, 1e-6)
    helpers.assert_trees_close(stats_of(model), mean_of(stats, weights), 1e-5, 1e-6)
    assert not np.array_equal(before["norm"]["mean"], stats_of(model)["norm"]["mean"])
    stack = jax.tree.map(lambda *xs: jnp.stack(xs), *grads)
    _, expected = optax_lena.moments_from_stack(stack, weights=weights)
    for field in ("micro_sq_norm", "batch_sq_norm"):
        norms = to_dict(getattr(moments, field))
        helpers.assert_trees_close(norms, getattr(expected, field), 1e-4, 1e-9)
    assert moments.num_microbatches == expected.num_microbatches


def test_nnx_every_microbatch_has_its_own_dropout():
    gather = nnx.jit(optax_lena.flax.value_and_grad(masks_loss, N, has_aux=True))
    model, batch = Model(), make_batch()
    calls = [gather(model, batch) for _ in range(2)]
    masks = np.concatenate([aux["kept"] for (_, aux), _, _ in calls])
    assert masks.shape == (2 * N, 64)
    assert len(np.unique(masks, axis=0)) == 2 * N
    # 1024 fair draws: 4 standard errors are 0.0625.
    assert abs(masks.mean() - 0.5) < 0.0625

    (loss, aux), grads, _ = gather(Model(), batch)
    (first_loss, first_aux), first_grads, _ = calls[0]
    assert loss == first_loss
    np.testing.assert_array_equal(aux["kept"], first_aux["kept"])
    helpers.assert_trees_equal(to_dict(grads), to_dict(first_grads))
    (_, aux), _, _ = gather(Model(seed=1), batch)
    assert not np.array_equal(aux["kept"], first_aux["kept"])


def test_nnx_auxiliary_data_are_averaged_or_stacked():
    gather = nnx.jit(optax_lena.flax.value_and_grad(masks_loss, N, has_aux=True))
    batch = make_batch()
    (loss, aux), _, _ = gather(Model(), batch)
    assert loss.shape == ()
    firsts = batch["x"].reshape(N, -1, FEATURES)[:, 0]
    np.testing.assert_allclose(aux["example"], firsts.mean(0), rtol=1e-5, atol=1e-6)
    assert aux["kept"].shape == (N, 64)


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


def test_nnx_optimizer_updates_as_the_optax_optimizer_does():
    model, batch = Model(rate=0.0), make_batch()
    optimizer, train_step = make_optimizer(model), make_train_step()
    tx = optax_lena.lena(0.05, batch_scale=N, warmup_steps=20)
    twin = Model(rate=0.0)
    params = to_dict(nnx.state(twin, nnx.Param))
    state = tx.init(params)
    gather = nnx.jit(optax_lena.flax.value_and_grad(nnx_loss, N))
    for _ in range(3):
        _, grads, moments = gather(twin, batch)
        plain = moments._replace(
            micro_sq_norm=to_dict(moments.micro_sq_norm),
            batch_sq_norm=to_dict(moments.batch_sq_norm),
        )
        updates, state = tx.update(to_dict(grads), state, params, moments=plain)
        params = optax.apply_updates(params, updates)
        nnx.update(twin, params)
        _, metrics = train_step(model, optimizer, batch)

    helpers.assert_trees_close(
        to_dict(nnx.state(model, nnx.Param)), params, rtol=1e-4, atol=1e-6
    )
    expected = optax_lena.metrics(state)
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, 1e-3, 1e-5, err_msg=name)
    report = optax_lena.layer_report(optimizer.opt_state)
    pairs = [("norm", "bias"), ("norm", "scale"), ("readout", "bias")]
    names = ["hidden/kernel", *map("/".join, pairs), "readout/kernel"]
    assert list(report) == names
    assert report["readout/kernel"]["gain"] == metrics["gain/readout/kernel"]
    assert 3 < report["readout/kernel"]["progress"] <= 3 * N


def test_nnx_adam_finds_its_preconditioner():
    """In the optimizer's state every array is a variable of nnx."""
    model, batch = Model(rate=0.0), make_batch()
    tx = optax_lena.lena_adamw(1e-3, batch_scale=N)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    gather = optax_lena.flax.value_and_grad(nnx_loss, N)

    @nnx.jit
    def train_step(model, optimizer, batch):
        params = nnx.state(model, nnx.Param)
        p = optax_lena.adam_preconditioner(optimizer.opt_state, params)
        _, grads, moments = gather(model, batch, preconditioner=p)
        optimizer.update(model, grads, moments=moments)
        return to_dict(grads), to_dict(moments.batch_sq_norm), to_dict(p)

    for _ in range(5):
        _, norms, _ = train_step(model, optimizer, batch)
        assert not any(jax.tree.leaves(norms))
    grads, norms, p = train_step(model, optimizer, batch)
    expected = jax.tree.map(lambda g, p: jnp.sum((g * p) ** 2), grads, p)
    helpers.assert_trees_close(norms, expected, rtol=1e-4)
    report = optax_lena.layer_report(optimizer.opt_state)
    assert max(row["gain"] for row in report.values()) > 1


@pytest.fixture(scope="module")
def single_device():
    model, batch, step = Model(), make_batch(), make_train_step()
    optimizer = make_optimizer(model)
    for _ in range(3):
        loss, metrics = step(model, optimizer, batch)
    return model, loss, metrics


# jax 0.8 cannot lower random numbers in a vmap over an explicit axis.
needs_explicit_random = pytest.mark.skipif(
    jax.__version_info__ < (0, 9), reason="fails inside jax 0.8"
)


@pytest.mark.parametrize(
    "types",
    [AxisType.Auto, pytest.param(AxisType.Explicit, marks=needs_explicit_random)],
)
def test_nnx_sharded_batch_is_a_single_device(single_device, types):
    """With dropout: a microbatch's masks do not depend on where it is."""
    model = Model()
    optimizer, step = make_optimizer(model), make_train_step(axis_name="data")
    mesh = jax.make_mesh((8,), ("data",), (types,))
    replicated = NamedSharding(mesh, PartitionSpec())
    batch = jax.device_put(make_batch(), NamedSharding(mesh, PartitionSpec("data")))
    with jax.set_mesh(mesh):
        for part in (model, optimizer):
            nnx.update(part, jax.device_put(nnx.state(part), replicated))
        for _ in range(3):
            loss, metrics = step(model, optimizer, batch)

    kernel = model.hidden.kernel[...]
    assert kernel.sharding.is_fully_replicated and kernel.sharding.num_devices == 8
    one, one_loss, one_metrics = single_device
    np.testing.assert_allclose(loss, one_loss, rtol=1e-4)
    helpers.assert_trees_close(metrics, one_metrics, rtol=1e-3, atol=1e-5)
    for kind in (nnx.Param, nnx.BatchStat):
        ours, theirs = (to_dict(nnx.state(m, kind)) for m in (model, one))
        helpers.assert_trees_close(ours, theirs, rtol=1e-4, atol=1e-6)
    ours, theirs = (to_dict(nnx.state(m, nnx.RngCount)) for m in (model, one))
    helpers.assert_trees_equal(ours, theirs)


# Scanned blocks

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
