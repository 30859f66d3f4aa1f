"""One table of every transformation, for tests of what all of them keep.

Every case is built once and its update compiled once.
"""

import functools

import jax
import optax
import pytest

import optax_lena
from tests import helpers

STACKED = optax_lena.stacked("blocks")
MASK = {"blocks": True, "conv1": False, "head": True}
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
    "adascale, reference": (
        optax_lena.adascale,
        dict(learning_rate=0.1, batch_scale=4, warmup_steps=8, reference=True),
    ),
    "linear_scaling, reference": (
        optax_lena.linear_scaling,
        dict(learning_rate=0.1, batch_scale=4, warmup_steps=8, reference=True),
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
    "lena_muon": (
        optax_lena.lena_muon,
        dict(learning_rate=0.1, batch_scale=4, warmup_steps=8, weight_decay=0.01),
    ),
    "lena_muon, stacked, schedule": (
        optax_lena.lena_muon,
        dict(
            learning_rate=optax.cosine_decay_schedule(0.1, 100),
            layers=STACKED,
            nesterov=False,
            mu_dtype="bfloat16",
            adam_weight_decay=0.01,
            options={"ns_steps": 3},
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
            weight_decay_mask=MASK,
            trust_ratio_mask=MASK,
        ),
    ),
    "scale_by_lena, square root": (
        optax_lena.scale_by_lena,
        dict(batch_scale=4, rule=optax_lena.square_root_gain),
    ),
    "scale_by_layer_rate, all parts": (
        optax_lena.scale_by_layer_rate,
        dict(
            rate=optax_lena.LayerRate(
                optax.cosine_decay_schedule(0.1, 100),
                clock="gain_steps",
                estimator=optax_lena.Averages(horizon=100, relative=True),
                rule=optax_lena.linear,
                warmup=optax_lena.StateAwareWarmup(8),
                guard=optax_lena.SpikeLimit(1.5),
            ),
            batch_scale=4,
        ),
    ),
    "scale_by_layer_rate, backing off": (
        optax_lena.scale_by_layer_rate,
        dict(
            rate=optax_lena.LayerRate(0.1, guard=optax_lena.Backoff(limit=2.0)),
            batch_scale=4,
        ),
    ),
    "monitor": (
        optax_lena.monitor,
        dict(tx=optax.sgd(0.1, momentum=0.9), batch_scale=4),
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


def assert_close(updates, expected):
    # Muon's iteration multiplies a difference in the last bit by a hundred.
    helpers.assert_trees_close(updates, expected, rtol=1e-5, atol=1e-6)


def assert_same_step(got, expected):
    assert_close(got[0], expected[0])
    lenas = [
        helpers.read_counts(helpers.lena_state(state)) for _, state in (got, expected)
    ]
    helpers.assert_trees_close(*lenas, rtol=1e-5, atol=1e-6)


def trained_state(case):
    return plain_step(case)[1]
