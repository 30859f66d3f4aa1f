"""Estimates are unbiased, however a batch is cut, weighed, or changed in size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optax_lena
from tests import helpers


def stream(seed, replicas, n, base_batches, *, signal, noise, size=16):
    """Microbatch gradients `[replicas, n, size]`; `noise` is that of a base batch."""
    rng = np.random.default_rng(seed)
    mean = np.sqrt(signal / size)
    spread = np.sqrt(noise / size / (base_batches / n))
    draws = rng.standard_normal((replicas, n, size))
    return (mean + spread * draws).astype(np.float32)


def in_standard_errors(values, truth):
    values = np.asarray(values, np.float64)
    return abs(values.mean() - truth) / (values.std(ddof=1) / np.sqrt(len(values)))


@pytest.mark.parametrize(
    ("n", "batch_scale"), [(4, 4), (16, 16), (4, 16), (16, 4), (3, 7.5)]
)
def test_noise_and_signal_do_not_depend_on_the_batch_or_its_cut(n, batch_scale):
    """4000 first updates each; their mean within 4 standard errors of the truth."""
    stacks = stream(10, 4000, n, batch_scale, signal=2.0, noise=12.0)
    noise, signal = first_estimates(stacks, batch_scale)
    assert in_standard_errors(noise, 12.0) < 4
    assert in_standard_errors(signal, 2.0) < 4


def first_estimates(stacks, batch_scale, weights=None):
    tx = optax_lena.scale_by_lena(batch_scale)

    @helpers.jit
    @jax.vmap
    def estimate(stack):
        _, state = helpers.first_update(tx, {"w": stack}, weights)
        return [average[0] for average in state.averages.unbiased()]

    return estimate(stacks)


def test_a_changed_batch_scale_leaves_the_averages_unbiased():
    """256 runs of 40 updates, S = 4 in the first half and S = 16 in the second."""
    early, late = (
        stream(seed, 20 * 256, 4, batch_scale, signal=2.0, noise=12.0)
        for seed, batch_scale in ((11, 4), (12, 16))
    )
    stacks = np.concatenate([x.reshape(20, 256, 4, 16) for x in (early, late)])
    scales = np.repeat(np.float32([4, 16]), 20)

    def update(state, x):
        stack, batch_scale = x
        rate = optax_lena.LayerRate(estimator=optax_lena.Averages(horizon=100))
        tx = optax_lena.scale_by_layer_rate(rate, batch_scale)
        grads, moments = optax_lena.moments_from_stack({"w": stack})
        return tx.update(grads, state, moments=moments)[1], None

    @helpers.jit
    def run(stacks):
        state = optax_lena.scale_by_lena().init({"w": jnp.zeros(16)})
        go = lambda xs: jax.lax.scan(update, state, (xs, scales))[0].averages.unbiased()
        return jax.vmap(go, in_axes=1)(stacks)

    noise, signal = run(stacks)
    assert in_standard_errors(noise[:, 0], 12.0) < 4
    assert in_standard_errors(signal[:, 0], 2.0) < 4


def test_weights_keep_noise_and_signal_unbiased():
    """4000 updates of microbatches with 1 to 7 examples of 13 in all, a base batch 4.

    An example's gradient has noise 48, a base batch's 12. Within 4 standard errors.
    """
    counts = np.array([1, 2, 3, 7])
    per_example = stream(13, 4000, 13, 13, signal=2.0, noise=48.0)
    edges = np.cumsum(counts)[:-1]
    parts = np.split(per_example, edges, axis=1)
    stacks = np.stack([part.mean(axis=1) for part in parts], axis=1)
    noise, signal = first_estimates(stacks, 13 / 4, np.float32(counts))
    assert in_standard_errors(noise, 12.0) < 4
    assert in_standard_errors(signal, 2.0) < 4
    unweighted_noise, _ = first_estimates(stacks, 13 / 4)
    assert in_standard_errors(unweighted_noise, 12.0) > 10


def test_first_estimates_carry_no_trace_of_the_start_at_zero():
    stack = {"w": jnp.array([1.0, 3.0])}  # variance 2, mean 2
    _, state = helpers.updated(optax_lena.lena(0.1, 2), stack)
    row = optax_lena.layer_report(state)["w"]
    np.testing.assert_allclose([row["noise"], row["signal"]], [2.0, 3.0], rtol=1e-6)


def test_one_counted_microbatch_measures_nothing_and_changes_no_average():
    tx = optax_lena.scale_by_lena(4, warmup_steps=10)
    stack = {"w": jnp.arange(8.0).reshape(4, 2)}
    _, state = helpers.updated(tx, stack, weights=jnp.array([0.0, 0, 5, 0]))
    assert state.averages.weight[0] == 0
    assert state.applied.gain[0] == 1 and np.isfinite(state.averages.noise).all()
