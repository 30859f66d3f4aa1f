"""Monitor: it watches any optimizer, and the updates stay the same to the last bit."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import NamedSharding

import optax_lena
import optax_lena.flax
from tests import helpers
from tests.compiled import MOMENTS, cost
from tests.devices import (
    LAYERS,
    MICROBATCHES,
    P,
    collectives,
    data_mesh,
    elements_reduced,
    laid_out,
    loss_fn,
    problem,
)
from tests.flax.problem import (
    N,
    linen_loss,
    make_batch,
    make_linen_state,
    nnx_loss,
)

COSINE = optax.cosine_decay_schedule(1e-2, 20)
WRAPPED = {
    "adamw": optax.adamw(COSINE),
    "sgd": optax.sgd(COSINE, momentum=0.9),
    "muon": optax.contrib.muon(COSINE),
    "lion": optax.lion(COSINE),
}
each_optimizer = pytest.mark.parametrize("tx", WRAPPED.values(), ids=WRAPPED.keys())
UPDATES = 6


def both(tx, **options):
    """The optimizer as it is, deaf to moments where it has no use for them; watched."""
    return optax.with_extra_args_support(tx), optax_lena.monitor(tx, **options)


def make_step(tx, axis_name=None):
    gather = optax_lena.value_and_grad(loss_fn, MICROBATCHES, axis_name=axis_name)

    def step(carry, batch):
        params, state = carry
        _, grads, moments = gather(params, batch)
        updates, state = tx.update(grads, state, params, moments=moments)
        return (optax.apply_updates(params, updates), state), updates

    return step


def first_batches():
    params, batches = problem(jnp.float32)
    return params, jax.tree.map(lambda x: x[:UPDATES], batches)


def one_by_one(batches):
    return [jax.tree.map(lambda x, t=t: x[t], batches) for t in range(UPDATES)]


def inner(state):
    return getattr(state, "inner_state", state)


@each_optimizer
def test_same_bits_under_jit(tx):
    params, batches = first_batches()
    ends = []
    for one in both(tx):
        step, carry = jax.jit(make_step(one)), (params, one.init(params))
        seen = []
        for batch in one_by_one(batches):
            carry, updates = step(carry, batch)
            seen.append(updates)
        ends.append((carry[0], inner(carry[1]), seen))
    helpers.assert_trees_equal(*ends)


@each_optimizer
def test_same_bits_in_a_scan(tx):
    params, batches = first_batches()
    ends = []
    for one in both(tx):
        run = jax.jit(functools.partial(jax.lax.scan, make_step(one)))
        (params_end, state), updates = run((params, one.init(params)), batches)
        ends.append((params_end, inner(state), updates))
    helpers.assert_trees_equal(*ends)


@each_optimizer
def test_same_bits_as_without_moments(tx):
    """Given the gradients: beside an update that has never heard of moments."""
    params = helpers.example_params()
    grads, moments = optax_lena.moments_from_stack(helpers.random_stacks(0, 4))
    watched = optax_lena.monitor(tx)
    plain, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    state = watched.init(params)
    seen, _ = jax.jit(watched.update)(grads, state, params, moments=moments)
    helpers.assert_trees_equal(seen, plain)


@pytest.mark.parametrize("layout", ["replicated", "fsdp"])
@each_optimizer
def test_same_bits_over_eight_devices(tx, layout):
    params, batches = first_batches()
    mesh = data_mesh(8)
    params = laid_out(params, mesh, layout)
    batches = jax.device_put(batches, NamedSharding(mesh, P(None, "data")))
    ends = []
    with jax.set_mesh(mesh):
        for one in both(tx):
            step = jax.jit(make_step(one, axis_name="data"))
            carry = params, jax.jit(one.init)(params)
            for batch in one_by_one(batches):
                carry, _ = step(carry, batch)
            ends.append(carry[0])
    helpers.assert_trees_equal(*ends)


@each_optimizer
def test_same_bits_behind_accumulate(tx):
    """Gradients of one microbatch a call; four calls are an update."""
    params, batches = first_batches()
    ends = []
    for one in both(tx):
        one = optax_lena.accumulate(one, 4)

        @jax.jit
        def step(carry, batch, one=one):
            params, state = carry
            grads = jax.grad(loss_fn)(params, batch)
            updates, state = one.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        carry = params, one.init(params)
        for batch in 2 * one_by_one(batches):
            carry = step(carry, batch)
        ends.append(carry)
    helpers.assert_trees_equal(ends[0][0], ends[1][0])
    assert optax_lena.metrics(ends[1][1])["model/noise"] > 0


class Model(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.hidden = nnx.Linear(4, 6, rngs=rngs)
        self.readout = nnx.Linear(6, 1, rngs=rngs)

    def __call__(self, x):
        return self.readout(nnx.relu(self.hidden(x)))


@each_optimizer
def test_same_bits_in_an_nnx_optimizer(tx):
    ends = []
    for one in both(tx):
        model = Model()
        optimizer = nnx.Optimizer(model, one, wrt=nnx.Param)
        gather = optax_lena.flax.value_and_grad(nnx_loss, N)

        @nnx.jit
        def step(model, optimizer, batch, gather=gather):
            _, grads, moments = gather(model, batch)
            optimizer.update(model, grads, moments=moments)

        for seed in range(UPDATES):
            step(model, optimizer, make_batch(seed))
        ends.append(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    helpers.assert_trees_equal(*ends)
    report = optax_lena.layer_report(optimizer.opt_state)
    assert len(report) == 4 and all(entry["noise"] > 0 for entry in report.values())


@each_optimizer
def test_same_bits_in_a_linen_train_state(tx):
    ends = []
    for one in both(tx):
        state, variables = make_linen_state(one)
        loss = linen_loss(state.apply_fn, variables["batch_stats"])
        gather = optax_lena.value_and_grad(loss, N, has_aux=True)

        @jax.jit
        def step(state, batch, gather=gather):
            _, grads, moments = gather(state.params, batch)
            return state.apply_gradients(grads=grads, moments=moments)

        for seed in range(UPDATES):
            state = step(state, make_batch(seed))
        ends.append(state.params)
    helpers.assert_trees_equal(*ends)
    assert optax_lena.metrics(state.opt_state)["model/noise"] > 0


@pytest.mark.parametrize("tx", [WRAPPED["adamw"], WRAPPED["muon"]])
def test_no_collective_beyond_the_optimizers_own(tx):
    """The norms ride in the gradient's all-reduce."""
    params, batches = first_batches()
    mesh = data_mesh(8)
    params = jax.device_put(params, NamedSharding(mesh, P()))
    batch = jax.device_put(one_by_one(batches)[0], NamedSharding(mesh, P("data")))

    def plain(carry, batch):
        loss, grads = jax.value_and_grad(loss_fn)(carry[0], batch)
        updates, state = tx.update(grads, carry[1], carry[0])
        return (optax.apply_updates(carry[0], updates), state), loss

    watched = optax_lena.monitor(tx)
    step = make_step(watched, axis_name="data")
    ours = collectives(step, (params, watched.init(params)), batch)
    assert len(ours) == 1, ours
    theirs = collectives(plain, (params, tx.init(params)), batch)
    assert len(theirs) == 1, theirs
    extra = elements_reduced(ours) - elements_reduced(theirs)
    assert extra <= len(jax.tree.leaves(params)) + 2


@pytest.mark.parametrize(
    ("name", "options"),
    [("adamw", {}), ("sgd", {}), ("lion", {}), ("adamw", {"only": "bias|scale"})],
    ids=["adamw", "sgd", "lion", "adamw, only"],
)
def test_it_moves_at_most_a_word_per_parameter(name, options):
    """Beyond the wrapped optimizer. Muon's products hide what it moves."""
    tx = WRAPPED[name]
    words, megabytes = cost(tx, donate=True)
    watched, held = cost(optax_lena.monitor(tx, **options), True, moments=MOMENTS)
    assert watched <= words + 1
    assert held <= megabytes + 1


@pytest.mark.parametrize(
    ("only", "names"),
    [
        ("bias", ["hidden/bias", "out/bias"]),
        ("^out/", ["out/bias", "out/kernel"]),
        ("blocks", ["blocks/kernel"]),
    ],
)
def test_only_some_parameters(only, names):
    params, batches = first_batches()
    plain, watched = both(WRAPPED["adamw"], only=only)
    runs = {}
    for one in (plain, watched, optax_lena.monitor(WRAPPED["adamw"])):
        carry, step = (params, one.init(params)), jax.jit(make_step(one))
        for batch in one_by_one(batches):
            carry, _ = step(carry, batch)
        runs[one] = carry
    helpers.assert_trees_equal(runs[watched][0], runs[plain][0])
    report = optax_lena.layer_report(runs[watched][1])
    assert sorted(report) == names
    # A layer's own numbers do not depend on who else is watched.
    every = optax_lena.layer_report(carry[1])
    for name in names:
        assert report[name]["noise"] == pytest.approx(every[name]["noise"], rel=1e-5)


def test_only_must_be_found():
    tx = optax_lena.monitor(WRAPPED["sgd"], only="norm")
    with pytest.raises(ValueError, match=r"`only` must be found.*got 'norm'"):
        tx.init(first_batches()[0])


@pytest.mark.parametrize("tx", [WRAPPED["adamw"], WRAPPED["muon"]])
def test_metrics_are_finite_and_of_fixed_structure(tx):
    """So a scan stacks them, also of a state that has seen nothing, or only zeros."""
    params, batches = first_batches()
    dead = jax.tree.map(jnp.zeros_like, batches)
    one = optax_lena.monitor(tx, batch_scale=8)

    def step(carry, batch):
        carry, _ = make_step(one)(carry, batch)
        return carry, optax_lena.metrics(carry[1])

    state = one.init(params)
    before = optax_lena.metrics(state)
    for some in (batches, dead):
        (_, end), history = jax.jit(functools.partial(jax.lax.scan, step))(
            (params, state), some
        )
        assert helpers.signature(end) == helpers.signature(state)
        assert history.keys() == before.keys()
        for key, values in history.items():
            assert values.shape == (UPDATES,) and values.dtype == jnp.float32, key
            assert np.isfinite(values).all(), key
    assert all(re.fullmatch(r"[\w/ \[\]()-]+", key) for key in history)


def test_layers_are_those_of_the_moments():
    params, batches = first_batches()
    one = optax_lena.monitor(WRAPPED["sgd"], layers=LAYERS)
    gather = optax_lena.value_and_grad(loss_fn, MICROBATCHES, layers=LAYERS)
    _, grads, moments = jax.jit(gather)(params, one_by_one(batches)[0])
    _, state = one.update(grads, one.init(params), params, moments=moments)
    report = optax_lena.layer_report(state)
    assert {"blocks/kernel[0]", "blocks/kernel[1]"} < set(report)


def test_moments_are_passed_on():
    """To an optimizer that reads them itself, which does as it would alone."""
    params, batches = first_batches()
    ends = []
    for one in both(optax_lena.lena(COSINE, 8, warmup_steps=20)):
        carry, step = (params, one.init(params)), jax.jit(make_step(one))
        for batch in one_by_one(batches):
            carry, _ = step(carry, batch)
        ends.append((carry[0], inner(carry[1])))
    helpers.assert_trees_equal(*ends)


def test_an_optimizer_that_takes_other_keywords_gets_neither_moments_nor_the_loss():
    tx = optax.contrib.sam(optax.sgd(0.1), optax.contrib.normalize(), sync_period=2)
    grads, moments = helpers.example_moments()
    watched, params = optax_lena.monitor(tx), helpers.example_params()
    expected, _ = tx.update(grads, tx.init(params), params)
    state, given = watched.init(params), {"moments": moments, "value": 1.0}
    updates, state = watched.update(grads, state, params, **given)
    helpers.assert_trees_equal(updates, expected)
    assert optax_lena.metrics(state)["model/noise"] > 0


def test_a_line_search_gets_no_moments():
    """It passes what it does not know to the loss, and refuses more than that takes."""
    params, x = {"w": jnp.zeros(3)}, jnp.arange(24.0).reshape(8, 3)
    loss_fn = lambda params, x: jnp.mean((x @ params["w"] - 1) ** 2)
    loss, grads, moments = optax_lena.value_and_grad(loss_fn, 4)(params, x)
    given = {"value": loss, "grad": grads, "value_fn": lambda w: loss_fn(w, x)}
    tx = optax.lbfgs()
    expected, _ = tx.update(grads, tx.init(params), params, **given)
    tx = optax_lena.monitor(tx, batch_scale=4)
    got, state = tx.update(grads, tx.init(params), params, moments=moments, **given)
    helpers.assert_trees_equal(got, expected)
    assert optax_lena.metrics(state)["model/gain"] >= 1
