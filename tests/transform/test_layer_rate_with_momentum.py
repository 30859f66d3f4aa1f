"""The guard of `lena_amplified` knows whether the last steps went the same way."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

import optax_lena
from optax_lena._parts.state import Applied
from optax_lena._transform.layer_rate_with_momentum import (
    LayerRateWithMomentumState,
    _fall,
)

SCALE = 16


def growing(direction, updates=30, growth=1.1):
    """Gradients of two microbatches that grow; `direction(t)` is +1 or -1."""
    lengths = growth ** np.arange(updates)
    signs = np.array([direction(t) for t in range(updates)])
    mean = (signs * lengths)[:, None, None] * np.ones((updates, 1, 8))
    noise = 0.1 * lengths[:, None, None] * np.ones((updates, 1, 8))
    return {"w": jnp.asarray(np.concatenate([mean - noise, mean + noise], 1))}


def trained(stacks, tx):
    """The metrics of every update, and the state after the last."""
    params = jax.tree.map(lambda x: jnp.zeros(x.shape[2:]), stacks)

    def step(carry, stack):
        params, state = carry
        grads, moments = optax_lena.moments_from_stack(stack)
        updates, state = tx.update(grads, state, params, moments=moments)
        params = optax.apply_updates(params, updates)
        return (params, state), optax_lena.metrics(state)

    (_, state), metrics = jax.lax.scan(step, (params, tx.init(params)), stacks)
    return metrics, state


def test_gradients_that_agree_may_grow_and_those_that_overshoot_may_not():
    tx = optax_lena.lena_amplified(0.01, SCALE)
    out_of_a_plateau, _ = trained(growing(lambda t: 1), tx)
    overshooting, _ = trained(growing(lambda t: (-1) ** t), tx)
    for metrics, is_above in ((out_of_a_plateau, True), (overshooting, False)):
        coherence = metrics["model/coherence"]
        assert coherence[0] == 1
        np.testing.assert_allclose(coherence[1], 1, rtol=1e-6)  # of a single step
        assert all(coherence[2:] > 1.5) if is_above else all(coherence[2:] < 0.7)
    assert all(out_of_a_plateau["model/spike_factor"] == 1)
    assert all(overshooting["model/spike_factor"][3:] < 1)
    assert overshooting["model/spike_factor"][-1] < 0.4


def test_the_coherence_is_that_of_the_buffer():
    rng = np.random.default_rng(0)
    stacks = {"w": rng.normal(size=(9, 4, 3)) + 1, "b": rng.normal(size=(9, 4, 2, 2))}
    tx = optax_lena.lena_amplified(0.1, SCALE, nesterov=True)
    _, state = trained(jax.tree.map(jnp.float32, stacks), tx)
    [inner] = [s for s in state if isinstance(s, LayerRateWithMomentumState)]
    length = sum(np.sum(np.square(x)) for x in jax.tree.leaves(inner.buffer))
    np.testing.assert_allclose(inner.last_steps.together, length, rtol=1e-6)


def test_without_a_buffer_nothing_is_known_of_steps():
    tx = optax_lena.lena_amplified(0.01, SCALE, momentum=None)
    metrics, _ = trained(growing(lambda t: 1), tx)
    assert all(metrics["model/coherence"] == 1)
    assert all(metrics["model/spike_factor"][5:] < 0.9)


def test_gradients_that_are_clipped_in_front_of_it_are_not_cut_as_well():
    """Moments are those of the gradient as it was."""
    tx = optax_lena.lena_amplified(0.01, SCALE)
    overshooting = growing(lambda t: (-1) ** t)
    cut, _ = trained(overshooting, tx)
    clipped, _ = trained(overshooting, optax.chain(optax.clip(1e-3), tx))
    assert all(clipped["model/coherence"][1:] < 1e-3)
    assert all(cut["model/spike_factor"][3:] < 1)
    assert all(clipped["model/spike_factor"] == 1)


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_what_is_not_clipped_enters_whole(momentum, dtype):
    tx = optax_lena.lena_amplified(
        0.01, SCALE, momentum=momentum, accumulator_dtype=dtype, weight_decay=0.1
    )
    rng = np.random.default_rng(0)
    lengths = np.exp(rng.normal(size=(40, 1, 1)))
    noise = lengths * rng.normal(size=(40, 2, 8))
    for stacks in ({"w": jnp.float32(noise)}, growing(lambda t: (-1) ** t)):
        params = jax.tree.map(lambda x: jnp.ones(x.shape[2:]), stacks)
        state = tx.init(params)
        for stack in stacks["w"]:
            grads, moments = optax_lena.moments_from_stack({"w": stack})
            updates, state = tx.update(grads, state, params, moments=moments)
            params = optax.apply_updates(params, updates)
            [inner] = [s for s in state if isinstance(s, LayerRateWithMomentumState)]
            assert inner.last_steps.entered == 1


def test_weight_decay_in_the_buffer_lifts_the_limit_no_further_than_equal_steps():
    tx = optax_lena.lena_amplified(1e-6, SCALE, weight_decay=100.0)
    noise = np.random.default_rng(0).normal(size=(30, 2, 8))
    params = {"w": jnp.ones(8)}
    state = tx.init(params)
    for stack in jnp.float32(noise):
        grads, moments = optax_lena.moments_from_stack({"w": stack})
        _, state = tx.update(grads, state, params, moments=moments)
    coherence = optax_lena.metrics(state)["model/coherence"]
    np.testing.assert_allclose(coherence, (1 + 0.8) / (1 - 0.8), rtol=1e-6)


def coherence_of(mesh_axes, tx, spec, check_vma):
    """Trains inside `shard_map`, with `w` sharded by `spec`; of every device."""
    mesh = jax.make_mesh(
        tuple(mesh_axes.values()),
        tuple(mesh_axes),
        axis_types=(jax.sharding.AxisType.Auto,) * len(mesh_axes),
    )

    def loss_fn(params, batch):
        x, width = batch["x"], len(params["w"])
        if spec != P():
            own = width * jax.lax.axis_index("model")
            x = jax.lax.dynamic_slice_in_dim(x, own, width, axis=1)
        predicted = x @ params["w"]
        if spec != P():
            predicted = jax.lax.psum(predicted, "model")
        return jnp.mean((predicted + params["b"] - batch["y"]) ** 2)

    gather = optax_lena.value_and_grad(
        loss_fn,
        8,
        axis_name="data",
        param_specs=None if check_vma else {"w": spec, "b": P()},
    )

    def train(params, batches):
        def step(carry, batch):
            params, state = carry
            loss, grads, moments = gather(params, batch)
            updates, state = tx.update(
                grads, state, params, moments=moments, value=loss
            )
            params = optax.apply_updates(params, updates)
            return (params, state), optax_lena.metrics(state)["model/coherence"]

        _, coherence = jax.lax.scan(step, (params, tx.init(params)), batches)
        return coherence if check_vma else coherence[None]

    params = {"w": jnp.zeros(8), "b": jnp.zeros(())}
    x = jax.random.normal(jax.random.key(0), (6, 32, 8))
    batches = {"x": x, "y": x.sum(-1) + jax.random.normal(jax.random.key(1), (6, 32))}
    run = jax.shard_map(
        train,
        mesh=mesh,
        in_specs=({"w": spec, "b": P()}, P(None, "data")),
        out_specs=P() if check_vma else P(tuple(mesh_axes)),
        check_vma=check_vma,
    )
    return jax.jit(run)(params, batches)


def test_data_parallelism_knows_it_with_and_without_types():
    tx = optax_lena.lena_amplified(0.02, SCALE)
    typed, untyped = (coherence_of({"data": 8}, tx, P(), vma) for vma in (True, False))
    np.testing.assert_allclose(untyped, np.tile(typed, (8, 1)), rtol=1e-5)
    assert all(typed[2:] != 1)


def test_so_does_data_parallelism_over_two_axes():
    """Copies of a tensor have one norm."""
    tx = optax_lena.lena_amplified(0.02, SCALE)
    typed = coherence_of({"data": 4, "model": 2}, tx, P(), check_vma=True)
    untyped = coherence_of({"data": 4, "model": 2}, tx, P(), check_vma=False)
    np.testing.assert_allclose(untyped, np.tile(typed, (8, 1)), rtol=1e-5)
    assert all(typed[2:] != 1)


def test_a_sharded_buffer_has_the_length_of_the_whole():
    tx = optax_lena.lena_amplified(0.02, SCALE)
    whole = coherence_of({"data": 4}, tx, P(), check_vma=True)
    sharded = coherence_of({"data": 4, "model": 2}, tx, P("model"), check_vma=True)
    np.testing.assert_allclose(sharded, whole, rtol=1e-4)


@pytest.mark.parametrize("devices", [4, 1])
def test_where_no_type_tells_shards_apart_nothing_is_known(devices):
    """Else devices would disagree on the limit, and part for good."""
    tx, mesh_axes = (
        optax_lena.lena_amplified(0.02, SCALE),
        {"data": devices, "model": 2},
    )
    coherence = coherence_of(mesh_axes, tx, P("model"), check_vma=False)
    np.testing.assert_array_equal(coherence, 1)


def test_models_of_their_own_are_no_shards_even_where_no_type_says_so():
    tx = optax_lena.lena_amplified(0.01, SCALE)
    noise = np.random.default_rng(0).normal(size=(2, 9, 4, 3)).astype(np.float32)
    mesh = jax.make_mesh((2,), ("models",), axis_types=(jax.sharding.AxisType.Auto,))

    def train(stacks):
        metrics, _ = trained({"w": stacks[0]}, tx)
        return metrics["model/coherence"][None]

    run = jax.shard_map(
        train,
        mesh=mesh,
        in_specs=P("models"),
        out_specs=P("models"),
        check_vma=False,
    )
    expected = [trained({"w": stacks}, tx)[0]["model/coherence"] for stacks in noise]
    np.testing.assert_allclose(jax.jit(run)(noise), expected, rtol=1e-5)
    assert all(expected[0][2:] != 1)


SCHEDULES = {
    "constant": 0.1,
    "cosine": optax.cosine_decay_schedule(0.1, 16),
    "one cycle": optax.warmup_cosine_decay_schedule(0.01, 0.1, 4, 16),
    "restarts": optax.join_schedules(
        [optax.linear_schedule(0.1, 0.01, 5)] * 3, [5, 10]
    ),
    "steps": optax.piecewise_constant_schedule(0.1, {5: 0.1, 8: 0.2}),
}


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("name", SCHEDULES)
def test_at_the_base_batch_it_is_sgd_whatever_the_schedule(name, nesterov):
    """`optax.sgd` multiplies what leaves the buffer."""
    ours = optax_lena.lena_amplified(SCHEDULES[name], 1, nesterov=nesterov)
    theirs = optax.sgd(SCHEDULES[name], 0.9, nesterov)
    params = {"w": jnp.zeros(8)}
    state, other = ours.init(params), theirs.init(params)
    for stack in jax.random.normal(jax.random.key(0), (12, 2, 8)):
        grads, moments = optax_lena.moments_from_stack({"w": stack})
        updates, state = ours.update(grads, state, params, moments=moments)
        expected, other = theirs.update(grads, other)
        np.testing.assert_allclose(updates["w"], expected["w"], rtol=2e-5, atol=1e-8)


def test_steps_that_were_shortened_afterwards_do_not_look_clipped():
    """Nor does the coherence see that the buffer is shorter than what was added."""
    schedule = optax.piecewise_constant_schedule(0.1, {10 * SCALE: 0.1})
    falling, constant = (
        trained(growing(lambda t: 1), optax_lena.lena_amplified(rate, SCALE))
        for rate in (schedule, 0.1)
    )
    [inner] = [s for s in falling[1] if isinstance(s, LayerRateWithMomentumState)]
    assert inner.last_steps.entered == 1
    coherence = [metrics["model/coherence"] for metrics, _ in (falling, constant)]
    np.testing.assert_allclose(*coherence, rtol=1e-5)


@pytest.mark.parametrize("scale", [2, 16, 64])
@pytest.mark.parametrize("steps", [1024, 8192, 65536])
def test_no_cosine_and_no_line_falls_at_once(scale, steps):
    times = jnp.arange(0, steps, scale)
    if scale == 2:  # in float32 the last of many small steps are not exact
        times = times[:-16]
    for schedule in (
        optax.cosine_decay_schedule(0.1, steps),
        optax.linear_schedule(0.1, 0.0, steps),
        optax.warmup_cosine_decay_schedule(0.0, 0.1, steps // 8, steps),
    ):
        rates = jax.vmap(schedule)(times)
        assert jnp.all(fall(rates[:-1], rates[1:], scale) == 1)


@pytest.mark.parametrize("scale", [1, 16])
@pytest.mark.parametrize(
    "rates", [(0.0, 0.1), (0.1, -0.01), (-0.1, 0.01), (1e-38, 1e3)]
)
def test_a_schedule_that_was_zero_or_is_negative_is_not_followed(rates, scale):
    assert fall(*map(jnp.float32, rates), scale) == 1


@pytest.mark.parametrize(
    ("scale", "now", "expected"),
    [(1, 0.8, 0.8), (1, 1.5, 1.5), (0.5, 0.8, 0.8), (2, 0.8, 1), (2, 0.2, 0.2)],
)
def test_how_far_the_buffer_follows(scale, now, expected):
    assert fall(jnp.float32(1), jnp.float32(now), scale) == np.float32(expected)


def fall(before, now, scale):
    applied = Applied.nothing(2, jnp.ones(2))
    scale = jnp.float32(scale)
    return _fall(before, applied._replace(schedule=now, base_batches=scale))
