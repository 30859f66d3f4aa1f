"""Reports: found at any depth, the same keys at any time, under jit and in scans."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import optax_lena
from tests import helpers

LARGEST = float(np.finfo(np.float32).max)
PARAMS = helpers.example_params()
LAYERS = ["blocks/kernel", "conv1/bias", "conv1/kernel", "head/kernel"]
FIELDS = {
    "gain",
    "trust_ratio",
    "learning_rate",
    "progress",
    "warmup_factor",
    "warmup_end",
    "noise",
    "signal",
    "noise_scale",
}


def lena(**kwargs):
    return optax_lena.lena(0.1, 4, warmup_steps=8, **kwargs)


def report_after_one_update(tx):
    grads, moments = helpers.example_moments()
    update = helpers.jit(lambda *args, moments: tx.update(*args, moments=moments))
    _, state = update(grads, tx.init(PARAMS), PARAMS, moments=moments)
    return optax_lena.layer_report(state, PARAMS)


def masked_all(tx):
    return optax.masked(tx, jax.tree.map(lambda _: True, PARAMS))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tx: tx,
        lambda tx: optax.chain(optax.clip_by_global_norm(1e9), tx, optax.identity()),
        lambda tx: optax.chain(optax.chain(optax.chain(tx))),
        masked_all,
        lambda tx: optax.partition({"only": tx}, "only"),
        lambda tx: optax.named_chain(("clip", optax.clip(1e9)), ("lena", tx)),
        lambda tx: optax.inject_hyperparams(lambda rate: optax.chain(tx))(rate=1.0),
        lambda tx: optax.apply_if_finite(tx, 3),
        lambda tx: optax.MultiSteps(tx, 1),
    ],
)
def test_is_found_at_any_depth(wrap):
    report = report_after_one_update(wrap(lena()))
    assert list(report) == LAYERS
    assert {frozenset(row) for row in report.values()} == {frozenset(FIELDS)}
    assert all(row["progress"] == row["gain"] for row in report.values())


def test_two_lenas_are_named_by_their_labels():
    labels = {"blocks": "slow", "conv1": "fast", "head": "fast"}
    tx = optax.partition({"slow": lena(), "fast": optax_lena.adascale(0.1, 4)}, labels)
    grads, moments = helpers.example_moments()
    _, state = tx.update(grads, tx.init(PARAMS), PARAMS, moments=moments)
    assert set(optax_lena.layer_report(state)) == {"slow/blocks/kernel", "fast/model"}
    metrics = optax_lena.metrics(state)
    assert {"slow/gain/blocks/kernel", "fast/gain/model", "fast/model/gain"} < set(
        metrics
    )


def test_two_lenas_without_labels_are_numbered():
    scale = lambda: optax_lena.scale_by_lena(4, layers=optax_lena.whole_model)
    state = optax.chain(scale(), scale()).init(PARAMS)
    assert list(optax_lena.layer_report(state)) == ["0/model", "1/model"]


def test_a_label_without_parameters_is_no_obstacle():
    labels = jax.tree.map(lambda _: "used", PARAMS)
    tx = optax.partition({"used": lena(), "unused": lena()}, labels)
    grads, moments = helpers.example_moments()
    _, state = tx.update(grads, tx.init(PARAMS), PARAMS, moments=moments)
    assert set(optax_lena.layer_report(state)) == {f"used/{k}" for k in LAYERS}
    assert "used/model/gain" in optax_lena.metrics(state)


def test_metrics_are_float32_scalars_with_fixed_keys():
    tx = lena()
    state = tx.init(PARAMS)
    before = optax_lena.metrics(state)
    grads, moments = helpers.example_moments()
    _, state = tx.update(grads, state, PARAMS, moments=moments)
    after = jax.jit(optax_lena.metrics)(state)
    assert helpers.signature(after) == helpers.signature(dict(sorted(before.items())))
    assert {(x.shape, x.dtype) for x in after.values()} == {((), jnp.dtype("float32"))}
    assert {f"{field}/{layer}" for field in FIELDS for layer in LAYERS} < set(after)
    helpers.assert_trees_close(after, dict(sorted(optax_lena.metrics(state).items())))
    for layer, row in optax_lena.layer_report(state).items():
        for field in FIELDS - {"warmup_end"}:
            # People read "inf" where logs hold the largest float32.
            value = min(row[field], LARGEST)
            np.testing.assert_allclose(value, after[f"{field}/{layer}"], 1e-6)


def test_metrics_in_a_scan():
    tx = lena()
    grads, moments = helpers.example_moments()

    def body(state, _):
        state = tx.update(grads, state, PARAMS, moments=moments)[1]
        return state, optax_lena.metrics(state)

    run = helpers.jit(lambda state: jax.lax.scan(body, state, length=5)[1])
    metrics = run(tx.init(PARAMS))
    np.testing.assert_array_equal(metrics["model/base_steps"], [4, 8, 12, 16, 20])


def test_what_the_model_metrics_mean():
    tx = lena()
    stacks = helpers.random_stacks(0, 4, 4)
    state, _, metrics = helpers.train(tx, PARAMS, stacks)
    table = lambda field: np.stack([metrics[f"{field}/{k}"] for k in LAYERS])
    noise, signal = table("noise").sum(0), table("signal").sum(0)
    model_warmup = np.cumsum(metrics["model/gain"]) / 8
    expected = {
        "noise": noise,
        "signal": signal,
        "noise_scale": noise / signal,
        "gain": (noise + signal) / (noise / 4 + signal),
        "gain_steps": np.cumsum(metrics["model/gain"]),
        "trust_ratio": metrics["model/gain"],
        "schedule": np.full(4, 0.1),
        "learning_rate": 0.1 * metrics["model/gain"] * np.minimum(model_warmup, 1),
        "batch_scale": np.full(4, 4),
        "warming_up": (table("warmup_factor") < 1).mean(0),
        "min_warmup_factor": table("warmup_factor").min(0),
        "min_trust_ratio": table("trust_ratio").min(0),
        "max_trust_ratio": table("trust_ratio").max(0),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(metrics[f"model/{name}"], values, rtol=1e-5)
    assert 0 < metrics["model/warming_up"][2] < 1
    positive = table("signal") > 0
    ratio = table("noise")[positive] / table("signal")[positive]
    np.testing.assert_allclose(table("noise_scale")[positive], ratio, rtol=1e-5)
    assert not positive.all()
    assert (table("noise_scale")[~positive] == LARGEST).all()


def test_the_only_layer_is_all_of_them():
    tx = optax_lena.scale_by_lena(4, warmup_steps=8)
    assert optax_lena.metrics(tx.init({"w": jnp.ones(2)}))["model/warming_up"] == 1


def test_the_extremes_are_those_of_the_layers_and_not_the_models():
    tx = optax_lena.scale_by_lena(2, warmup_steps=8)
    stack = {"a": jnp.array([3.0, 3.0]), "b": jnp.array([1.0, -1.0])}
    grads, moments = optax_lena.moments_from_stack(stack)
    _, state = tx.update(grads, tx.init(grads), moments=moments)
    rows = jnp.array([0.25, 0.5, 0.125])
    applied = state.applied._replace(warmup_factor=rows, trust_ratio=4 * rows)
    numbers = optax_lena.metrics(state._replace(applied=applied))
    assert numbers["model/min_warmup_factor"] == 0.25
    assert numbers["model/min_trust_ratio"] == 1
    assert numbers["model/max_trust_ratio"] == 2
    assert numbers["model/trust_ratio"] == 0.5


def test_warmup_end_is_the_base_step_at_which_progress_reached_its_goal():
    _, _, metrics = helpers.train(lena(), PARAMS, helpers.random_stacks(0, 12, 4))
    ends = set()
    for layer in LAYERS:
        progress, end = (metrics[f"{f}/{layer}"] for f in ("progress", "warmup_end"))
        first = np.argmax(progress >= 8)
        assert progress[first] >= 8 > progress[first - 1]
        expected = np.where(np.arange(12) < first, -1, 4 * (first + 1))
        np.testing.assert_array_equal(end, expected)
        ends.add(end[-1])
    assert len(ends) > 1


def test_warmup_end_is_none_before():
    tx = optax_lena.linear_scaling(0.1, 4, warmup_steps=8)
    state, ends = tx.init(PARAMS), []
    for _ in range(3):
        _, state = tx.update(PARAMS, state, PARAMS)
        ends.append(optax_lena.layer_report(state)["model"]["warmup_end"])
    assert ends == [None, 8, 8]


@pytest.mark.parametrize("end", [0.0, 0.5, 1.0])
def test_a_warmup_may_end_at_any_base_step(end):
    state = optax_lena.scale_by_lena(4).init({"w": jnp.ones(2)})
    state = state._replace(warmup_end=jnp.full(2, end))
    assert optax_lena.layer_report(state)["w"]["warmup_end"] == end


def test_before_the_first_update_a_report_says_what_is_known():
    row = optax_lena.layer_report(lena().init(PARAMS))["head/kernel"]
    assert row == {
        "gain": 1,
        "trust_ratio": 1,
        "learning_rate": 0,
        "progress": 0,
        "warmup_factor": 0,
        "warmup_end": None,
        "noise": 0,
        "signal": 0,
        "noise_scale": 0,
    }


def test_a_printed_structure_is_not_full_of_names():
    """Errors about pytrees print it."""
    structure = repr(jax.tree.structure(lena().init(PARAMS)))
    assert "<names of 4 layers>" in structure
    assert "conv1/kernel" not in structure


def test_the_rate_of_a_layer_is_the_product_of_what_the_report_says():
    _, _, metrics = helpers.train(lena(), PARAMS, helpers.random_stacks(0, 6, 4))
    for layer in LAYERS:
        ratio, warmup, rate = (
            metrics[f"{f}/{layer}"]
            for f in ("trust_ratio", "warmup_factor", "learning_rate")
        )
        np.testing.assert_allclose(rate, 0.1 * ratio * warmup, rtol=1e-6)


def test_an_empty_tree_has_metrics_of_no_layer():
    metrics = optax_lena.metrics(lena().init({}))
    assert metrics["model/gain"] == 1 and metrics["model/warming_up"] == 0
    assert not helpers.rows(metrics, "gain")
    assert optax_lena.layer_report(lena().init({})) == {}


def test_without_layers_the_extremes_are_those_of_nothing():
    numbers = optax_lena.metrics(optax_lena.scale_by_lena(4).init({}))
    assert numbers["model/min_warmup_factor"] == 1
    assert numbers["model/min_trust_ratio"] == np.finfo(np.float32).max
    assert numbers["model/max_trust_ratio"] == 0


def test_only_the_report_of_noise_alone_is_infinite():
    """`jax_debug_infs` looks at everything that is computed."""
    grads, moments = optax_lena.moments_from_stack({"w": jnp.array([1.0, -1.0])})
    with jax.debug_infs(True):
        _, state = lena().update(grads, lena().init(grads), grads, moments=moments)
        metrics = jax.jit(optax_lena.metrics)(state)
    assert metrics["noise_scale/w"] == metrics["model/noise_scale"] == LARGEST
    assert optax_lena.layer_report(state)["w"]["noise_scale"] == np.inf


@pytest.mark.parametrize(
    ("noise", "signal", "ratio"), [(0.5, 0.0, np.inf), (0.5, -1.0, np.inf), (0, 0, 0)]
)
def test_without_signal_the_noise_scale_is_infinite_for_people(noise, signal, ratio):
    state = optax_lena.scale_by_lena(4).init({"w": jnp.ones(2)})
    rows = {"noise": jnp.full(2, noise), "signal": jnp.full(2, signal)}
    state = state._replace(applied=state.applied._replace(**rows))
    assert optax_lena.layer_report(state)["w"]["noise_scale"] == ratio


def stacked_states():
    tx = lena()
    states = []
    for seed in (0, 1):
        grads, moments = helpers.example_moments(seed)
        states.append(tx.update(grads, tx.init(PARAMS), PARAMS, moments=moments)[1])
    return states, jax.tree.map(lambda *xs: jnp.stack(xs), *states)


def test_metrics_of_stacked_states_keep_their_axis():
    """Of an ensemble, or of the replicas of a `pmap`."""
    states, stack = stacked_states()
    for i, state in enumerate(states):
        got = {k: v[i] for k, v in optax_lena.metrics(stack).items()}
        helpers.assert_trees_close(got, optax_lena.metrics(state))


def test_a_report_of_stacked_states_says_to_take_one():
    states, stack = stacked_states()
    message = helpers.says(
        "`opt_state`", "stack of shape (2,)", "unreplicate", "metrics"
    )
    with pytest.raises(ValueError, match=message):
        optax_lena.layer_report(stack)
    one = jax.tree.map(lambda x: x[0], stack)
    assert optax_lena.layer_report(one) == optax_lena.layer_report(states[0])


def test_a_report_inside_of_jit_names_what_works_there():
    state = optax_lena.lena(0.1, 4).init({"w": jnp.ones(2)})
    with pytest.raises(ValueError, match=helpers.says("tracing", "optax_lena.metrics")):
        jax.jit(optax_lena.layer_report)(state)


def test_states_of_other_layers_have_another_structure():
    scale = optax_lena.scale_by_lena(4)
    one, same, other = (scale.init({k: 1.0}) for k in ("w", "w", "v"))
    assert jax.tree.structure(one) == jax.tree.structure(same)
    assert jax.tree.structure(one) != jax.tree.structure(other)
    assert one.layer_names() == ("w",)


class Model(nnx.Module):
    def __init__(self):
        self.conv1 = nnx.Linear(2, 3, rngs=nnx.Rngs(0))


def test_nnx_optimizer_state():
    optimizer = nnx.Optimizer(Model(), lena(), wrt=nnx.Param)
    report = optax_lena.layer_report(optimizer.opt_state)
    assert set(report) == {"conv1/bias", "conv1/kernel"}
    metrics = optax_lena.metrics(optimizer.opt_state)
    assert {(type(x), x.dtype) for x in metrics.values()} == {
        (type(jnp.zeros(())), jnp.dtype("float32"))
    }


def test_a_state_in_the_memory_of_the_host_is_read():
    """Where an offloaded state lies between two steps."""
    grads, moments = helpers.example_moments()
    tx = optax_lena.lena(0.1, 4)
    _, state = tx.update(grads, tx.init(grads), grads, moments=moments)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    host = jax.device_put(state, device.with_memory_kind("pinned_host"))
    assert optax_lena.layer_report(host) == optax_lena.layer_report(state)
    helpers.assert_trees_close(optax_lena.metrics(host), optax_lena.metrics(state))


def test_reports_work_where_no_transfer_may_be_implicit():
    """big_vision forbids them in the whole program."""
    tx = optax_lena.lena_amplified(0.1, batch_scale=4)
    state = jax.jit(tx.init)({"w": jnp.zeros(2)})
    with jax.transfer_guard("disallow"):
        report = optax_lena.layer_report(state)
        numbers = optax_lena.metrics(state)
        compiled = jax.jit(optax_lena.metrics)(state)
    assert report["w"]["gain"] == numbers["gain/w"] == compiled["gain/w"] == 1
