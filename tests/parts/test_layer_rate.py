"""Rates of all parts, and the SGD optimizers, update by update against the oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_lena
from optax_lena._parts.estimate import measure
from tests import helpers, oracle

UPDATES = 30
WHOLE = (...,)
PARAMETERS = [(p, WHOLE) for p in helpers.GRADIENTS]

# What the library is told, and the layers that the oracle should then see.
GROUPINGS = {
    "per_parameter": (optax_lena.per_parameter, {p: [(p, i)] for p, i in PARAMETERS}),
    "per_module": (
        optax_lena.per_module,
        {
            "blocks": [("blocks/kernel", WHOLE)],
            "conv1": [("conv1/bias", WHOLE), ("conv1/kernel", WHOLE)],
            "head": [("head/kernel", WHOLE)],
        },
    ),
    "whole_model": (optax_lena.whole_model, {"model": PARAMETERS}),
    "by_regex": (
        optax_lena.by_regex("kernel$"),
        {
            "kernel": [(p, i) for p, i in PARAMETERS if "kernel" in p],
            "conv1/bias": [("conv1/bias", WHOLE)],
        },
    ),
    "stacked": (
        optax_lena.stacked("blocks"),
        {f"blocks/kernel[{i}]": [("blocks/kernel", i)] for i in range(3)}
        | {p: [(p, i)] for p, i in PARAMETERS if "blocks" not in p},
    ),
    "stacked_last_axis_others_whole": (
        optax_lena.stacked("conv1", -1, others=optax_lena.whole_model),
        {"model": [("blocks/kernel", WHOLE), ("head/kernel", WHOLE)]}
        | {f"conv1/bias[{i}]": [("conv1/bias", i)] for i in range(4)}
        | {f"conv1/kernel[{i}]": [("conv1/kernel", (..., i))] for i in range(4)},
    ),
}

LENA, ADASCALE, LINEAR = optax_lena.lena, optax_lena.adascale, optax_lena.linear_scaling
AMPLIFIED, SGD = optax_lena.lena_amplified, helpers.momentum_sgd
THETA = 50  # of all warm-ups, in base-batch steps
AMPLIFIES = dict(
    rule=oracle.amplified,
    warmup="fixed",
    averages="relative",
    horizon=300,
    spike_limit=1.25,
    compares_steps=True,
    rate_enters_buffer=True,
    least_momentum=0.8,
)
COSINE = optax.cosine_decay_schedule(0.02, 3 * UPDATES)
cosine = lambda t: 0.01 * (1 + np.cos(np.pi * min(t / (3 * UPDATES), 1)))


def rate(**parts):
    """The paper's parts, but for some; for `helpers.momentum_sgd`."""
    warmup = optax_lena.StateAwareWarmup(THETA)
    return optax_lena.LayerRate(**{"warmup": warmup, **parts})


# Factory, n, its arguments, and those of the oracle where they differ. An optimizer's
# warm-up is one of its arguments, and a part of a rate.
CASES = {
    "n = S": (LENA, 4, dict(batch_scale=4), {}),
    "n > S": (LENA, 8, dict(batch_scale=4), {}),
    "n < S": (LENA, 4, dict(batch_scale=16), {}),
    "S is fractional": (LENA, 6, dict(batch_scale=2.75), {}),
    "S is n by default": (LENA, 5, dict(), {}),
    "S above the horizon": (
        SGD,
        4,
        dict(batch_scale=30, rate=rate(estimator=optax_lena.Averages(horizon=10))),
        dict(horizon=10),
    ),
    "a short horizon": (
        SGD,
        4,
        dict(batch_scale=4, rate=rate(estimator=optax_lena.Averages(horizon=20))),
        dict(horizon=20),
    ),
    "no warm-up": (LENA, 4, dict(batch_scale=4, warmup_steps=0), {}),
    "fixed warm-up": (
        SGD,
        4,
        dict(batch_scale=4, rate=rate(warmup=optax_lena.FixedWarmup(THETA))),
        dict(warmup="fixed"),
    ),
    "nesterov": (LENA, 4, dict(batch_scale=4, nesterov=True), {}),
    "no momentum": (LENA, 4, dict(batch_scale=4, momentum=None), dict(momentum=0)),
    "weight decay": (LENA, 4, dict(batch_scale=4, weight_decay=0.1), {}),
    "the same parts, composed": (
        SGD,
        4,
        dict(batch_scale=4, rate=rate(), nesterov=True, weight_decay=0.1),
        {},
    ),
    "square root": (
        SGD,
        4,
        dict(batch_scale=4, rate=rate(rule=optax_lena.square_root_gain)),
        dict(rule=oracle.square_root),
    ),
    "amplified behind the momentum": (
        SGD,
        4,
        dict(batch_scale=4, rate=rate(rule=optax_lena.amplified_gain)),
        dict(rule=oracle.amplified),
    ),
    "schedule on base steps": (
        LENA,
        4,
        dict(batch_scale=4, learning_rate=COSINE),
        dict(learning_rate=cosine),
    ),
    "schedule on gain steps": (
        SGD,
        4,
        dict(batch_scale=4, learning_rate=COSINE, rate=rate(clock="gain_steps")),
        dict(learning_rate=cosine, clock="gain_steps"),
    ),
    "relative averages": (
        SGD,
        4,
        dict(batch_scale=4, rate=rate(estimator=optax_lena.Averages(relative=True))),
        dict(averages="relative"),
    ),
    "schedule on rate steps": (
        SGD,
        4,
        dict(batch_scale=4, learning_rate=COSINE, rate=rate(clock="rate_steps")),
        dict(learning_rate=cosine, clock="rate_steps"),
    ),
    "schedule on rate steps, fixed warm-up": (
        SGD,
        4,
        dict(
            batch_scale=4,
            learning_rate=COSINE,
            rate=rate(clock="rate_steps", warmup=optax_lena.FixedWarmup(THETA)),
        ),
        dict(learning_rate=cosine, clock="rate_steps", warmup="fixed"),
    ),
    "amplified": (
        AMPLIFIED,
        4,
        dict(batch_scale=16, learning_rate=COSINE),
        AMPLIFIES | dict(learning_rate=cosine),
    ),
    "amplified, no warm-up": (
        AMPLIFIED,
        4,
        dict(batch_scale=16, warmup_steps=0),
        AMPLIFIES,
    ),
    "amplified, nesterov, weight decay": (
        AMPLIFIED,
        4,
        # A step enters the buffer four times as long, and with 0.9 twice.
        dict(batch_scale=16, nesterov=True, weight_decay=0.1, momentum=0.95),
        AMPLIFIES,
    ),
    "amplified, many spikes": (
        SGD,
        4,
        dict(
            batch_scale=16,
            rate=helpers.amplified_rate(
                warmup=optax_lena.FixedWarmup(THETA), guard=optax_lena.SpikeLimit(1)
            ),
            rate_enters_buffer=True,
        ),
        AMPLIFIES | dict(spike_limit=1, least_momentum=None, compares_steps=False),
    ),
    "behind the momentum, many spikes": (
        SGD,
        8,
        dict(batch_scale=4, rate=rate(guard=optax_lena.SpikeLimit(1.2))),
        dict(spike_limit=1.2),
    ),
    "adascale": (
        ADASCALE,
        4,
        dict(batch_scale=4, learning_rate=COSINE, warmup_steps=0),
        dict(learning_rate=cosine, clock="gain_steps"),
    ),
    "adascale on base steps": (
        SGD,
        4,
        dict(batch_scale=4, learning_rate=COSINE, rate=rate()),
        dict(learning_rate=cosine),
    ),
    "linear scaling": (
        LINEAR,
        4,
        dict(batch_scale=4),
        dict(rule=oracle.linear, warmup="fixed"),
    ),
    "linear scaling, state-aware": (
        SGD,
        4,
        dict(batch_scale=4, rate=rate(rule=optax_lena.linear)),
        dict(rule=oracle.linear),
    ),
}


def check_against_oracle(case, grouping, weights=None, silent=()):
    """`silent`: the updates whose gradient is 0."""
    factory, n, arguments, differing = case
    layers, expected_layers = GROUPINGS[grouping]
    stacks = helpers.random_stacks(1, UPDATES, n)
    for stack in jax.tree.leaves(stacks):
        stack[list(silent)] = 0
    params = helpers.example_params()
    arguments = {"learning_rate": 0.01, **arguments}
    own_layers = {} if factory is ADASCALE else {"layers": layers}
    own_warmup = {} if factory is SGD else {"warmup_steps": THETA}
    _, got_params, metrics = helpers.train(
        factory(**(own_layers | own_warmup | arguments)),
        params,
        stacks,
        weights=weights,
        layers=layers,
    )
    constant = lambda step: 0.01
    recipe = {"warmup_steps": THETA} | arguments | {"learning_rate": constant}
    recipe.pop("rate", None)
    expected = oracle.replay(
        oracle.Recipe(**(recipe | differing)),
        helpers.flat(params),
        helpers.flat(stacks),
        expected_layers,
        weights,
    )

    close = lambda actual, desired, name: np.testing.assert_allclose(
        actual, desired, rtol=1e-5, atol=1e-6, err_msg=name
    )
    for field in ("gain", "trust_ratio", "warmup_factor", "learning_rate", "progress"):
        got = helpers.rows(metrics, field)
        assert set(got) == set(expected_layers)
        for layer, values in expected[field].items():
            close(got[layer], values, f"{field} of {layer}")
    for field in ("noise", "signal"):
        for layer, values in expected[field].items():
            # The signal is a difference of the noise's size.
            atol = 1e-5 * np.abs(expected["noise"][layer]).max()
            got = metrics[f"{field}/{layer}"]
            np.testing.assert_allclose(got, values, rtol=1e-5, atol=atol)
    close(metrics["model/gain"], expected["model_gain"], "model gain")
    close(metrics["model/schedule"], expected["schedule"], "schedule")
    close(metrics["model/coherence"], expected["coherence"], "coherence")
    close(metrics["model/spike_factor"], expected["spike_factor"], "spike factor")
    for clock in oracle.CLOCKS:
        close(metrics[f"model/{clock}"], expected[clock], clock)
    for parameter, values in helpers.flat(got_params).items():
        close(values, np.stack(expected["params"][parameter]), parameter)
    return expected


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_oracle(case):
    one_layer = case.startswith(("adascale", "linear scaling"))
    grouping = "whole_model" if one_layer else "per_parameter"
    expected = check_against_oracle(CASES[case], grouping)
    if "spikes" in case:
        assert 5 < np.sum(np.less(expected["spike_factor"], 1)) < UPDATES - 5


@pytest.mark.parametrize("case", ["n = S", "amplified"])
def test_agrees_with_the_oracle_past_updates_without_a_gradient(case):
    check_against_oracle(CASES[case], "per_parameter", silent=(0, 7, 8))


@pytest.mark.parametrize("grouping", sorted(set(GROUPINGS) - {"per_parameter"}))
def test_agrees_with_the_oracle_on_every_grouping(grouping):
    arguments = dict(batch_scale=6, weight_decay=0.01)
    check_against_oracle((LENA, 4, arguments, {}), grouping)


@pytest.mark.parametrize("batch_scale", [4, None])
def test_agrees_with_the_oracle_on_weighted_microbatches(batch_scale):
    """The weights are token counts; some microbatches hold padding only."""
    weights = np.random.default_rng(2).integers(1, 9, (UPDATES, 5)).astype(np.float32)
    weights[::3, 2] = 0
    case = (LENA, 5, dict(batch_scale=batch_scale), {})
    expected = check_against_oracle(case, "per_parameter", weights)
    if batch_scale is None:  # zero-weight microbatches do not count in n
        steps = np.diff(expected["base_steps"], prepend=0)
        np.testing.assert_array_equal(steps, np.where(np.arange(UPDATES) % 3, 5, 4))


def test_the_oracle_cases_reach_what_they_must_discriminate():
    """Gains from 1 to the cap and warm-ups that end: else agreement says little."""
    recipe = oracle.Recipe(lambda step: 0.01, batch_scale=4, warmup_steps=THETA)
    trace = oracle.replay(
        recipe,
        helpers.flat(helpers.example_params()),
        helpers.flat(helpers.random_stacks(1, UPDATES, 4)),
        GROUPINGS["per_parameter"][1],
    )
    gains, factors = (
        np.stack(list(trace[field].values())) for field in ("gain", "warmup_factor")
    )
    assert gains.min() < 1.2 and gains.max() == 4
    assert ((gains > 1.5) & (gains < 3.5)).any()
    assert (factors[:, 0] < 1).all() and (factors[:, -1] == 1).any()


def test_defaults_are_the_papers():
    rate = optax_lena.LayerRate()
    assert (rate.learning_rate, rate.clock, rate.guard) == (1, "base_steps", None)
    assert rate.estimator == optax_lena.Averages(horizon=1000, relative=False)
    assert rate.warmup == optax_lena.StateAwareWarmup(steps=0)


def test_a_warmup_of_your_own_needs_moments_unless_it_says_otherwise():
    """It may read the gain, which they are needed for."""

    class Own:
        init = update = lambda *given: given

    rate = optax_lena.LayerRate(rule=optax_lena.linear, warmup=Own())
    assert rate.needs_moments
    Own.needs_moments = False
    assert not rate.needs_moments


def test_the_end_of_a_warmup_is_kept_once_it_came():
    rate = optax_lena.LayerRate(warmup=optax_lena.FixedWarmup(8))
    update = measure(jnp.ones(2), jnp.ones(2), 2, jnp.float32(4))
    state = rate.init(3)
    ends = [state.warmup_end]
    for _ in range(4):
        state = rate.update(state, update)
        ends.append(state.warmup_end)
    np.testing.assert_array_equal(ends, np.tile([[-1], [-1], [8], [8], [8]], 3))


def test_so_is_one_that_came_within_a_base_batch():
    rate = optax_lena.LayerRate()
    update = measure(jnp.ones(2), jnp.ones(2), 2, jnp.float32(0.5))
    first = rate.update(rate.init(3), update)
    second = rate.update(first, update)
    np.testing.assert_array_equal(first.warmup_end, [0.5] * 3)
    np.testing.assert_array_equal(second.warmup_end, first.warmup_end)
