"""What every transformation promises to the wrappers of optax."""

import jax
import numpy as np
import optax

import optax_lena
from tests import helpers
from tests.contract.table import (
    CASES,
    PARAMS,
    assert_close,
    assert_same_step,
    build,
    every_case,
    first_step,
    jitted,
    moments_of,
    plain_step,
)


@every_case
def test_unknown_extra_arguments_pass(case):
    got = first_step(build(case), case, who="me", verbose=True)
    helpers.assert_trees_equal(got, plain_step(case))


@every_case
def test_inject_hyperparams(case):
    """Without `static_args`: no argument of ours can be taken for a schedule."""
    factory, arguments = CASES[case]
    tx = optax.inject_hyperparams(factory)(**arguments)
    updates, state = first_step(tx, case)
    assert_same_step((updates, state), plain_step(case))
    assert ("batch_scale" in state.hyperparams) == ("batch_scale" in arguments)


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
        assert_close(updates, plain_step(case)[0])


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
        is_leaf=lambda x: isinstance(x, optax.MaskedNode),  # as optax asks for
    )
    assert set(jax.tree.leaves(helpers.lena_state(specs))) == {"replicated"}
    momentum = optax.tree_utils.tree_get(specs, "trace")
    assert momentum is None or momentum["head"]["kernel"] == "like (4, 2)"
