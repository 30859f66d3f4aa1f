"""The transformation and its aliases, update by update, against the oracle."""

import numpy as np
import optax
import pytest

import optax_lena
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
AMPLIFIED = optax_lena.lena_amplified
AMPLIFIES = dict(
    rule=oracle.amplified,
    warmup="fixed",
    clock="rate_steps",
    averages="relative",
    spike_limit=2,
    rate_enters_buffer=True,
)
COSINE = optax.cosine_decay_schedule(0.02, 3 * UPDATES)
cosine = lambda t: 0.01 * (1 + np.cos(np.pi * min(t / (3 * UPDATES), 1)))

# Factory, n, its arguments, and those of the oracle where they differ.
CASES = {
    "n = S": (LENA, 4, dict(batch_scale=4), {}),
    "n > S": (LENA, 8, dict(batch_scale=4), {}),
    "n < S": (LENA, 4, dict(batch_scale=16), {}),
    "S is fractional": (LENA, 6, dict(batch_scale=2.75), {}),
    "S is n by default": (LENA, 5, dict(), {}),
    "S above the horizon": (LENA, 4, dict(batch_scale=30, horizon=10), {}),
    "a short horizon": (LENA, 4, dict(batch_scale=4, horizon=20), {}),
    "no warm-up": (LENA, 4, dict(batch_scale=4, warmup_steps=0), {}),
    "fixed warm-up": (LENA, 4, dict(batch_scale=4, warmup="fixed"), {}),
    "nesterov": (LENA, 4, dict(batch_scale=4, nesterov=True), {}),
    "no momentum": (LENA, 4, dict(batch_scale=4, momentum=None), dict(momentum=0)),
    "weight decay": (LENA, 4, dict(batch_scale=4, weight_decay=0.1), {}),
    "square root": (
        LENA,
        4,
        dict(batch_scale=4, rule=optax_lena.square_root_gain),
        dict(rule=oracle.square_root),
    ),
    "schedule on base steps": (
        LENA,
        4,
        dict(batch_scale=4, learning_rate=COSINE),
        dict(learning_rate=cosine),
    ),
    "schedule on gain steps": (
        LENA,
        4,
        dict(batch_scale=4, learning_rate=COSINE, clock="gain_steps"),
        dict(learning_rate=cosine),
    ),
    "relative averages": (LENA, 4, dict(batch_scale=4, averages="relative"), {}),
    "schedule on rate steps": (
        LENA,
        4,
        dict(batch_scale=4, learning_rate=COSINE, clock="rate_steps"),
        dict(learning_rate=cosine),
    ),
    "schedule on rate steps, fixed warm-up": (
        LENA,
        4,
        dict(batch_scale=4, learning_rate=COSINE, clock="rate_steps", warmup="fixed"),
        dict(learning_rate=cosine),
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
        dict(batch_scale=16, nesterov=True, weight_decay=0.1),
        AMPLIFIES,
    ),
    "amplified, many spikes": (
        AMPLIFIED,
        4,
        dict(batch_scale=16, spike_limit=1),
        AMPLIFIES | dict(spike_limit=1),
    ),
    "behind the momentum, many spikes": (
        LENA,
        8,
        dict(batch_scale=4, spike_limit=1.2),
        {},
    ),
    "adascale": (
        ADASCALE,
        4,
        dict(batch_scale=4, learning_rate=COSINE, warmup_steps=0),
        dict(learning_rate=cosine, clock="gain_steps"),
    ),
    "linear scaling": (
        LINEAR,
        4,
        dict(batch_scale=4),
        dict(rule=oracle.linear, warmup="fixed"),
    ),
    "linear scaling, state-aware": (
        LINEAR,
        4,
        dict(batch_scale=4, warmup="state_aware"),
        dict(rule=oracle.linear),
    ),
}


def check_against_oracle(factory, n, arguments, differing, grouping, weights=None):
    layers, expected_layers = GROUPINGS[grouping]
    stacks = helpers.random_stacks(1, UPDATES, n)
    params = helpers.example_params()
    arguments = {"learning_rate": 0.01, "warmup_steps": 50, **arguments}
    own_layers = {} if factory is ADASCALE else {"layers": layers}
    _, got_params, metrics = helpers.train(
        factory(**arguments, **own_layers),
        params,
        stacks,
        weights=weights,
        layers=layers,
    )
    arguments |= differing
    if not callable(arguments["learning_rate"]):
        rate = arguments["learning_rate"]
        arguments["learning_rate"] = lambda step: rate
    expected = oracle.replay(
        helpers.flat(params),
        helpers.flat(stacks),
        expected_layers,
        weights=weights,
        **arguments,
    )

    close = lambda actual, desired, name: np.testing.assert_allclose(
        actual, desired, rtol=1e-5, atol=1e-6, err_msg=name
    )
    for field in ("gain", "trust_ratio", "warmup_factor", "progress"):
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
    close(metrics["model/spike_factor"], expected["spike_factor"], "spike factor")
    close(metrics["model/base_steps"], expected["base_steps"], "base steps")
    close(metrics["model/gain_steps"], expected["gain_steps"], "gain steps")
    close(metrics["model/rate_steps"], expected["rate_steps"], "rate steps")
    for parameter, values in helpers.flat(got_params).items():
        close(values, np.stack(expected["params"][parameter]), parameter)
    return expected


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_oracle(case):
    factory, *_ = CASES[case]
    one_layer = factory in (ADASCALE, LINEAR)
    grouping = "whole_model" if one_layer else "per_parameter"
    expected = check_against_oracle(*CASES[case], grouping)
    if "spikes" in case:
        assert 5 < np.sum(np.less(expected["spike_factor"], 1)) < UPDATES - 5


@pytest.mark.parametrize("grouping", sorted(set(GROUPINGS) - {"per_parameter"}))
def test_agrees_with_the_oracle_on_every_grouping(grouping):
    arguments = dict(batch_scale=6, weight_decay=0.01)
    check_against_oracle(LENA, 4, arguments, {}, grouping)


@pytest.mark.parametrize("batch_scale", [4, None])
def test_agrees_with_the_oracle_on_weighted_microbatches(batch_scale):
    """The weights are token counts; some microbatches hold padding only."""
    weights = np.random.default_rng(2).integers(1, 9, (UPDATES, 5)).astype(np.float32)
    weights[::3, 2] = 0
    arguments = dict(batch_scale=batch_scale)
    expected = check_against_oracle(LENA, 5, arguments, {}, "per_parameter", weights)
    if batch_scale is None:  # zero-weight microbatches do not count in n
        steps = np.diff(expected["base_steps"], prepend=0)
        np.testing.assert_array_equal(steps, np.where(np.arange(UPDATES) % 3, 5, 4))


def test_the_oracle_cases_reach_what_they_must_discriminate():
    """Gains from 1 to the cap and warm-ups that end: else agreement says little."""
    stacks = helpers.flat(helpers.random_stacks(1, UPDATES, 4))
    trace = oracle.replay(
        helpers.flat(helpers.example_params()),
        stacks,
        GROUPINGS["per_parameter"][1],
        learning_rate=lambda step: 0.01,
        batch_scale=4,
        warmup_steps=50,
    )
    gains, factors = (
        np.stack(list(trace[field].values())) for field in ("gain", "warmup_factor")
    )
    assert gains.min() < 1.2 and gains.max() == 4
    assert ((gains > 1.5) & (gains < 3.5)).any()
    assert (factors[:, 0] < 1).all() and (factors[:, -1] == 1).any()
