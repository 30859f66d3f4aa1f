"""Warm-ups: what they count, how far they are, and when they end."""

import jax.numpy as jnp
import numpy as np
import pytest

from optax_lena import FixedWarmup, StateAwareWarmup
from optax_lena._parts.clocks import Count
from optax_lena._parts.warmup import Worth, ramp


def worth(is_finite=(True, True)):
    gain, ratio = jnp.array([1.5, 3.0]), jnp.array([1.0, 2.0])
    return Worth(gain, ratio, jnp.float32(4), jnp.array(is_finite))


@pytest.mark.parametrize(
    ("warmup", "per_update"),
    [(StateAwareWarmup(10), [1.5, 3.0]), (FixedWarmup(10), [4.0, 4.0])],
)
def test_one_counts_gains_and_the_other_base_batches(warmup, per_update):
    progress = Count.zeros(2)
    np.testing.assert_array_equal(warmup.init(2), [0, 0])
    for t in range(1, 9):
        progress, factor = warmup.update(progress, worth())
        expected = t * np.array(per_update)
        np.testing.assert_allclose(progress.read(), expected, rtol=1e-6)
        np.testing.assert_allclose(factor, np.minimum(expected / 10, 1), rtol=1e-6)
    assert warmup.needs_moments == isinstance(warmup, StateAwareWarmup)


@pytest.mark.parametrize("kind", [StateAwareWarmup, FixedWarmup])
def test_a_row_that_is_not_finite_keeps_its_progress(kind):
    progress, factor = kind(10).update(Count.zeros(2), worth((True, False)))
    assert progress.read()[0] > 0 == progress.read()[1]
    assert factor[0] > 0 == factor[1]


@pytest.mark.parametrize("kind", [StateAwareWarmup, FixedWarmup])
@pytest.mark.parametrize("steps", [0, jnp.float32(0)])
def test_without_steps_the_rate_is_whole_from_the_start(kind, steps):
    warmup = kind(steps)
    np.testing.assert_array_equal(warmup.init(2), [1, 1])
    np.testing.assert_array_equal(warmup.update(Count.zeros(2), worth())[1], [1, 1])


@pytest.mark.parametrize("steps", [0.25, 1, 1.5])
@pytest.mark.parametrize("kind", [StateAwareWarmup, FixedWarmup])
def test_warmups_may_be_short(kind, steps):
    warmup = kind(steps)
    np.testing.assert_array_equal(warmup.init(2), 0)
    progress = Count.zeros(2).add(jnp.full(2, 0.125))
    np.testing.assert_allclose(ramp(progress.read(), steps), 0.125 / steps)


@pytest.mark.parametrize("kind", [StateAwareWarmup, FixedWarmup])
def test_by_default_there_is_none(kind):
    assert kind().steps == 0


def test_only_a_plain_zero_is_known_to_count_nothing():
    assert not StateAwareWarmup(0).needs_moments
    assert StateAwareWarmup(jnp.float32(0)).needs_moments
