"""`from_successive_gradients`: unbiased at rest, otherwise biased as documented."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_lena
from tests import helpers

SCALE, SIZE, UPDATES, NOISE = 4, 64, 4000, 2.0


def estimate(drift, seed=0):
    """Returns noise and signal seen in a stream of batch gradients, and the truth.

    Every batch has S base batches, so its gradient has 1/S of the noise. With `drift`
    the true gradient turns by that squared distance at every update.
    """
    rng = np.random.default_rng(seed)
    angle = 2 * np.arcsin(np.sqrt(drift) / 2) * np.arange(UPDATES)
    mean = np.zeros((UPDATES, SIZE))
    mean[:, 0], mean[:, 1] = np.cos(angle), np.sin(angle)
    spread = np.sqrt(NOISE / SIZE / SCALE)
    grads = mean + rng.normal(0, spread, (UPDATES, SIZE))
    # Without learning: only the averages matter, over all updates alike.
    estimator = optax_lena.Averages(horizon=SCALE * UPDATES)
    rate = optax_lena.LayerRate(estimator=estimator)
    tx = optax_lena.from_successive_gradients(
        optax_lena.scale_by_layer_rate(rate, SCALE)
    )

    def update(state, grad):
        _, state = tx.update({"w": grad}, state)
        return state, None

    state = tx.init({"w": jnp.zeros(SIZE)})
    state, _ = jax.jit(lambda s, g: jax.lax.scan(update, s, g))(
        state, grads.astype(np.float32)
    )
    numbers = optax_lena.metrics(state)
    return float(numbers["noise/w"]), float(numbers["signal/w"])


def test_unbiased_for_a_resting_gradient():
    """n = 4,000 pairs, averaged over a horizon of 4,000 updates.

    One pair's noise estimate is S/2 |g - g'|^2, with a relative standard deviation of
    sqrt(2 / 64); neighbouring pairs share a gradient, which at most doubles the
    variance of the mean; the moving average holds at least 1,500 pairs' worth.
    Tolerance: 4 standard errors.
    """
    noise, signal = estimate(drift=0.0)
    error = NOISE * np.sqrt(2 / SIZE) * np.sqrt(2 / 1500)
    assert noise == pytest.approx(NOISE, abs=4 * error)
    # The signal's error: that of noise/S, and of 2 mu.g with variance 4 noise/S/64.
    error = np.hypot(error / SCALE, np.sqrt(4 * NOISE / SCALE / SIZE * 2 / 1500))
    assert signal == pytest.approx(1.0, abs=4 * error)


def test_the_bias_is_half_the_squared_turn_of_the_true_gradient():
    drift = 0.5
    noise, signal = estimate(drift)
    bias = SCALE * drift / 2
    assert noise == pytest.approx(NOISE + bias, rel=0.05)
    assert signal == pytest.approx(1.0 - drift / 2, abs=0.05)


@pytest.mark.parametrize("scales", [(8, 64) * 8, (8,) * 8 + (64,) * 8])
def test_the_noise_is_that_of_a_base_batch_where_the_batch_changes(scales):
    """n = 16 batches: a pair has the noise of both, with a relative error of
    sqrt(2 / 10,000). Tolerance: four of these, also after the first pair.
    """
    size, noise = 10_000, 3.0
    tx = optax_lena.from_successive_gradients(
        optax.inject_hyperparams(optax_lena.lena)(0.1, batch_scale=8.0)
    )
    params, rng = jnp.zeros(size), np.random.default_rng(0)
    state = tx.init(params)
    for scale in scales:
        state.inner_state.hyperparams["batch_scale"] = jnp.float32(scale)
        grads = rng.normal(0, np.sqrt(noise / size / scale), size)
        _, state = tx.update(jnp.asarray(grads, jnp.float32), state, params)
        found = optax_lena.metrics(state)["model/noise"]
        is_first = optax_lena.metrics(state)["model/base_steps"] == scales[0]
        assert is_first or found == pytest.approx(noise, rel=4 * np.sqrt(2 / size))


def test_first_and_non_finite_gradients_measure_nothing():
    tx = optax_lena.from_successive_gradients(optax_lena.lena(0.1, batch_scale=8))
    state = tx.init({"w": jnp.zeros(2)})
    weights = []
    for grad in ([1.0, 0.0], [np.nan, 0.0], [3.0, 0.0]):
        _, state = tx.update({"w": jnp.array(grad)}, state)
        weights.append(float(helpers.lena_state(state).averages.weight[0]))
    assert weights[0] == weights[1] == 0 < weights[2]
    report = optax_lena.layer_report(state)["w"]
    assert (report["noise"], report["signal"]) == (16.0, 3.0)  # of 1 and 3


def test_memory_is_one_gradient():
    params = {"w": jnp.zeros((50, 20), jnp.bfloat16)}
    tx = optax_lena.from_successive_gradients(optax_lena.lena(0.1, 8, momentum=None))
    state = jax.eval_shape(tx.init, params)
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    assert size < 2 * 1000 + 200


@pytest.mark.parametrize(
    "tx", [optax_lena.lena(0.1), optax_lena.monitor(optax.sgd(0.1))]
)
def test_it_needs_a_batch_scale_for_the_microbatches_are_whole_batches(tx):
    tx = optax_lena.from_successive_gradients(tx)
    params = {"w": jnp.zeros(2)}
    message = helpers.says("`batch_scale`", "from_successive_gradients", "None")
    with pytest.raises(ValueError, match=message):
        tx.update(params, tx.init(params), params)


@pytest.mark.parametrize("inside_accumulate", [False, True])
def test_it_refuses_moments_for_it_makes_its_own(inside_accumulate):
    tx = optax_lena.from_successive_gradients(optax_lena.lena(0.1, 8))
    grads, moments = helpers.example_moments()
    given = {} if inside_accumulate else {"moments": moments}
    tx = optax_lena.accumulate(tx, 2) if inside_accumulate else tx
    message = helpers.says(
        "from_successive_gradients", "without them", "Inside `accumulate`"
    )
    with pytest.raises(TypeError, match=message):
        tx.update(grads, tx.init(grads), grads, **given)


def test_a_gradient_that_the_parameters_dtype_cannot_hold_measures_nothing():
    """It is kept in that dtype: else an infinite one would stand for the last."""
    tx = optax_lena.from_successive_gradients(
        optax_lena.lena_amplified(0.1, batch_scale=8)
    )
    state = tx.init({"w": jnp.zeros(2, jnp.float16)})
    for grad in (1e5, 1.0, 2.0):
        _, state = tx.update({"w": jnp.full(2, grad, jnp.float32)}, state)
        assert jnp.all(jnp.isfinite(state.grads["w"]))
    # Of 1 and 2: a noise of 8 * 2 * 0.5 and a signal of 4, over the norm of 12.
    np.testing.assert_allclose(optax_lena.metrics(state)["noise/w"], 8 / 12)


def successive(momentum, spike_at=12, **options):
    """Spike factor and coherence, at gradients with noise of which one is long."""
    tx = optax_lena.from_successive_gradients(
        optax_lena.lena_amplified(0.1, 8, momentum=momentum), **options
    )
    grads = np.random.default_rng(0).normal(1, 1, (16, 1000)).astype(np.float32)
    grads[spike_at] *= 10
    state, found = tx.init({"w": jnp.zeros(1000)}), []
    for grad in grads:
        _, state = tx.update({"w": grad}, state)
        metrics = optax_lena.metrics(state)
        found.append([metrics[f"model/{x}"] for x in ("spike_factor", "coherence")])
    return np.array(found).T


@pytest.mark.parametrize("momentum", [None, 0.0, 0.9])
@pytest.mark.parametrize("layers", [optax_lena.per_parameter, optax_lena.whole_model])
def test_a_spike_is_cut_and_not_the_gradient_behind_it(momentum, layers):
    """Its own norm counts, where noise and signal are those of two gradients."""
    factor, coherence = successive(momentum, layers=layers)
    limit = 1.25 * np.maximum(coherence[12], 1) / 100
    np.testing.assert_allclose(factor[12], np.sqrt(limit), rtol=0.05)
    assert np.all(np.delete(factor, 12) == 1)
    assert coherence[1] == 1  # one step agrees with itself
