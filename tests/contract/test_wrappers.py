"""One table: what every transformation promises to optax, jit, scan and checkpoints."""

import functools
import inspect
import pickle

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx

import optax_lena
from tests import helpers

STACKED = optax_lena.stacked("blocks")
CASES = {
    "lena": (optax_lena.lena, dict(learning_rate=0.1, batch_scale=4, warmup_steps=8)),
    "lena, per module, default batch_scale": (
        optax_lena.lena,
        dict(learning_rate=0.1, layers=optax_lena.per_module),
    ),
    "lena, stacked": (
        optax_lena.lena,
        dict(learning_rate=0.1, batch_scale=4, layers=STACKED, weight_decay=0.01),
    ),
    "lena, schedule and nesterov": (
        optax_lena.lena,
        dict(
            learning_rate=optax.cosine_decay_schedule(0.1, 100),
            batch_scale=4,
            nesterov=True,
        ),
    ),
    "lena, reference": (
        optax_lena.lena,
        dict(learning_rate=0.1, batch_scale=4, warmup_steps=8, reference=True),
    ),
    "lena_amplified": (
        optax_lena.lena_amplified,
        dict(
            learning_rate=optax.cosine_decay_schedule(0.1, 100),
            batch_scale=4,
            warmup_steps=8,
        ),
    ),
    "adascale": (
        optax_lena.adascale,
        dict(learning_rate=optax.constant_schedule(0.1), batch_scale=4),
    ),
    "linear_scaling": (
        optax_lena.linear_scaling,
        dict(learning_rate=0.1, batch_scale=4, warmup_steps=8),
    ),
    "linear_scaling, state-aware": (
        optax_lena.linear_scaling,
        dict(learning_rate=0.1, batch_scale=4, warmup_steps=8, warmup="state_aware"),
    ),
    "lena_adamw": (
        optax_lena.lena_adamw,
        dict(learning_rate=0.1, batch_scale=4, warmup_steps=8),
    ),
    "lena_adamw, stacked, schedule": (
        optax_lena.lena_adamw,
        dict(
            learning_rate=optax.cosine_decay_schedule(0.1, 100),
            batch_scale=4,
            layers=STACKED,
            nesterov=True,
            mu_dtype="bfloat16",
        ),
    ),
    "lena_lars": (
        optax_lena.lena_lars,
        dict(learning_rate=0.1, batch_scale=4, warmup_steps=8, weight_decay=0.01),
    ),
    "lena_lars, stacked, schedule, masks": (
        optax_lena.lena_lars,
        dict(
            learning_rate=optax.cosine_decay_schedule(0.1, 100),
            batch_scale=4,
            layers=STACKED,
            nesterov=True,
            weight_decay=0.01,
            weight_decay_mask=True,
            trust_ratio_mask=True,
        ),
    ),
    "scale_by_lena, square root": (
        optax_lena.scale_by_lena,
        dict(batch_scale=4, rule=optax_lena.square_root_gain),
    ),
}
PARAMS = helpers.example_params()
every_case = pytest.mark.parametrize("case", CASES)


def build(case):
    factory, arguments = CASES[case]
    return factory(**arguments)


def moments_of(case, seed=0):
    layers = CASES[case][1].get("layers", optax_lena.per_parameter)
    return helpers.example_moments(seed, layers=layers)


def jitted(tx, **extra):
    return helpers.jit(
        lambda grads, state, moments: tx.update(
            grads, state, PARAMS, moments=moments, **extra
        )
    )


@functools.cache
def plain(case):
    """Returns the initial state and the jitted update, compiled once."""
    tx = build(case)
    return jax.jit(tx.init)(PARAMS), jitted(tx)


def plain_step(case, state=None, seed=0):
    start, update = plain(case)
    grads, moments = moments_of(case, seed)
    return update(grads, start if state is None else state, moments)


def first_step(tx, case, **extra):
    """Returns updates and state of the first update; the state keeps its signature."""
    grads, moments = moments_of(case)
    before = tx.init(PARAMS)
    updates, after = jitted(tx, **extra)(grads, before, moments)
    assert helpers.signature(after) == helpers.signature(before)
    return updates, after


def test_the_table_has_every_transformation():
    public = [getattr(optax_lena, name) for name in vars(optax_lena)]
    factories = {
        f
        for f in public
        if inspect.isfunction(f) and "batch_scale" in inspect.signature(f).parameters
    }
    assert factories == {factory for factory, _ in CASES.values()}


@every_case
def test_state_keeps_its_structure_shapes_and_dtypes(case):
    tx = build(case)
    state, _ = plain(case)
    updates, after = plain_step(case)
    expected = helpers.signature(state)
    assert helpers.signature(after) == expected
    assert helpers.signature(jax.eval_shape(tx.init, PARAMS)) == expected
    assert helpers.signature(tx.init(PARAMS)) == expected
    assert helpers.signature(updates) == helpers.signature(PARAMS)
    lena = helpers.lena_state(after)
    assert {x.dtype for x in jax.tree.leaves(lena)} == {jnp.dtype(jnp.float32)}


@every_case
def test_the_first_update_compiles_once_and_the_second_not_at_all(case):
    tx = build(case)
    update = jitted(tx)
    grads, moments = moments_of(case)
    state = tx.init(PARAMS)
    with helpers.count_compilations() as compiled:
        _, state = update(grads, state, moments)
        assert len(compiled) == 1
        update(grads, state, moments)
    assert len(compiled) == 1


@every_case
def test_unknown_extra_arguments_pass(case):
    got = first_step(build(case), case, value=1.0, who="me")
    helpers.assert_trees_equal(got, plain_step(case))


@every_case
def test_runs_in_a_scan(case):
    tx = build(case)
    grads, moments = moments_of(case)

    @helpers.jit
    def run(state):
        body = lambda state, _: (tx.update(grads, state, PARAMS, moments=moments)[1], 0)
        return jax.lax.scan(body, state, length=3)[0]

    lena = helpers.lena_state(run(tx.init(PARAMS)))
    assert lena.base_steps == 12


@every_case
def test_inject_hyperparams(case):
    """Without `static_args`: no argument of ours can be taken for a schedule."""
    factory, arguments = CASES[case]
    tx = optax.inject_hyperparams(factory)(**arguments)
    updates, state = first_step(tx, case)
    assert_same_step((updates, state), plain_step(case))
    assert ("batch_scale" in state.hyperparams) == ("batch_scale" in arguments)


def assert_same_step(got, expected):
    helpers.assert_trees_close(got[0], expected[0], rtol=1e-5, atol=1e-7)
    lenas = [helpers.lena_state(state) for _, state in (got, expected)]
    helpers.assert_trees_close(*lenas, rtol=1e-5, atol=1e-6)


@every_case
def test_masked(case):
    """Unmasked parameters are treated as if there were no others."""
    mask = {"blocks": True, "conv1": {"bias": False, "kernel": True}, "head": True}
    updates, state = first_step(optax.masked(build(case), mask), case)
    grads, moments = moments_of(case)
    bias = updates["conv1"].pop("bias")
    np.testing.assert_array_equal(bias, grads["conv1"]["bias"])

    without = lambda tree: tree | {"conv1": {"kernel": tree["conv1"]["kernel"]}}
    norms = {f: without(getattr(moments, f)) for f in moments._fields[:2]}
    tx, params = build(case), without(PARAMS)
    alone = helpers.jit(tx.update)(
        without(grads), tx.init(params), params, moments=moments._replace(**norms)
    )
    assert_same_step((updates, state), alone)


@every_case
def test_partition(case):
    """Two transformations, each on its own parameters."""
    labels = {"blocks": "a", "conv1": "a", "head": "b"}
    tx = optax.partition({"a": build(case), "b": build(case)}, labels)
    updates, state = first_step(tx, case)
    report = optax_lena.layer_report(state)
    assert {name.partition("/")[0] for name in report} == {"a", "b"}
    # Layers know nothing of each other, unless they are one.
    if any("head" in name for name in report):
        helpers.assert_trees_close(updates, plain_step(case)[0], rtol=1e-5, atol=1e-7)


@every_case
def test_multi_steps(case):
    """It passes the last call's moments on; with equal calls that is right."""
    tx = optax.MultiSteps(build(case), 2)
    update = jitted(tx)
    before = tx.init(PARAMS)
    grads, moments = moments_of(case)
    nothing, state = update(grads, before, moments)
    assert not any(u.any() for u in jax.tree.leaves(nothing))
    updates, state = update(grads, state, moments)
    assert helpers.signature(state) == helpers.signature(before)
    assert_same_step((updates, state), plain_step(case))


@every_case
def test_apply_if_finite(case):
    got = first_step(optax.apply_if_finite(build(case), 3), case)
    assert_same_step(got, plain_step(case))


@every_case
def test_map_params_sees_no_parameter_in_the_state(case):
    """So statistics stay replicated whatever the parameters' sharding specs."""
    tx = build(case)
    specs = optax.tree_utils.tree_map_params(
        tx,
        lambda _, spec: spec,
        tx.init(PARAMS),
        jax.tree.map(lambda p: f"like {p.shape}", PARAMS),
        transform_non_params=lambda _: "replicated",
    )
    assert set(jax.tree.leaves(helpers.lena_state(specs))) == {"replicated"}
    momentum = optax.tree_utils.tree_get(specs, "trace")
    assert momentum is None or momentum["head"]["kernel"] == "like (4, 2)"


def trained_state(case):
    return plain_step(case)[1]


def assert_resumes(case, restored, state):
    helpers.assert_trees_equal(restored, state)
    assert helpers.signature(restored) == helpers.signature(state)
    got, expected = (plain_step(case, s, seed=1) for s in (restored, state))
    helpers.assert_trees_equal(got, expected)
    helpers.assert_trees_equal(optax_lena.metrics(restored), optax_lena.metrics(state))


CHECKPOINTED = ["lena", "lena, stacked", "lena_adamw", "lena_lars"]


@pytest.mark.parametrize("case", CHECKPOINTED)
def test_pickle(case):
    state = trained_state(case)
    assert_resumes(case, pickle.loads(pickle.dumps(state)), state)


@pytest.mark.parametrize("case", CHECKPOINTED)
def test_flax_msgpack(case):
    state = trained_state(case)
    data = flax.serialization.to_bytes(state)
    restored = flax.serialization.from_bytes(build(case).init(PARAMS), data)
    assert_resumes(case, jax.tree.map(jnp.asarray, restored), state)


@pytest.mark.parametrize("case", CHECKPOINTED)
def test_orbax(case, tmp_path):
    state = trained_state(case)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        target = build(case).init(PARAMS)
        restored = checkpointer.restore(tmp_path / "state", target)
    assert_resumes(case, restored, state)


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
