"""Errors name the argument, what is allowed, what was got, and the remedy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_lena
from tests import helpers
from tests.helpers import says

lena = optax_lena.lena
FACTORIES = [
    lambda *args, **kwargs: optax_lena.lena(0.1, *args, **kwargs),
    lambda *args, **kwargs: optax_lena.adascale(0.1, *args, **kwargs),
    lambda *args, **kwargs: optax_lena.linear_scaling(0.1, *args, **kwargs),
    lambda *args, **kwargs: optax_lena.lena_adamw(0.1, *args, **kwargs),
    lambda *args, **kwargs: optax_lena.lena_muon(0.1, *args, **kwargs),
    lambda *args, **kwargs: optax_lena.lena_lars(0.1, *args, **kwargs),
    lambda *args, **kwargs: optax_lena.lena_amplified(0.1, *args, **kwargs),
    optax_lena.scale_by_lena,
]


def mean_loss(params, batch):
    return jnp.mean(params * batch)


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("value", [0, -0.5, -3, float("nan"), float("inf"), True, "4"])
def test_batch_scale(factory, value):
    message = says("`batch_scale`", "above 0", str(value), "base batch")
    with pytest.raises(ValueError, match=message):
        factory(value)


@pytest.mark.parametrize("value", [np.float32(-0.5), np.int64(0)])
def test_batch_scale_of_numpy(value):
    with pytest.raises(ValueError, match="`batch_scale`"):
        lena(0.1, value)


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("value", [-1, float("nan"), None])
def test_warmup_steps(factory, value):
    message = says("`warmup_steps`", "at least 0", str(value), "base-batch steps")
    with pytest.raises(ValueError, match=message):
        factory(4, warmup_steps=value)


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_share_of_a_run_is_no_number_of_steps(factory):
    message = says("`warmup_steps`", "got 0.05", "0.05 times its base steps")
    with pytest.warns(RuntimeWarning, match=message) as record:
        factory(4, warmup_steps=0.05)
    assert [warning.filename for warning in record] == [__file__]


@pytest.mark.parametrize("value", [0, 0.9, float("inf"), "2"])
def test_spike_limit(value):
    message = says("`limit`", "at least 1", str(value), "squared norm")
    with pytest.raises(ValueError, match=message):
        optax_lena.SpikeLimit(value)


@pytest.mark.parametrize("value", [0, -5, float("nan")])
def test_horizon(value):
    message = says("`horizon`", "at least 1", str(value), "base batches")
    with pytest.raises(ValueError, match=message):
        optax_lena.Averages(horizon=value)


@pytest.mark.parametrize(
    ("argument", "value", "allowed"),
    [
        ("clock", "updates", ("'base_steps'", "'gain_steps'", "'rate_steps'")),
        ("warmup", "state_aware", ("StateAwareWarmup(", "'init', 'update'")),
        ("warmup", optax_lena.FixedWarmup, ("StateAwareWarmup(", "'init', 'update'")),
        ("warmup", 320, ("StateAwareWarmup(", "'init', 'update'")),
        ("estimator", 500, ("Averages(", "'init', 'update', 'read'")),
        ("estimator", optax_lena.SpikeLimit(), ("Averages(", "'read'")),
        ("guard", 2.0, ("SpikeLimit(", "'init', 'update'")),
        ("guard", optax_lena.SpikeLimit, ("SpikeLimit(", "'init', 'update'")),
        ("rule", "linear", ("capped_gain", "square_root_gain", "linear", "Rule")),
        ("rule", lambda estimate, scale: scale, ("capped_gain", "Rule", "<lambda>")),
    ],
)
def test_parts_of_a_rate(argument, value, allowed):
    with pytest.raises(ValueError, match=says(f"`{argument}`", *allowed)) as error:
        optax_lena.LayerRate(**{argument: value})
    assert repr(value) in str(error.value)


@pytest.mark.parametrize("rate", [0.1, optax_lena.LayerRate, optax_lena.capped_gain])
def test_a_rate_that_is_none(rate):
    with pytest.raises(ValueError, match=says("`rate`", "LayerRate", repr(rate))):
        optax_lena.scale_by_layer_rate(rate, 4)


@pytest.mark.parametrize(
    ("argument", "value", "allowed"),
    [
        ("layers", "per_module", ("per_parameter", "per_module", "stacked")),
        ("layers", optax_lena.by_regex, ("per_parameter", "by_regex(...)")),
        ("momentum", 1.0, ("[0, 1)", "kept")),
        ("momentum", -0.1, ("[0, 1)", "kept")),
        ("momentum", "0.9", ("[0, 1)", "kept")),
        ("weight_decay", -1e-4, ("at least 0", "decay")),
        ("weight_decay", None, ("at least 0", "decay")),
    ],
)
def test_arguments_of_an_optimizer(argument, value, allowed):
    with pytest.raises(ValueError, match=says(f"`{argument}`", *allowed)) as error:
        lena(0.1, 4, **{argument: value})
    assert repr(value) in str(error.value)


@pytest.mark.parametrize(
    "factory",
    [lena, optax_lena.lena_amplified, optax_lena.lena_adamw, optax_lena.lena_lars],
)
@pytest.mark.parametrize("value", [-0.1, float("nan"), None, "0.1"])
def test_learning_rate(factory, value):
    message = says("`learning_rate`", "at least 0", repr(value), "small batch")
    with pytest.raises(ValueError, match=message):
        factory(value, 4)


@pytest.mark.parametrize("factory", [lena, optax_lena.lena_adamw, optax_lena.lena_lars])
def test_a_mask_that_inject_hyperparams_has_taken_for_a_schedule(factory):
    """It calls every function with the number of updates; once, the decay was off."""
    mask = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)
    arguments = dict(batch_scale=4, weight_decay=0.1, weight_decay_mask=mask)
    params = helpers.example_params()
    message = says("`weight_decay_mask`", "inject_hyperparams", "static_args")
    for taken in (mask, lambda count: jnp.asarray(True), lambda count: True):
        tx = optax.inject_hyperparams(factory)(
            0.1, **arguments | {"weight_decay_mask": taken}
        )
        with pytest.raises(ValueError, match=message):
            tx.init(params)
    static = optax.inject_hyperparams(factory, static_args=("weight_decay_mask",))
    grads, moments = helpers.example_moments()
    decayed, plain = (
        t.update(grads, t.init(params), params, moments=moments)[0]
        for t in (static(0.1, **arguments), factory(0.1, **arguments))
    )
    helpers.assert_trees_close(decayed, plain, rtol=1e-5)


def test_linear_scaling_knows_no_batch_scale_by_itself():
    with pytest.raises(ValueError, match=says("`batch_scale`", "linear_scaling")):
        optax_lena.linear_scaling(0.1, None)


@pytest.mark.parametrize("factory", [*FACTORIES[:3], optax_lena.scale_by_lena])
def test_reference_beyond_its_horizon(factory):
    message = says("`reference=True`", "at most 1000", "1001", "default mode")
    with pytest.raises(ValueError, match=message):
        factory(1001, reference=True)
    factory(1000, reference=True)


@pytest.mark.parametrize("layers", ["whole_model", None, lambda p: p])
def test_layers_of_the_gatherers(layers):
    message = says("`layers`", "per_parameter", repr(layers))
    with pytest.raises(ValueError, match=message):
        optax_lena.value_and_grad(mean_loss, 2, layers=layers)
    with pytest.raises(ValueError, match=message):
        optax_lena.moments_from_stack(jnp.ones((2, 3)), layers=layers)


@pytest.mark.parametrize("pattern", ["(", "[a", 3])
@pytest.mark.parametrize("rule", [optax_lena.by_regex, optax_lena.stacked])
def test_regular_expressions(rule, pattern):
    message = says(rule.__name__, "'conv1/kernel'", repr(pattern))
    with pytest.raises(ValueError, match=message):
        rule(pattern)


def test_stacked_takes_an_axis_and_a_rule_for_the_others():
    with pytest.raises(ValueError, match="`axis` must be an integer, got 'x'"):
        optax_lena.stacked("blocks", axis="x")
    with pytest.raises(ValueError, match=says("`others`", "got 3")):
        optax_lena.stacked("blocks", others=3)


@pytest.mark.parametrize("value", [None, 2.0, 1, 0])
def test_num_microbatches_is_an_integer_of_at_least_two(value):
    message = says("`num_microbatches`", "at least 2", repr(value), "plain optax")
    with pytest.raises(ValueError, match=message):
        optax_lena.value_and_grad(mean_loss, value)


def test_one_microbatch_is_counted_where_it_is():
    message = says("axis of `grads`", "at least 2", "got 1", "plain optax")
    with pytest.raises(ValueError, match=message):
        optax_lena.moments_from_stack(jnp.ones((1, 3)))
    own = jax.vmap(lambda g: optax_lena.moments_over_axis(g, "data"), axis_name="data")
    message = says("devices on axis 'data'", "at least 2", "got 1", "plain optax")
    with pytest.raises(ValueError, match=message):
        own(jnp.ones((1, 3)))


def test_by_regex_without_a_pattern():
    with pytest.raises(ValueError, match="at least one"):
        optax_lena.by_regex()


@pytest.mark.parametrize(
    "tx",
    [
        lena(0.1, 4),
        lena(0.1),
        optax_lena.adascale(0.1, 4),
        optax_lena.scale_by_lena(4, warmup_steps=5, rule=optax_lena.linear),
        optax_lena.scale_by_layer_rate(
            optax_lena.LayerRate(rule=optax_lena.linear, clock="gain_steps"), 4
        ),
        optax_lena.scale_by_layer_rate(
            optax_lena.LayerRate(rule=optax_lena.linear, guard=optax_lena.SpikeLimit()),
            4,
        ),
        optax_lena.lena_amplified(0.1, 4),
        optax_lena.monitor(lena(0.1, 4)),
        optax_lena.lena_adamw(0.1, 4),
        optax_lena.lena_lars(0.1, 4),
        optax.apply_if_finite(lena(0.1, 4), 3),
    ],
)
def test_forgotten_moments(tx):
    params = {"w": jnp.ones(3)}
    message = says("`moments`", "value_and_grad", "tx.update(", "moments=moments")
    with pytest.raises(TypeError, match=message):
        tx.update(params, tx.init(params), params)


def test_moments_of_another_tree():
    tx, params = lena(0.1, 4), {"w": jnp.ones(3)}
    _, moments = optax_lena.moments_from_stack({"v": jnp.ones((4, 3))})
    message = says("`moments.micro_sq_norm`", "like the updates", "same call")
    with pytest.raises(ValueError, match=message):
        tx.update(params, tx.init(params), params, moments=moments)


def test_gradients_in_place_of_moments():
    tx, params = lena(0.1, 4), {"w": jnp.ones(3)}
    moments = optax_lena.GradMoments(params, params, 4)
    message = says("`moments.micro_sq_norm`", "shape ()", "'w'", "(3,)")
    with pytest.raises(ValueError, match=message):
        tx.update(params, tx.init(params), params, moments=moments)


def test_something_else_in_place_of_moments():
    tx, params = lena(0.1, 4), {"w": jnp.ones(3)}
    with pytest.raises((TypeError, ValueError), match="`moments`"):
        tx.update(params, tx.init(params), params, moments=(params, params))


@pytest.mark.parametrize("stacked_where", ["gatherer", "transformation"])
def test_moments_gathered_with_other_layers(stacked_where):
    stacked, plain = optax_lena.stacked("blocks"), optax_lena.per_parameter
    gathered, used = (
        (stacked, plain) if stacked_where == "gatherer" else (plain, stacked)
    )
    tx = lena(0.1, 4, layers=used)
    grads, moments = helpers.example_moments(layers=gathered)
    shapes = {"gatherer": ("()", "(3,)"), "transformation": ("(3,)", "()")}
    expected, got = shapes[stacked_where]
    message = says(f"shape {expected}", "'blocks/kernel'", f"got {got}", "`layers`")
    with pytest.raises(ValueError, match=message):
        tx.update(grads, tx.init(grads), grads, moments=moments)


@pytest.mark.parametrize(
    ("batch", "shape"),
    [
        (jnp.ones((10, 2)), "(10, 2)"),
        ({"x": jnp.ones(8), "label": jnp.ones(9)}, "(9,)"),
        ((jnp.ones(8), 0.5), "()"),
    ],
)
def test_a_batch_that_does_not_divide(batch, shape):
    f = optax_lena.value_and_grad(lambda params, batch: params, 4)
    message = says("`batch`", "4 microbatches", shape, "further argument")
    with pytest.raises(ValueError, match=message):
        f(jnp.ones(()), batch)


def test_the_leaf_of_the_batch_is_named():
    f = optax_lena.value_and_grad(lambda params, batch: params, 4)
    with pytest.raises(ValueError, match="label"):
        f(jnp.ones(()), {"x": jnp.ones(8), "label": jnp.ones(9)})


@pytest.mark.parametrize("n", [1, 0, -2])
def test_one_microbatch_only(n):
    message = says("`num_microbatches`", "at least 2", str(n), "Split")
    with pytest.raises(ValueError, match=message):
        optax_lena.value_and_grad(mean_loss, n)
    _, moments = helpers.example_moments()
    params = helpers.example_params()
    tx = lena(0.1, 4)
    with pytest.raises(ValueError, match=message):
        moments = moments._replace(num_microbatches=n)
        tx.update(params, tx.init(params), params, moments=moments)


def test_a_stack_of_one():
    with pytest.raises(ValueError, match=says("at least 2", "got 1")):
        optax_lena.moments_from_stack({"w": jnp.ones((1, 3))})


@pytest.mark.parametrize(
    "stack",
    [
        {},
        {"w": jnp.ones(())},
        {"w": jnp.ones((4, 3)), "b": jnp.ones((3, 3))},
        {"w": jnp.ones((4, 3)), "b": jnp.ones(())},
    ],
)
def test_a_stack_without_a_common_leading_axis(stack):
    with pytest.raises(ValueError, match=says("`grads`", "leading axis", "got")):
        optax_lena.moments_from_stack(stack)


@pytest.mark.parametrize("shape", [(3,), (4, 1), ()])
def test_shape_of_weights(shape):
    message = says("`weights`", "(4,)", str(shape), "microbatch")
    with pytest.raises(ValueError, match=message):
        optax_lena.moments_from_stack({"w": jnp.ones((4, 3))}, weights=jnp.ones(shape))
    with pytest.raises(ValueError, match=message):
        f = optax_lena.value_and_grad(mean_loss, 4)
        f(jnp.ones(()), jnp.ones(8), weights=jnp.ones(shape))


@pytest.mark.parametrize(
    ("other", "names"), [({"v": 3}, "'v', 'w'"), ({"w": 3, "v": 3}, "'v'"), ({}, "'w'")]
)
def test_state_of_other_parameters(other, names):
    tx = optax_lena.scale_by_lena(4)
    state = tx.init(jax.tree.map(jnp.ones, other))
    grads, moments = optax_lena.moments_from_stack({"w": jnp.ones((4, 3))})
    with pytest.raises(ValueError, match=says("`state`", "layers", names)):
        tx.update(grads, state, grads, moments=moments)


@pytest.mark.parametrize("report", [optax_lena.layer_report, optax_lena.metrics])
def test_report_on_a_state_without_lena(report):
    state = optax.sgd(0.1, 0.9).init({"w": jnp.ones(3)})
    message = says("`opt_state`", "LENA", "tx.init(params)")
    with pytest.raises(ValueError, match=message):
        report(state)


def test_traced_numbers_are_not_looked_at():
    """They may be hyperparameters under jit, where no value is known."""

    @jax.jit
    def base_steps(batch_scale, warmup_steps):
        tx = lena(0.1, batch_scale, warmup_steps=warmup_steps)
        grads, moments = optax_lena.moments_from_stack({"w": jnp.ones((4, 3))})
        _, state = tx.update(grads, tx.init(grads), grads, moments=moments)
        return optax_lena.metrics(state)["model/base_steps"]

    assert base_steps(4.0, 8.0) == 4


@pytest.mark.parametrize(
    "value",
    [
        "0.5",
        b"1",
        lambda: 1.0,
        object(),
        jnp.float32,
        jax.random.key(0),
        np.array("x"),
        np.datetime64("2020-01-01"),
        jnp.ones((), complex),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_is_no_loss(value):
    tx = optax_lena.lena_amplified(0.1, batch_scale=2)
    grads, moments = helpers.example_moments()
    with pytest.raises(ValueError, match=helpers.says("`value`", "a real number")):
        tx.update(grads, tx.init(grads), grads, moments=moments, value=value)
