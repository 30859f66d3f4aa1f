"""Coherence says how far steps agree, and nothing where that is not known."""

import jax.numpy as jnp
import numpy as np
import pytest

from optax_lena._parts.coherence import Coherence


def after(steps, kept):
    """The coherence after so many steps, `[steps, size]`, and the buffer beside it."""
    coherence, buffer = Coherence.zeros(), np.zeros(steps.shape[1])
    for step in steps:
        buffer = kept * buffer + step
        coherence = coherence.add(kept, np.sum(step**2), np.sum(buffer**2))
    return float(coherence.read(kept))


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.8, 0.9])
def test_equal_steps_have_the_most_and_opposite_ones_the_least(kept):
    most = (1 + kept) / (1 - kept)
    equal = np.ones((400, 3))
    signs = (-1.0) ** np.arange(400)[:, None]
    np.testing.assert_allclose(after(equal, kept), most, rtol=1e-4)
    np.testing.assert_allclose(after(signs * equal, kept), 1 / most, rtol=1e-4)


def test_steps_in_independent_directions_have_one():
    np.testing.assert_allclose(after(np.eye(30), 0.8), 1, rtol=1e-5)


def test_random_steps_have_one_on_average():
    """300 runs; the mean of their coherences, to 4 of its standard errors."""
    rng = np.random.default_rng(0)
    found = [after(rng.normal(size=(30, 50)), 0.8) for _ in range(300)]
    error = np.std(found) / np.sqrt(len(found))
    assert error < 0.02
    assert abs(np.mean(found) - 1) < 4 * error


@pytest.mark.parametrize("factor", [1e-12, 1.0, 1e12])
def test_it_does_not_depend_on_the_length_of_the_steps(factor):
    steps = np.random.default_rng(1).normal(size=(20, 4))
    np.testing.assert_allclose(after(factor * steps, 0.8), after(steps, 0.8), rtol=1e-4)


def test_before_the_first_step_it_is_one():
    assert Coherence.zeros().read(0.8) == 1


def test_a_buffer_that_holds_more_than_the_steps_does_not_count_as_more_than_equal():
    """Weight decay is in the buffer and not in the gradient's moments."""
    both = Coherence.zeros()._replace(together=jnp.float32(100), apart=jnp.float32(1))
    assert both.read(0.5) == 3


@pytest.mark.parametrize("kept", [0.0, 0.8])
@pytest.mark.parametrize("share", [1e-6, 0.01, 0.1])
def test_of_a_step_that_was_clipped_no_more_entered_than_the_buffers_say(kept, share):
    """It is a bound: the step entered whole, or was the difference of both buffers."""
    rng = np.random.default_rng(2)
    coherence, buffer = Coherence.zeros(), np.zeros(5)
    for step in rng.normal(size=(20, 5)):
        before, buffer = buffer, kept * buffer + share * step
        length = np.sum(step**2)
        coherence = coherence.add(kept, length, np.sum(buffer**2))
        most = np.linalg.norm(buffer) + kept * np.linalg.norm(before)
        bound = most**2 / length
        expected = bound if bound < 0.5 else 1
        np.testing.assert_allclose(coherence.entered, expected, rtol=1e-4)
        assert coherence.entered > 0.999 * share**2


def test_of_a_step_that_vanished_nothing_is_known():
    assert Coherence.zeros().add(0.8, jnp.float32(4), jnp.float32(0)).entered == 1
    unknown = Coherence.zeros().add(0.8, jnp.float32(4), jnp.float32(jnp.nan))
    assert unknown.entered == 1


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_step_without_a_finite_length_is_not_remembered(bad):
    before = Coherence.zeros().add(0.8, jnp.float32(4), jnp.float32(4))
    lost = before.add(0.8, jnp.float32(bad), jnp.float32(bad))
    assert lost.read(0.8) == 1
    assert lost.apart == before.apart
    found = lost.add(0.8, jnp.float32(1), jnp.float32(8))
    np.testing.assert_allclose(found.read(0.8), 8 / (0.64 * 4 + 1), rtol=1e-6)
