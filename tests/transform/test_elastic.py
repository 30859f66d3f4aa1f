"""Runs that stop, resume and change their number of devices, through orbax.

The toy problem is stationary: a loss linear in the parameters, whose gradient is the
mean of the examples whatever the parameters are. Each of its layers is a stacked
parameter of R slices that are independent replicas, so that one run shows how far the
estimators scatter.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import optax_lena
from tests import helpers
from tests.devices import data_mesh

REPLICAS, SIZE, UPDATES = 64, 16, 60
EACH = optax_lena.stacked("", axis=0)
# Standard deviation and mean of each of the SIZE numbers of an example, which is one
# base batch: noise = SIZE * sd^2 and signal = SIZE * mean^2.
LAYERS = {"calm": (1.0, 2.0), "even": (1.0, 1.0), "noisy": (1.0, 0.25)}


def sharded(mesh, *spec):
    return NamedSharding(mesh, PartitionSpec(*spec))


def linear_loss(params, batch):
    products = jax.tree.map(lambda p, x: jnp.sum(p * x.mean(0)), params, batch)
    return sum(jax.tree.leaves(products))


def examples(seed, updates, batch):
    rng = np.random.default_rng(seed)
    shape = (updates, batch, REPLICAS, SIZE)
    return {
        name: (mean + sd * rng.standard_normal(shape)).astype(np.float32)
        for name, (sd, mean) in LAYERS.items()
    }


def one_by_one(seed, updates, batch):
    stream = examples(seed, updates, batch)
    return [{name: x[i] for name, x in stream.items()} for i in range(updates)]


def make_optimizer(batch_scale):
    lena = optax.inject_hyperparams(optax_lena.lena, static_args=("layers",))
    return lena(1e-3, batch_scale=batch_scale, warmup_steps=600, layers=EACH)


def make_step(tx, num_microbatches, axis_name="data", layers=EACH, loss=linear_loss):
    gather = optax_lena.value_and_grad(
        loss, num_microbatches, axis_name=axis_name, layers=layers
    )

    def step(params, state, batch):
        _, grads, moments = gather(params, batch)
        updates, state = tx.update(grads, state, params, moments=moments)
        return optax.apply_updates(params, updates), state

    return step


def run(params, state, seed, updates, devices):
    """Trains with one base batch on each device; returns parameters and state."""
    mesh = data_mesh(devices)
    step = make_step(make_optimizer(devices), devices)

    @jax.jit
    def many(params, state, batches):
        def body(carry, batch):
            return step(*carry, batch), None

        return jax.lax.scan(body, (params, state), batches)[0]

    state.hyperparams["batch_scale"] = jnp.asarray(devices, jnp.float32)
    batches = jax.device_put(
        examples(seed, updates, devices), sharded(mesh, None, "data")
    )
    with jax.set_mesh(mesh):
        return many(params, state, batches)


def save(path, tree):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, tree)


def restore(path, make_tree, mesh):
    """Restores what `save` wrote, replicated on another mesh, in a fresh structure."""
    target = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharded(mesh)),
        jax.eval_shape(make_tree),
    )
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(path, target)


def start():
    params = {name: jnp.zeros((REPLICAS, SIZE)) for name in LAYERS}
    return params, make_optimizer(8.0).init(params)


def move(path, tree, devices):
    save(path, tree)
    return restore(path, start, data_mesh(devices))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """States of 8 -> 4 -> 8 devices and of 8 devices, after as many base batches."""
    folder = tmp_path_factory.mktemp("elastic")
    common = run(*start(), seed=0, updates=UPDATES, devices=8)

    elastic = move(folder / "to_4", common, devices=4)
    assert elastic[0]["calm"].sharding.num_devices == 4
    elastic = run(*elastic, seed=1, updates=2 * UPDATES, devices=4)
    elastic = move(folder / "to_8", elastic, devices=8)
    elastic = run(*elastic, seed=2, updates=UPDATES, devices=8)

    steady = run(*common, seed=3, updates=2 * UPDATES, devices=8)
    return {"elastic": elastic[1], "steady": steady[1]}


def column(state, field, layer):
    """One number per replica."""
    report = optax_lena.layer_report(state)
    return np.array([report[f"{layer}[{i}]"][field] for i in range(REPLICAS)])


def assert_same_mean(actual, desired, sems=4.0):
    """Compares the means of replicas, or with a number, within standard errors."""
    difference = actual - desired
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    assert abs(difference.mean()) < sems * error
    return error


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("field", ["noise", "signal"])
def test_elastic_run_estimates_what_a_steady_run_does(runs, field, layer):
    """64 replicas; 4 standard errors, which are below 2 % of noise + signal."""
    sd, mean = LAYERS[layer]
    truth = SIZE * {"noise": sd**2, "signal": mean**2}[field]
    elastic, steady = (column(runs[name], field, layer) for name in runs)
    assert not np.array_equal(elastic, steady)
    for desired in (steady, truth):
        error = assert_same_mean(elastic, desired)
        assert error < 0.02 * SIZE * (sd**2 + mean**2)


def true_gain(layer, batch_scale):
    sd, mean = LAYERS[layer]
    return (sd**2 + mean**2) / (sd**2 / batch_scale + mean**2)


@pytest.mark.parametrize("layer", LAYERS)
def test_elastic_run_progresses_as_a_steady_run(runs, layer):
    """The middle third makes 120 gains at S = 4 instead of 60 at S = 8."""
    elastic, steady = (column(runs[name], "progress", layer) for name in runs)
    fewer = UPDATES * true_gain(layer, 8)
    more = 2 * UPDATES * true_gain(layer, 4)
    error = assert_same_mean(elastic - more, steady - fewer)
    assert error < 0.01 * elastic.mean()


def test_clock_goes_on_in_base_batches(runs):
    """Learning-rate schedules run on it: 60 * 8 + 120 * 4 + 60 * 8 base batches."""
    for state in runs.values():
        assert float(optax.tree.get(state, "base_steps")) == 24 * UPDATES


def test_warmup_ends_once(runs):
    ends = column(runs["elastic"], "warmup_end", "noisy")
    # Progress of 600 lies between what S = 8 and what S = 4 for all updates would give.
    assert np.all(ends % 4 == 0)
    assert np.all((ends > 600) & (ends < 24 * UPDATES))
    assert column(runs["elastic"], "warmup_end", "calm").tolist() == [None] * REPLICAS


def test_checkpoint_moves_to_another_mesh_unchanged(tmp_path):
    params, state = run(*start(), seed=4, updates=3, devices=8)
    moved = move(tmp_path / "checkpoint", (params, state), devices=2)
    helpers.assert_trees_equal(moved, (params, state))
    assert all(x.sharding.num_devices == 2 for x in jax.tree.leaves(moved))
    report = optax_lena.layer_report(state)
    assert optax_lena.layer_report(moved[1]) == report
    assert report["noisy[3]"]["progress"] > 3


def quadratic_loss(params, batch):
    return sum(jnp.mean((params[name][None] - batch[name]) ** 2) for name in params)


OPTIMIZERS = {
    "lena": lambda: optax_lena.lena(
        optax.cosine_decay_schedule(0.05, 100), batch_scale=8, warmup_steps=40
    ),
    "hyperparams": lambda: make_optimizer(8.0),
    "partition": lambda: optax.partition(
        {"a": optax_lena.lena(0.1, 8), "b": optax_lena.adascale(0.1, 8)},
        {"calm": "a", "even": "b", "noisy": "a"},
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path, name):
    mesh = data_mesh(8)
    tx = OPTIMIZERS[name]()
    layers = EACH if name == "hyperparams" else optax_lena.per_parameter
    step = jax.jit(make_step(tx, 8, layers=layers, loss=quadratic_loss))
    batches = [
        jax.device_put(batch, sharded(mesh, "data")) for batch in one_by_one(5, 10, 8)
    ]

    def fresh():
        params = start()[0]
        return params, tx.init(params)

    carry = jax.device_put(fresh(), sharded(mesh))
    for batch in batches[:5]:
        carry = step(*carry, batch)
    save(tmp_path / "checkpoint", carry)
    halfway = carry
    for batch in batches[5:]:
        carry = step(*carry, batch)

    resumed = restore(tmp_path / "checkpoint", fresh, mesh)
    helpers.assert_trees_equal(resumed, halfway)
    for batch in batches[5:]:
        resumed = step(*resumed, batch)
    helpers.assert_trees_equal(resumed, carry)
    assert not np.array_equal(carry[0]["calm"], halfway[0]["calm"])


def test_new_batch_scale_needs_no_compilation():
    mesh = data_mesh(8)
    step = jax.jit(make_step(make_optimizer(8.0), 8, layers=EACH))
    (batch,) = one_by_one(6, 1, 8)
    gains = []
    with jax.set_mesh(mesh):
        params, state = jax.device_put(start(), sharded(mesh))
        batch = jax.device_put(batch, sharded(mesh, "data"))
        params, state = step(params, state, batch)
        for scale in (4.0, 16.0):
            with helpers.count_compilations() as compiled:
                new = jax.device_put(np.float32(scale), sharded(mesh))
                state.hyperparams["batch_scale"] = new
                params, state = step(params, state, batch)
            assert not compiled
            gains.append(optax_lena.layer_report(state)["noisy[0]"]["gain"])
    assert step._cache_size() == 1
    assert gains[0] < 4 < gains[1]
    assert float(optax.tree.get(state, "base_steps")) == 8 + 4 + 16
