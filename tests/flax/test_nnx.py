"""nnx: losses of a model, its statistics and random numbers, its optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import optax_lena
import optax_lena.flax
from tests import helpers
from tests.flax.problem import (
    BATCH,
    FEATURES,
    N,
    make_batch,
    make_optimizer,
    make_train_step,
    nnx_loss,
    split,
)


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


def test_a_loss_that_draws_its_examples_from_the_model_needs_no_batch():
    loss_fn = lambda model, _: jnp.mean(model(jnp.ones((2, FEATURES))) ** 2)
    gather = optax_lena.flax.value_and_grad(loss_fn, N)
    gather(Model(), None)
    with pytest.raises(ValueError, match="`batch` must hold the examples"):
        gather(nnx.Linear(1, 1, rngs=nnx.Rngs(0)), None)


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


def test_nnx_loss_may_print_and_rely_on_the_length_of_a_microbatch(capfd):
    """A print keeps its values in use, and says nothing of what depends on what."""

    def loss(model, batch):
        value = nnx_loss(
            model, jax.tree.map(lambda x: x.reshape(BATCH // N, -1), batch)
        )
        jax.debug.print("loss {}", value)
        return value

    batch, model = make_batch(), Model()
    gather = optax_lena.flax.value_and_grad(loss, N)
    value, grads, _ = gather(model, batch)
    quiet = optax_lena.flax.value_and_grad(nnx_loss, N)
    expected, like, _ = quiet(Model(), batch)
    assert value == expected
    helpers.assert_trees_equal(to_dict(grads), to_dict(like))
    jax.effects_barrier()
    assert capfd.readouterr().out.count("loss") == N


def test_nnx_argument_that_is_part_of_the_model_is_an_error_that_says_what_to_do():
    model = Model()
    gather = optax_lena.flax.value_and_grad(
        lambda model, batch, readout: jnp.mean(readout(batch["x"])), N
    )
    with pytest.raises(ValueError, match=helpers.says("part of the model", "Reach")):
        gather(model, make_batch(), model.readout)


@pytest.mark.parametrize("bias_is_one", [True, False])
def test_nnx_parameter_that_the_loss_writes_is_an_error_that_says_what_to_do(
    bias_is_one,
):
    """It would be lost: the optimizer has the last word on parameters."""

    def loss(model, batch):
        bias = model.readout.bias
        bias[...] = jnp.ones(1) if bias_is_one else 0.9 * bias[...]
        return nnx_loss(model, batch)

    gather = optax_lena.flax.value_and_grad(loss, N)
    message = helpers.says("must not change", "'readout/bias'", "`wrt`", "BatchStat")
    with pytest.raises(ValueError, match=message):
        gather(Model(), make_batch())


@pytest.mark.parametrize("wrap", [nnx.jit, nnx.remat, lambda f: nnx.jit(nnx.remat(f))])
def test_nnx_transforms_of_the_loss_write_no_parameter(wrap):
    """They return every variable of the model, as it was."""
    batch = make_batch()
    expected, like, _ = optax_lena.flax.value_and_grad(nnx_loss, N)(Model(), batch)
    loss = lambda model, batch: wrap(nnx_loss)(model, batch)
    value, grads, _ = optax_lena.flax.value_and_grad(loss, N)(Model(), batch)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    helpers.assert_trees_close(to_dict(grads), to_dict(like), rtol=1e-4, atol=1e-6)
