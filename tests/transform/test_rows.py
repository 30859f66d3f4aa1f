"""Rows follow their names, and what belongs to a row comes with it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import optax_lena
from optax_lena._transform.names import row_ids
from optax_lena._transform.rows import _places, follows
from tests import helpers

TX = optax_lena.scale_by_lena(4, warmup_steps=8)


def test_memory_grows_with_the_rows_and_not_with_their_square():
    def temporaries(rows):
        params = {"experts": jnp.zeros((rows, 2))}
        tx = optax_lena.lena(0.1, 8, layers=optax_lena.stacked("experts"))
        norms = {"experts": jnp.ones(rows)}
        moments = optax_lena.GradMoments(norms, norms, 4)
        update = jax.jit(lambda g, s: tx.update(g, s, g, moments=moments))
        compiled = update.lower(params, jax.eval_shape(tx.init, params)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(4000) < 6 * temporaries(1000)


def test_rows_that_are_not_known_yet_are_taken_to_follow():
    state = TX.init({"a": jnp.ones(2), "b": jnp.ones(2)})
    assert follows(state) is True
    seen = []
    jax.eval_shape(lambda s: seen.append(follows(s)), state)
    stacked = jax.tree.map(lambda x: jnp.stack([x, x]), state)
    assert [*seen, follows(stacked)] == [True, True]
    moved = state._replace(row_ids=jnp.asarray(row_ids(("b", "a"))))
    assert not follows(moved)


def test_rows_that_moved_come_back_with_all_that_belongs_to_them():
    """Vectors are sorted, and what is no vector of rows stays as it is."""
    stack = helpers.random_stacks(0, 4)
    grads, moments = optax_lena.moments_from_stack(stack)
    _, state = TX.update(grads, TX.init(grads), moments=moments)
    names = state.layer_names()
    order = np.append([1, 0], np.arange(2, len(names)))  # the others stay in place
    ids = row_ids(tuple(names[i] for i in order))
    is_rows = lambda x: x.shape[:1] == (len(names) + 1,)
    place = np.append(order, len(names))
    moved = jax.tree.map(lambda x: x[place] if is_rows(x) else x, state)
    moved = moved._replace(row_ids=jnp.asarray(ids))
    got, expected = (TX.update(grads, s, moments=moments) for s in (moved, state))
    helpers.assert_trees_equal(got, expected)


def test_digests_differ_in_either_half():
    wanted = jnp.uint32([[7, 1], [7, 2], [8, 2]]).reshape(-1)
    given = jnp.uint32([[7, 2], [9, 2], [7, 3]]).reshape(-1)
    np.testing.assert_array_equal(_places(wanted, given), [-1, 0, -1])


def test_a_row_of_another_name_starts_afresh():
    stack = helpers.random_stacks(0, 4)
    grads, moments = optax_lena.moments_from_stack(stack)
    start = TX.init(grads)
    _, state = TX.update(grads, start, moments=moments)
    names = state.layer_names()
    other = state._replace(row_ids=jnp.asarray(row_ids(("other", *names[1:]))))
    _, got = TX.update(grads, other, moments=moments)
    _, afresh = TX.update(grads, start, moments=moments)
    _, kept = TX.update(grads, state, moments=moments)
    progress = [s.progress.read() for s in (got, afresh, kept)]
    assert progress[0][0] == progress[1][0] != progress[2][0]
    np.testing.assert_array_equal(progress[0][1:], progress[2][1:])


class Wide(optax_lena.Averages):
    """An estimator of your own, which remembers several numbers of each row."""

    def init(self, num_rows):
        return {"own": jnp.zeros((num_rows, 2)), "averages": super().init(num_rows)}

    def update(self, state, measured):
        added = jnp.stack(measured.estimate, axis=-1)
        averages = super().update(state["averages"], measured)
        return {"own": state["own"] + added, "averages": averages}

    def read(self, state):
        return super().read(state["averages"])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16])
def test_rows_of_several_numbers_follow_their_names_in_any_dtype(dtype):
    tx = optax_lena.scale_by_layer_rate(optax_lena.LayerRate(estimator=Wide()), 4)
    stack = {"a": jnp.array([1.0, 3.0]), "b": jnp.array([2.0, 5.0])}
    grads, moments = optax_lena.moments_from_stack(stack)
    _, state = tx.update(grads, tx.init(grads), moments=moments)
    narrow = lambda x: x.astype(dtype) if x.dtype == jnp.float32 else x
    state = jax.tree.map(narrow, state)
    is_rows = lambda x: x.shape[:1] == (3,)
    moved = jax.tree.map(lambda x: x[jnp.array([1, 0, 2])] if is_rows(x) else x, state)
    moved = moved._replace(row_ids=jnp.asarray(row_ids(("b", "a"))))
    got, expected = (tx.update(grads, s, moments=moments)[1] for s in (moved, state))
    helpers.assert_trees_equal(got, expected)
    assert got.averages["own"].dtype == jnp.float32


def test_an_ensemble_over_an_explicit_mesh_is_the_members_one_by_one():
    """JAX has no place for a NumPy constant in the branch of a mapped condition."""
    mesh = jax.make_mesh((4,), ("member",), axis_types=(AxisType.Explicit,))
    tx = optax_lena.lena(0.1, batch_scale=4)
    stacks = jnp.arange(32.0).reshape(4, 4, 2)

    def update(stack):
        mean, moments = optax_lena.moments_from_stack({"w": stack})
        return tx.update(mean, tx.init(mean), mean, moments=moments)

    expected = helpers.jit(jax.vmap(update))(stacks)
    with jax.set_mesh(mesh):
        placed = jax.device_put(stacks, NamedSharding(mesh, PartitionSpec("member")))
        helpers.assert_trees_equal(helpers.jit(jax.vmap(update))(placed), expected)


@pytest.mark.skipif(
    jax.__version_info__ < (0, 10), reason="JAX has no vmap of a typed psum yet"
)
@pytest.mark.parametrize("factory", [optax_lena.lena, optax_lena.lena_amplified])
def test_a_population_inside_shard_map_trains_as_each_one_alone(factory):
    """Two models on each of two groups of devices, by `jax.vmap`."""
    tx = factory(0.1, 4)
    mesh = jax.make_mesh((2, 4), ("models", "data"), (AxisType.Auto,) * 2)
    loss = lambda params, x: jnp.mean((x @ params["w"]) ** 2)

    def step(gather, params, state, x):
        value, grads, moments = gather(params, x)
        return tx.update(grads, state, params, moments=moments, value=value)

    spread = optax_lena.value_and_grad(loss, 4, axis_name="data")
    alone = optax_lena.value_and_grad(loss, 4)
    params = {"w": jax.random.normal(jax.random.key(0), (4, 3))}
    states, x = jax.vmap(tx.init)(params), jax.random.normal(jax.random.key(1), (16, 3))
    models = PartitionSpec("models")
    run = jax.shard_map(
        jax.vmap(functools.partial(step, spread), in_axes=(0, 0, None)),
        mesh=mesh,
        in_specs=(models, models, PartitionSpec("data")),
        out_specs=models,
    )
    expected = jax.vmap(functools.partial(step, alone), in_axes=(0, 0, None))
    helpers.assert_trees_close(
        jax.jit(run)(params, states, x), expected(params, states, x), rtol=1e-5
    )
