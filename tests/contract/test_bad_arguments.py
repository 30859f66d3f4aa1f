"""Nothing bad goes unnoticed: every bad argument is one clear error, where it is given.

The table is data, in the folder `bad`.
"""

import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_lena
from tests import helpers
from tests.contract.bad import advice, gatherers, updates, wrappers
from tests.contract.bad.numbers import NUMBERS
from tests.contract.bad.rows import INCREMENTAL, PARAMS, STACK, SUMS, Bad

# Results, which only the library makes, and rules without arguments.
WITHOUT_ARGUMENTS = {
    "Layers",
    "ScaleByLenaState",
    "amplified_gain",
    "capped_gain",
    "linear",
    "normalised_gain",
    "per_module",
    "per_parameter",
    "square_root_gain",
    "whole_model",
}
OF_NUMBERS = [
    Bad(x.function, x.name, x.call, value, x.allowed)
    for x in NUMBERS
    for value in x.refuses()
]
TABLE = [
    *OF_NUMBERS,
    *updates.OF_UPDATES,
    *gatherers.OF_GATHERERS,
    *wrappers.OF_WRAPPERS,
    *wrappers.OF_FLAX,
    *advice.OF_ADVICE,
    *advice.OF_PLOTTING,
    *advice.OF_PROCESSES,
]


def label(row):
    if not isinstance(row, Bad):
        return f"{row.function}-{row.name}"
    # Without addresses: both processes of xdist must see the same names.
    value = re.sub(r" at 0x\w+", "", repr(row.value)).replace("\n", " ")
    return f"{row.function}-{row.name}-{value}"[:60]


def test_the_table_is_long_and_complete(capsys):
    with capsys.disabled():
        print(f"\n{len(TABLE)} bad arguments, of which {len(OF_NUMBERS)} numbers")
    assert len(TABLE) >= 150
    modules = {"flax", "plotting"}
    public = {
        name
        for name, value in vars(optax_lena).items()
        if not name.startswith("_") and not isinstance(value, type(optax_lena))
    }
    named = {row.function.split(".")[0] for row in TABLE}
    assert named == (public | modules) - WITHOUT_ARGUMENTS


@pytest.mark.parametrize("row", TABLE, ids=label)
def test_a_bad_argument_is_one_clear_error(row):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises((ValueError, TypeError)) as error:
            row.call(row.value)
    message = str(error.value)
    assert f"`{row.name}`" in message
    assert row.allowed in message
    assert (row.got or repr(row.value)) in message
    assert message.endswith(".")


@pytest.mark.parametrize("kind", [float, np.float32, np.array, jnp.array])
@pytest.mark.parametrize("number", NUMBERS, ids=label)
def test_a_good_number_passes_in_every_kind(number, kind):
    is_integer = number.allowed.startswith("an integer") and kind is float
    number.call(number.good if is_integer else kind(number.good))


@pytest.mark.parametrize("number", [x for x in NUMBERS if x.traced], ids=label)
def test_a_number_that_is_not_known_yet_passes(number):
    """It may be a hyperparameter under `jit`, where what is no number is refused."""

    def under_jit(x):
        number.call(x)
        return x

    jax.eval_shape(under_jit, jnp.float32(number.good))
    for wrong in (jnp.ones(2), jnp.array(1j), jnp.array(True)):
        with pytest.raises(ValueError, match=f"`{number.name}`"):
            jax.eval_shape(under_jit, wrong)


INJECTED = {
    "lena": {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.01},
    "lena_amplified": {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.01},
    "adascale": {"learning_rate": 0.1, "momentum": 0.9},
    "linear_scaling": {"learning_rate": 0.1, "momentum": 0.9},
    "lena_lars": {"learning_rate": 0.1, "trust_coefficient": 0.1, "eps": 1e-8},
    "lena_adamw": {"learning_rate": 0.1, "b1": 0.9, "b2": 0.99, "eps": 1e-8},
    "lena_muon": {"learning_rate": 0.1, "beta": 0.95, "eps": 1e-8},
}


@pytest.mark.parametrize("name", INJECTED)
def test_injected_hyperparameters_pass(name):
    factory = getattr(optax_lena, name)
    given = INJECTED[name] | {"batch_scale": 4, "warmup_steps": 8}
    params = helpers.example_params()
    grads, moments = helpers.example_moments()
    injected, plain = optax.inject_hyperparams(factory)(**given), factory(**given)
    got, expected = (
        helpers.jit(tx.update)(grads, tx.init(params), params, moments=moments)[0]
        for tx in (injected, plain)
    )
    # Muon's iteration rounds entries near zero by as much as the others.
    helpers.assert_trees_close(got, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("weight", [0.0, True, 3, np.int64(2), jnp.float32(2)])
def test_weights_may_be_counts_and_masks(weight):
    sums = INCREMENTAL.add(SUMS, PARAMS, weight=weight)
    assert sums.weight == weight
    assert sums.num_microbatches == (weight != 0)


def test_weights_that_are_not_known_yet_pass():
    weigh = lambda w: optax_lena.moments_from_stack(STACK, weights=w)[0]
    got = jax.jit(weigh)(jnp.array([3.0, 1.0]))
    np.testing.assert_allclose(got["w"], [1.5, 2.75])


def test_tokens_may_be_more_than_an_int32_holds():
    mean, _ = optax_lena.moments_from_stack(STACK, weights=[2**40, 2**40])
    np.testing.assert_allclose(mean["w"], [2, 3.5])


def test_a_raw_key_is_a_key():
    loss = lambda params, batch, key: params * jax.random.uniform(key)
    gather = optax_lena.value_and_grad(loss, 2)
    value, *_ = gather(jnp.ones(()), jnp.ones(4), key=jax.random.PRNGKey(0))
    assert 0 < value < 1


def test_a_call_of_accumulate_with_a_weight_of_nan_is_skipped_under_jit():
    """Where a weight is not known it cannot be refused; its call counts for nothing."""
    tx = optax_lena.accumulate(optax_lena.lena(0.1, 2), 2)
    update = helpers.jit(tx.update)
    params = PARAMS
    state = tx.init(params)
    for weight in (jnp.nan, -1.0, jnp.inf):
        updates, state = update(params, state, params, weight=jnp.float32(weight))
        assert (updates["w"] == 0).all()
    assert (int(state.calls), int(state.skipped)) == (0, 3)
    assert state.sums.weight == 0
