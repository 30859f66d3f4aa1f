"""Adam's metric: what the preconditioner is, where it is found, when it is 0."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_lena
from optax_lena._transform.scale_by_adam import AdamState
from tests import helpers
from tests.helpers import says

UPDATES, N = 30, 4
adam_preconditioner = optax_lena.adam_preconditioner
lena_adamw = optax_lena.lena_adamw


def adam_state(count, nu):
    nu = jax.tree.map(jnp.asarray, nu)
    return optax.ScaleByAdamState(jnp.asarray(count, jnp.int32), nu, nu)


@pytest.mark.parametrize("count", [5, 100, 10**6])
def test_is_what_adam_multiplies_by(count):
    nu = np.array([1e-12, 1e-4, 3.0, 1e6], np.float32)
    got = adam_preconditioner(adam_state(count, nu), nu, b2=0.99, eps=1e-3)
    expected = 1 / (np.sqrt(nu / (1 - 0.99**count)) + 1e-3)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_shapes_and_dtypes_are_enough_of_the_parameters():
    like = {"a": jax.ShapeDtypeStruct((3,), jnp.bfloat16)}
    state = optax.masked(optax.adam(0.1), {"a": False}).init({"a": jnp.ones(3)})
    state = (state, optax.adam(0.1).init({}))
    got = jax.eval_shape(lambda: adam_preconditioner(state, like))
    assert got["a"].shape == (3,) and got["a"].dtype == jnp.float32


@pytest.mark.parametrize("count", [0, 1, 4])
def test_the_first_five_updates_are_not_measured(count):
    """The variance of 1 / ν̂ is infinite for less than 5 Gaussian gradients."""
    nu = np.ones(3, np.float32)
    np.testing.assert_array_equal(adam_preconditioner(adam_state(count, nu), nu), 0)


def test_an_entry_without_a_gradient_yet_measures_nothing():
    """An embedding of a rare word: 1 / eps would outweigh all other entries."""
    nu = np.array([0, 0.25], np.float32)
    np.testing.assert_allclose(adam_preconditioner(adam_state(50, nu), nu)[0], 0)


def test_is_real_for_complex_parameters():
    """Whose ν optax keeps as complex numbers."""
    tx, params = optax.adam(0.1), jnp.zeros(2, jnp.complex64)
    state = tx.init(params)
    for _ in range(5):
        _, state = tx.update(jnp.array([3 + 4j, 0.5j]), state)
    got = adam_preconditioner(state, params)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, [0.2, 2.0], rtol=1e-5)


NU = {"a": np.array([1.0, 4.0], np.float32), "b": {"c": np.array(16.0, np.float32)}}


def wrapped(kind):
    adam = optax.adam(0.1)
    b_only = {"a": False, "b": True}
    return {
        "chain": optax.chain(optax.clip(9.0), adam),
        "lena_adamw": lena_adamw(0.1, 4),
        "lena_muon": optax_lena.lena_muon(0.1, 4),
        "inject_hyperparams": optax.inject_hyperparams(lena_adamw)(0.1, 4),
        "accumulate": optax_lena.accumulate(lena_adamw(0.1, 4), 1),
        "MultiSteps": optax.MultiSteps(adam, 1),
        "masked": optax.masked(adam, b_only),
        "partition": optax.partition(
            {"x": adam, "y": optax.adam(0.2)}, {"a": "x", "b": "y"}
        ),
        "partition with SGD": optax.partition(
            {"x": optax.sgd(0.1), "y": adam}, {"a": "x", "b": {"c": "y"}}
        ),
    }[kind]


@pytest.mark.parametrize("under_jit", [False, True])
@pytest.mark.parametrize(
    ("kind", "has_a"),
    [
        ("chain", True),
        ("lena_adamw", True),
        ("lena_muon", True),
        ("inject_hyperparams", True),
        ("accumulate", True),
        ("MultiSteps", True),
        ("masked", False),
        ("partition", True),
        ("partition with SGD", False),
    ],
)
def test_is_found_at_any_depth(kind, has_a, under_jit):
    kinds = (optax.ScaleByAdamState, AdamState)
    is_adam = lambda x: isinstance(x, kinds)

    def with_nu(state):
        nu = jax.tree.map(
            lambda like, nu: like if isinstance(like, optax.MaskedNode) else nu,
            state.nu,
            NU,
            is_leaf=lambda x: isinstance(x, optax.MaskedNode),
        )
        state = state._replace(count=jnp.int32(10**6), nu=nu)
        return state._replace(nu_weight=1.0) if isinstance(state, AdamState) else state

    state = jax.tree.map(
        lambda x: with_nu(x) if is_adam(x) else x,
        wrapped(kind).init(NU),
        is_leaf=is_adam,
    )
    find = jax.jit(adam_preconditioner) if under_jit else adam_preconditioner
    got = find(state, NU)
    helpers.assert_trees_close(
        got, {"a": np.array([1.0, 0.5] if has_a else [1.0, 1.0]), "b": {"c": 0.25}}
    )


def test_errors_of_the_preconditioner():
    params = {"w": jnp.ones(3)}
    message = says("`opt_state`", "optax.scale_by_adam", "got none", "without")
    with pytest.raises(ValueError, match=message):
        adam_preconditioner(optax.sgd(0.1, 0.9).init(params), params)
    state = optax.adam(0.1).init(params)
    for other, got in (({"w": jnp.ones(4)}, "(4,)"), ({"v": jnp.ones(3)}, "none")):
        message = says("`params`", "'w'", "(3,)", got, "initialised")
        with pytest.raises(ValueError, match=message):
            adam_preconditioner(state, other)


def test_the_gain_is_the_mean_of_the_entries_gains():
    """Entries whose units differ by a million; 20,000 draws, 4 standard errors."""
    draws, n, scale, size = 20_000, 4, 16.0, 12
    unit = np.logspace(-3, 3, size)
    spread = np.tile([0.1, 1.0, 10.0], size // 3)  # noise over signal, per entry
    mean, deviation = unit, unit * spread  # of a base batch
    truth = np.mean((1 + spread**2) / (1 + spread**2 / scale))
    nu = (mean**2 + deviation**2 / scale).astype(np.float32)
    p = adam_preconditioner(adam_state(10**6, nu), nu)

    noise = np.random.default_rng(0).standard_normal((draws, n, size))
    stacks = (mean + deviation * noise / np.sqrt(scale / n)).astype(np.float32)

    @helpers.jit
    @jax.vmap
    def measure(stack):
        _, moments = optax_lena.moments_from_stack(stack, preconditioner=p)
        over_scale = (moments.micro_sq_norm - moments.batch_sq_norm) / (n - 1)
        signal = moments.batch_sq_norm - over_scale
        return signal + scale * over_scale, signal + over_scale

    top, bottom = (np.asarray(x, np.float64) for x in measure(stacks))
    gain = top.mean() / bottom.mean()
    residual = (top - gain * bottom) / bottom.mean()  # of a ratio of means
    error = residual.std(ddof=1) / np.sqrt(draws)
    assert error < 0.02 * truth
    assert abs(gain - truth) < 4 * error
    raw = np.sum(mean**2 + deviation**2) / np.sum(mean**2 + deviation**2 / scale)
    assert abs(raw - truth) > 50 * error


def test_the_keys_of_a_whole_model_are_no_parameters():
    params = {"w": jnp.ones(2), "rngs": jax.random.key(0)}
    state = adam_state(5, {"w": jnp.ones(2)})
    with pytest.raises(TypeError, match=says("PRNG key at 'rngs'", "nnx.state")):
        adam_preconditioner(state, params)
