"""The average of the last losses, and how far single ones are from it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optax_lena._parts.losses import LastLosses

ONE = jnp.float32(1)


def after(*losses):
    state = LastLosses.zeros()
    for loss in losses:
        state = state.start(jnp.float32(loss)).add(jnp.float32(loss))
    return state


@pytest.mark.parametrize("losses", [[3.0], [-2.0, 1.0, 4.0], list(range(40))])
def test_they_are_the_average_and_the_scatter_of_the_last_ten(losses):
    mean, scatter = losses[0], 0.1 * abs(losses[0])
    for loss in losses:
        scatter = 0.9 * scatter + 0.1 * abs(loss - mean)
        mean = 0.9 * mean + 0.1 * loss
    found = after(*losses)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-5)
    np.testing.assert_allclose(found.scatter, scatter, rtol=1e-5)
    assert found.has_started == 1


def test_the_first_loss_is_compared_with_itself_and_the_second_with_the_first():
    zeros = LastLosses.zeros()
    first = zeros.start(jnp.float32(4))
    assert (first.mean, first.has_started) == (4, 1)
    np.testing.assert_allclose(first.scatter, 0.4, rtol=1e-6)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, first.start(ONE), first))


@pytest.mark.parametrize(
    ("loss", "expected"),
    [(1e6, 104.0), (-1e6, -96.0), (103.0, 103.0), (-95.0, -95.0), (np.inf, 104.0)],
)
def test_a_loss_counts_as_a_hundred_mean_distances_from_the_average_at_most(
    loss, expected
):
    losses = LastLosses(jnp.float32(4), ONE, jnp.int32(1))
    assert losses.brought_near(jnp.float32(loss)) == expected


def test_where_losses_do_not_scatter_any_is_near():
    losses = LastLosses(ONE, jnp.float32(0), jnp.int32(1))
    assert losses.brought_near(jnp.float32(100)) == 100


def test_losses_near_the_largest_float_are_told():
    assert after(1.0, 2.0).is_finite()
    assert not after(3e38, -3e38).is_finite()
    finite = after(1.0)
    for name in ("mean", "scatter"):
        assert not finite._replace(**{name: jnp.float32(jnp.inf)}).is_finite()
