"""Traces of the authors' own code (tests/golden): reference mode must replay them."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_lena
from optax_lena._parts.reference import AuthorsEstimate, follow_authors
from tests import helpers

FOLDER = pathlib.Path(__file__).parents[1] / "golden"
TRACES = ["lena_w0", "lena_w2", "as_w2", "lsw_w1", "lsw_w2"]
RTOL = 1e-5


def load(name):
    with np.load(FOLDER / f"pub_mlp_S4_{name}.npz") as file:
        trace = dict(file)
    meta = json.loads(str(trace.pop("meta_json")))
    # Torch's names have dots; ours are paths.
    tree = lambda kind: {
        p.replace(".", "/"): trace[f"{kind}/{p}"] for p in meta["param_names"]
    }
    return trace, meta, tree


def parts_of(meta, method):
    """The paper's parts of one of the authors' methods, and its layers."""
    warmups = {
        0: optax_lena.StateAwareWarmup(),
        1: optax_lena.FixedWarmup(meta["warmup_steps"]),
        2: optax_lena.StateAwareWarmup(meta["warmup_steps"]),
    }
    rule = optax_lena.linear if method == "lsw" else optax_lena.capped_gain
    rate = optax_lena.LayerRate(rule=rule, warmup=warmups[meta["warmup"]])
    is_lena = method == "lena"
    return rate, optax_lena.per_parameter if is_lena else optax_lena.whole_model


def schedule(meta):
    return lambda step: meta["base_lr"] * 0.01 ** (step / meta["total_steps"])


def composed(meta, method):
    """Their schedule runs on base steps, also AdaScale's; ours is one of the parts."""
    rate, layers = parts_of(meta, method)
    return helpers.momentum_sgd(
        schedule(meta),
        meta["S"],
        rate=follow_authors(rate, meta["S"]),
        layers=layers,
        momentum=meta["momentum"],
        weight_decay=meta["weight_decay"],
    )


def optimizer(meta, method):
    """A closed optimizer, for the methods that are one."""
    factory = {"lena": optax_lena.lena, "lsw": optax_lena.linear_scaling}[method]
    return factory(
        schedule(meta),
        meta["S"],
        warmup_steps=meta["warmup_steps"] if meta["warmup"] else 0,
        momentum=meta["momentum"],
        weight_decay=meta["weight_decay"],
        reference=True,
    )


def hand_written(meta, method):
    """What a user writes who chains optax's own parts around the transformation."""
    rate, layers = parts_of(meta, method)
    scale = optax_lena.scale_by_layer_rate(
        follow_authors(rate, meta["S"]), meta["S"], layers=layers
    )
    if meta["warmup"] != 1:
        scale = optax_lena.scale_by_lena(
            meta["S"],
            layers=layers,
            rule=rate.rule,
            warmup_steps=rate.warmup.steps,
            reference=True,
        )
    per_update = meta["S"] / meta["total_steps"]
    return optax.chain(
        optax.add_decayed_weights(meta["weight_decay"]),
        optax.trace(meta["momentum"]),
        scale,
        optax.scale_by_schedule(lambda t: -meta["base_lr"] * 0.01 ** (t * per_update)),
    )


CASES = [(name, build) for name in TRACES for build in (composed, hand_written)]
CASES += [(name, optimizer) for name in ("lena_w0", "lena_w2", "lsw_w1")]


@pytest.mark.parametrize(("name", "build"), CASES)
def test_replays_the_authors_code(name, build):
    trace, meta, tree = load(name)
    method = name.split("_")[0]
    state, params, metrics = helpers.train(
        build(meta, method), tree("init"), tree("grad")
    )

    layers = [p.replace(".", "/") for (p, *_) in meta["groups"]]
    if method != "lena":
        layers = ["model"]
    table = lambda field: np.stack([metrics[f"{field}/{k}"] for k in layers], axis=1)
    close = lambda actual, key: np.testing.assert_allclose(
        actual, trace[key], rtol=RTOL, err_msg=key
    )

    if method != "lsw":  # its golden gain is S by definition; its rate is checked
        close(table("gain"), "scaling_factor")
    close(metrics["model/gain"], "grad_var")
    decay = meta["base_lr"] * trace["decay"][:, None]
    close(table("trust_ratio") * table("warmup_factor") * decay, "lr")
    if meta["warmup"] == 2:
        progress = table("progress")
        close(progress, "progress_after")
        close(
            np.vstack([np.zeros_like(progress[:1]), progress[:-1]]), "progress_before"
        )
    helpers.assert_trees_close(params, tree("param"), rtol=RTOL, atol=1e-7)
    momenta = optax.tree_utils.tree_get(state, "trace")
    helpers.assert_trees_close(momenta, tree("momentum_final"), rtol=RTOL, atol=1e-7)


def test_the_traces_reach_what_they_must_discriminate():
    """Layers that reach the cap and warm-ups that end: else a replay says little."""
    trace, meta, _ = load("lena_w2")
    assert (trace["scaling_factor"] > meta["S"]).any()
    assert (trace["progress_after"] > meta["warmup_steps"]).any()
    assert np.isclose(trace["lr"][0], 0).all()


def test_adascale_in_reference_mode_is_the_authors_on_its_own_clock():
    """Their rate at a constant schedule, where the clock does not matter."""
    _, meta, tree = load("as_w2")
    rate, layers = parts_of(meta, "as")
    arguments = dict(momentum=meta["momentum"], weight_decay=meta["weight_decay"])
    theirs = helpers.momentum_sgd(
        0.01,
        meta["S"],
        rate=follow_authors(rate, meta["S"]),
        layers=layers,
        **arguments,
    )
    warmup_steps = meta["warmup_steps"]
    ours = optax_lena.adascale(
        0.01, meta["S"], warmup_steps=warmup_steps, reference=True, **arguments
    )
    got, expected = (
        helpers.train(tx, tree("init"), tree("grad"))[1] for tx in (ours, theirs)
    )
    helpers.assert_trees_close(got, expected, rtol=RTOL, atol=1e-7)


def test_the_authors_gain_has_an_epsilon_and_no_cap():
    gain = lambda noise, signal: AuthorsEstimate(
        jnp.float32(noise), jnp.float32(signal)
    ).gain(4)
    assert gain(0.0, 0.0) == 1
    np.testing.assert_allclose(gain(1e-6, 0.0), 2 / 1.25, rtol=1e-6)
    assert gain(1.0, -0.1) > 4
    assert gain(1.0, -0.9) > 0  # which S that has grown makes of such an average


def test_it_starts_at_a_rate_of_zero_and_feeds_the_momentum():
    tx = optax_lena.lena(0.1, 4, warmup_steps=8, reference=True)
    grads, moments = helpers.example_moments()
    updates, state = tx.update(grads, tx.init(grads), grads, moments=moments)
    assert not any(u.any() for u in jax.tree.leaves(updates))
    helpers.assert_trees_equal(optax.tree_utils.tree_get(state, "trace"), grads)


@pytest.mark.parametrize(
    "rule", [optax_lena.amplified_gain, optax_lena.normalised_gain, optax_lena.linear]
)
def test_every_rule_goes_with_the_authors_averages(rule):
    tx = optax_lena.scale_by_lena(4, rule=rule, reference=True)
    grads, moments = helpers.example_moments()
    updates, state = tx.update(grads, tx.init(grads), grads, moments=moments)
    for name, ratio in helpers.rows(optax_lena.metrics(state), "trust_ratio").items():
        assert 1 <= ratio <= 4, name
    assert jax.tree.structure(updates) == jax.tree.structure(grads)


def test_the_largest_batch_scale_of_the_authors_code_is_their_horizon():
    optax_lena.lena(0.1, 1000, reference=True)
