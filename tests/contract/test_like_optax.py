"""What optax asks of its own optimizers, asked of every one of ours.

The idea is that of optax's common tests: one table of optimizers, small problems with
known minima, and the transformations of JAX that a training loop is made of.
"""

import functools
import pickle

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import optax_lena
from tests import helpers

S = 2
OPTIMIZERS = {
    "lena": functools.partial(optax_lena.lena, warmup_steps=4),
    "lena_amplified": functools.partial(optax_lena.lena_amplified, warmup_steps=4),
    "adascale": optax_lena.adascale,
    "linear_scaling": functools.partial(optax_lena.linear_scaling, warmup_steps=4),
    "lena_adamw": functools.partial(optax_lena.lena_adamw, weight_decay=0.0),
    "lena_muon": optax_lena.lena_muon,
    "lena_lars": functools.partial(optax_lena.lena_lars, trust_coefficient=0.2),
    "monitor": lambda rate, scale: optax_lena.monitor(
        optax.sgd(rate, 0.9), batch_scale=scale
    ),
    "accumulate": lambda rate, scale: optax_lena.accumulate(
        optax_lena.lena(rate, scale), 1
    ),
    "from_successive_gradients": lambda rate, scale: (
        optax_lena.from_successive_gradients(optax_lena.lena(rate, scale))
    ),
}
every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)
PARAMS = {"bias": jnp.array([-1.0, 2.0]), "kernel": jnp.zeros((2, 2))}
MINIMUM = {"bias": jnp.array([1.0, -1.0]), "kernel": jnp.array([[3.0, -2], [1, 4]])}


def build(name, rate=0.01):
    return OPTIMIZERS[name](rate, S)


def update(tx, name, grads, state, params):
    """Makes one update, with the moments of two microbatches that differ by a fifth."""
    if name == "from_successive_gradients":  # it makes its own
        return tx.update(grads, state, params)
    stack = jax.tree.map(lambda g: jnp.stack([0.9 * g, 1.1 * g]).astype(g.dtype), grads)
    _, moments = optax_lena.moments_from_stack(stack)
    return tx.update(grads, state, params, moments=moments)


def gradient(params):
    return jax.tree.map(lambda p, best: 2 * (p - best).astype(p.dtype), params, MINIMUM)


def train(tx, name, params, state, steps):
    def step(carry, _):
        params, state = carry
        updates, state = update(tx, name, gradient(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, state), length=steps)[0]


# Muon in optax takes no Python numbers.
@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "lena_muon"])
def test_gradients_may_be_python_numbers(name):
    number, array = {"w": 2.0}, {"w": jnp.array(2.0)}
    tx = build(name)
    _, moments = optax_lena.moments_from_stack({"w": jnp.array([1.5, 2.5])})
    given = {} if name == "from_successive_gradients" else {"moments": moments}
    one, other = (tx.update(g, tx.init(g), g, **given) for g in (number, array))
    helpers.assert_trees_close(one, other, rtol=1e-6)


@pytest.mark.parametrize("devices", [1, 2])
@every_optimizer
def test_every_device_may_have_a_state_of_its_own(name, devices):
    """As between two averages of local SGD; the carry of a scan keeps its type."""
    tx = build(name)

    def on_device(params):
        carry = jax.lax.pcast((params, tx.init(params)), "data", to="varying")
        return jax.tree.map(lambda x: x[None], train(tx, name, *carry, 2)[0])

    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))
    specs = dict(in_specs=PartitionSpec(), out_specs=PartitionSpec("data"))
    params = helpers.jit(jax.shard_map(on_device, mesh=mesh, **specs))(PARAMS)
    alone, _ = train(tx, name, PARAMS, tx.init(PARAMS), 2)
    helpers.assert_trees_close(helpers.row(params, -1), alone, rtol=1e-5)


@functools.cache
def trained(name):
    """Returns parameters and state after three updates."""
    tx = build(name)
    steps = helpers.jit(lambda params: train(tx, name, params, tx.init(params), 3))
    return steps(PARAMS)


@every_optimizer
def test_finds_the_minimum(name):
    tx = build(name, {"lena_adamw": 0.05, "lena_lars": 0.02}.get(name, 0.01))
    steps = helpers.jit(lambda params: train(tx, name, params, tx.init(params), 1500))
    helpers.assert_trees_close(steps(PARAMS)[0], MINIMUM, atol=0.05)


def through_pickle(tx, state):
    return pickle.loads(pickle.dumps(state))


def through_map_params(tx, state):
    return optax.tree.map_params(tx, lambda leaf: leaf, state)


def through_tree_map(tx, state):
    return jax.tree.map(jnp.copy, state)


def through_map_with_path(tx, state):
    return jax.tree_util.tree_map_with_path(lambda path, leaf: leaf, state)


def through_leaves(tx, state):
    leaves = jax.tree.leaves(state)
    return jax.tree.unflatten(jax.tree.structure(tx.init(PARAMS)), leaves)


@pytest.mark.parametrize(
    "through",
    [
        through_pickle,
        through_map_params,
        through_tree_map,
        through_map_with_path,
        through_leaves,
    ],
)
@every_optimizer
def test_the_state_survives(name, through):
    params, state = trained(name)
    tx = build(name)
    survivor = through(tx, state)
    assert helpers.signature(survivor) == helpers.signature(state)
    got, expected = (
        update(tx, name, gradient(params), s, params) for s in (survivor, state)
    )
    helpers.assert_trees_equal(got, expected)
    assert optax_lena.layer_report(survivor) == optax_lena.layer_report(state)


@every_optimizer
def test_an_ensemble_under_vmap_is_its_members(name):
    tx = build(name)
    others = jax.tree.map(lambda p: p + 1, PARAMS)
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), PARAMS, others)
    run = lambda params: train(tx, name, params, tx.init(params), 3)
    together = helpers.jit(jax.vmap(run))(both)
    for member, params in enumerate((PARAMS, others)):
        one = jax.tree.map(lambda leaf, i=member: leaf[i], together)
        helpers.assert_trees_close(one, helpers.jit(run)(params), 1e-5, 1e-6)


@every_optimizer
def test_in_the_middle_of_a_chain(name):
    """It sees the moments, whatever stands before and after it."""
    params, _ = trained(name)
    alone = build(name)
    tx = optax.chain(optax.clip(100.0), alone, optax.scale(0.5))
    grads = gradient(params)
    half, state = update(tx, name, grads, tx.init(params), params)
    whole, _ = update(alone, name, grads, alone.init(params), params)
    helpers.assert_trees_equal(half, jax.tree.map(lambda u: 0.5 * u, whole))
    assert optax_lena.layer_report(state)


@pytest.mark.parametrize(
    "dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.complex64]
)
@every_optimizer
def test_dtypes_are_those_of_the_parameters(name, dtype):
    """Also on the branch of a `lax.cond` that makes no update."""
    tx = build(name)
    params = jax.tree.map(lambda p: p.astype(dtype), PARAMS)
    before = tx.init(params)

    @helpers.jit
    def step(params, state, is_updated):
        def make(state):
            return update(tx, name, gradient(params), state, params)

        def skip(state):
            return jax.tree.map(jnp.zeros_like, params), state

        return jax.lax.cond(is_updated, make, skip, state)

    updates, after = step(params, before, True)
    assert helpers.signature(after) == helpers.signature(before)
    assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
    assert all(jnp.all(jnp.isfinite(u)) for u in jax.tree.leaves(updates))
    step(optax.apply_updates(params, updates), after, False)
    assert step._cache_size() == 1


@every_optimizer
def test_a_constant_schedule_is_a_number(name):
    tx = build(name, optax.constant_schedule(0.01))
    params, _ = helpers.jit(lambda p: train(tx, name, p, tx.init(p), 3))(PARAMS)
    helpers.assert_trees_close(params, trained(name)[0], rtol=1e-6)


# optax's iteration for Muon is a loop, which compiles at every call outside of jit.
@pytest.mark.parametrize("name", sorted(set(OPTIMIZERS) - {"lena_muon"}))
def test_outside_of_jit_nothing_compiles_once_more(name):
    tx = build(name)
    state, grads = tx.init(PARAMS), gradient(PARAMS)
    for _ in range(2):
        _, state = update(tx, name, grads, state, PARAMS)
    with helpers.count_compilations() as compiled:
        update(tx, name, grads, state, PARAMS)
    assert not compiled


INJECTED = ["lena", "lena_amplified", "adascale", "linear_scaling", "lena_lars"]


@pytest.mark.parametrize("name", [*INJECTED, "lena_adamw", "lena_muon"])
def test_an_injected_batch_scale_changes_without_compiling(name):
    tx = optax.inject_hyperparams(getattr(optax_lena, name))(0.01, batch_scale=2.0)
    state = tx.init(PARAMS)
    step = helpers.jit(lambda state: update(tx, name, PARAMS, state, PARAMS)[1])
    for batch_scale in (2, 16, 0.5):
        state.hyperparams["batch_scale"] = jnp.float32(batch_scale)
        state = step(state)
        assert optax_lena.metrics(state)["model/batch_scale"] == batch_scale
    assert step._cache_size() == 1


@pytest.mark.parametrize("name", [*INJECTED, "lena_adamw", "lena_muon"])
def test_injected_numbers_are_exact_beside_parameters_in_half_precision(name):
    """As docs/loops.md says; else optax rounds them to the parameters' dtype."""
    factory = getattr(optax_lena, name)
    tx = optax.inject_hyperparams(factory, hyperparam_dtype=jnp.float32)(
        0.01, batch_scale=257.0
    )
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)
    state = tx.init(params)
    _, after = update(tx, name, gradient(params), state, params)
    assert optax_lena.metrics(after)["model/batch_scale"] == 257
    assert helpers.signature(after) == helpers.signature(state)


@pytest.mark.parametrize("name", [*INJECTED, "lena_adamw", "lena_muon"])
def test_injected_hyperparameters_are_found_and_set_by_their_names(name):
    """In the whole state, where no field of ours may have the name of one."""
    tx = optax.inject_hyperparams(getattr(optax_lena, name))(0.01, batch_scale=2.0)
    state = tx.init(PARAMS)
    hyperparams = {k: jnp.asarray(x) for k, x in state.hyperparams.items()}
    assert {"learning_rate", "batch_scale"} <= set(hyperparams)
    for field, value in hyperparams.items():
        assert optax.tree.get(state, field) == value
        after = optax.tree.set(state, **{field: value + 1})
        assert after.hyperparams == state.hyperparams | {field: value + 1}
        helpers.assert_trees_equal(after.inner_state, state.inner_state)


@every_optimizer
def test_what_optax_finds_in_a_state_it_can_set(name):
    _, state = trained(name)
    spike = optax.tree.get(state, "spike_factor")
    after = optax.tree.set(state, spike_factor=spike / 2)
    assert optax_lena.metrics(after)["model/spike_factor"] == spike / 2
    assert jax.tree.structure(after) == jax.tree.structure(state)


@every_optimizer
def test_abstract_parameters_are_enough_to_initialise(name):
    tx = build(name)
    abstract = jax.tree.map(
        lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype, weak_type=False), PARAMS
    )
    assert helpers.signature(tx.init(abstract)) == helpers.signature(tx.init(PARAMS))


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_shardings_are_those_of_init(name, kind):
    """Statistics are on every device, and the rest lies where its parameter does."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    sharding = NamedSharding(mesh, PartitionSpec(None, "data"))
    with jax.set_mesh(mesh):
        params = {"kernel": jax.device_put(jnp.ones((2, 8), jnp.float16), sharding)}
        tx = build(name)
        before = tx.init(params)
        _, after = update(tx, name, params, before, params)
        _, jitted = helpers.jit(lambda s, p: update(tx, name, p, s, p))(before, params)
    assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, before)
    assert jax.tree.map(jax.typeof, jitted) == jax.tree.map(jax.typeof, before)
    for leaf, expected in zip(*map(jax.tree.leaves, (jitted, before)), strict=True):
        is_statistic = leaf.shape != (2, 8)
        assert leaf.sharding.is_equivalent_to(expected.sharding, leaf.ndim) or (
            is_statistic and leaf.sharding.is_fully_replicated
        )


def test_the_table_has_every_optimizer():
    """So that a new one cannot be left out."""
    takes_moments = {"scale_by_lena", "scale_by_layer_rate", "scale_by_adam"}
    public = {
        name
        for name, value in vars(optax_lena).items()
        if getattr(value, "__annotations__", {}).get("return")
        in (optax.GradientTransformationExtraArgs, optax.GradientTransformation)
    }
    assert public - takes_moments == set(OPTIMIZERS)


@pytest.mark.parametrize(
    "tx",
    [optax_lena.lena_adamw(0.1, 4, weight_decay=0.0), optax_lena.lena_muon(0.1, 4)],
)
def test_without_decay_an_update_needs_no_parameters(tx):
    grads, moments = helpers.example_moments(0)
    state = tx.init(grads)
    expected, _ = tx.update(grads, state, grads, moments=moments)
    got, _ = tx.update(grads, state, moments=moments)
    helpers.assert_trees_equal(got, expected)
