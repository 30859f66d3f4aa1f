"""Ratios grow slowly, and are cut where gradient and loss rise together."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from optax_lena import Backoff, Estimate, GrowthLimit
from tests import helpers

INF, NAN = float("inf"), float("nan")
WANTED = jnp.array([8.0, 2.0])


def measured(sq_norm=1.0, loss=None, scale=64, *, is_finite=(True, True), overflows=0):
    """What an update with a gradient of this squared norm says, without noise."""
    estimate = Estimate(jnp.float32(0), jnp.float32(sq_norm))
    is_finite = jnp.array(is_finite)
    return helpers.measured(estimate, scale, overflows=overflows)._replace(
        is_finite=is_finite,
        is_usable=is_finite,
        loss=None if loss is None else jnp.float32(loss),
    )


def settled(limit, loss=1.0, updates=40):
    """The state once all ratios have grown to what is wanted."""
    state = limit.init(2)
    for _ in range(updates):
        ratio, state, factor = limit.update(state, WANTED, measured(loss=loss))
    np.testing.assert_array_equal(ratio, WANTED)
    assert factor == 1
    return state


def test_a_tenth_and_a_quarter_are_the_defaults():
    assert Backoff() == Backoff(growth=1.1, limit=1.25)


def test_a_longer_gradient_with_a_higher_loss_cuts_the_ratios_which_grow_from_there():
    limit = Backoff(growth=1.5, limit=2.0)
    update = measured(32.0, loss=2.0)
    ratio, state, factor = limit.update(settled(limit), WANTED, update)
    np.testing.assert_allclose(factor, 0.25, rtol=1e-5)
    np.testing.assert_allclose(ratio, [2, 1], rtol=1e-5)  # not below the base batch's
    for expected in ([3, 1.5], [4.5, 2], [6.75, 2], [8, 2]):
        ratio, state, factor = limit.update(state, WANTED, measured(loss=1.0))
        np.testing.assert_allclose(ratio, expected, rtol=1e-5)
        assert factor == 1


@pytest.mark.parametrize(
    "update",
    [
        measured(32.0, loss=1.0),
        measured(32.0, loss=0.1),
        measured(32.0),
        measured(32.0, loss=NAN),
        measured(32.0, loss=INF),
        measured(1.0, loss=100.0),
        measured(NAN, loss=100.0, is_finite=(False, False)),
    ],
    ids=["level", "lower", "not given", "nan", "inf", "no spike", "not finite"],
)
def test_nothing_is_cut_unless_both_have_risen(update):
    limit = Backoff(growth=1.5, limit=2.0)
    ratio, state, factor = limit.update(settled(limit), WANTED, update)
    np.testing.assert_array_equal(ratio, WANTED)
    np.testing.assert_array_equal(state.growth.ratio, WANTED)
    assert factor == 1


def test_a_loss_within_what_losses_differ_by_is_not_higher():
    limit = Backoff(limit=2.0)
    state = limit.init(2)
    for update in range(200):
        _, state, _ = limit.update(state, WANTED, measured(loss=1 + update % 2))
    # An average of 1.5, from which losses are 0.5.
    for loss, is_cut in ((2.4, False), (2.6, True)):
        _, _, factor = limit.update(state, WANTED, measured(32.0, loss=loss))
        assert (factor < 1) == is_cut


def test_a_loss_that_stays_as_it_is_is_not_higher():
    """At an optimum, where nothing scatters."""
    limit = Backoff()
    state = settled(limit, loss=0.0)
    _, _, factor = limit.update(state, WANTED, measured(32.0, loss=0.0))
    assert factor == 1


@pytest.mark.parametrize("outlier", [1e3, 1e30, -1e4])
def test_one_loss_that_is_far_off_hides_no_later_one(outlier):
    limit = Backoff(limit=2.0)
    state = settled(limit)
    for loss in (outlier, *(20 * [1.0])):
        _, state, _ = limit.update(state, WANTED, measured(loss=loss))
    _, _, factor = limit.update(state, WANTED, measured(32.0, loss=2.0))
    np.testing.assert_allclose(factor, 0.25, rtol=1e-5)


@pytest.mark.parametrize("loss", [NAN, INF, -INF, -3e38])
def test_a_loss_that_cannot_be_averaged_is_forgotten(loss):
    limit = Backoff()
    state = settled(limit, loss=3e38)
    # With any scatter the last would be brought near, and could be.
    losses = state.losses._replace(scatter=jnp.zeros(()))
    state = state._replace(losses=losses)
    _, moved, _ = limit.update(state, WANTED, measured(loss=loss))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, moved.losses, state.losses))


def test_a_gradient_too_long_for_float32_brings_the_ratios_to_the_base_batch():
    limit = Backoff()
    update = measured(1.0, loss=9.0, overflows=1)
    ratio, state, factor = limit.update(settled(limit), WANTED, update)
    np.testing.assert_array_equal(ratio, [1, 1])
    np.testing.assert_array_equal(state.growth.ratio, [1, 1])
    assert factor == 0


def test_a_row_that_is_not_finite_keeps_what_it_may_grow_from():
    limit = Backoff(limit=2.0)
    update = measured(32.0, loss=9.0, is_finite=(True, False))
    _, state, _ = limit.update(settled(limit), WANTED, update)
    np.testing.assert_allclose(state.growth.ratio, [2, 2], rtol=1e-5)


def test_a_ratio_below_1_is_left_alone():
    """S is below 1 there: the batch is a part of the base batch."""
    limit, wanted = Backoff(), jnp.array([0.5, 0.7])
    state = limit.init(2)
    for update in (measured(1.0, loss=1.0, scale=0.5),) * 3:
        _, state, _ = limit.update(state, wanted, update)
    update = measured(900.0, loss=9.0, scale=0.5)
    ratio, _, factor = limit.update(state, wanted, update)
    np.testing.assert_array_equal(ratio, wanted)
    assert factor < 0.1


def test_a_spike_in_a_short_batch_does_not_lower_the_ratio_by_more_than_it_was_cut():
    limit, state = Backoff(limit=2.0), settled(Backoff(limit=2.0))
    short = measured(32.0, loss=9.0, scale=2)
    ratio, state, _ = limit.update(state, jnp.full(2, jnp.sqrt(2.0)), short)
    np.testing.assert_array_equal(ratio, [1, 1])
    np.testing.assert_allclose(state.growth.ratio, [2, 1], rtol=1e-5)


updates = st.tuples(
    st.floats(0.001, 1000),
    st.one_of(st.none(), st.floats(-10, 10)),
    st.floats(0.5, 20),
)


@hypothesis.given(st.lists(updates, min_size=1, max_size=30))
def test_it_never_gives_more_than_the_growth_nor_less_than_the_base_batch(runs):
    plain, limit = GrowthLimit(1.2), Backoff(1.2)
    growing, state = plain.init(2), limit.init(2)
    for sq_norm, loss, wanted in runs:
        update = measured(sq_norm, loss)
        wanted = jnp.full(2, wanted)
        most, growing, _ = plain.update(growing, wanted, update)
        grown, _, _ = plain.update(state.growth, wanted, update)
        ratio, state, factor = limit.update(state, wanted, update)
        assert (ratio <= most).all() and (ratio <= grown).all()
        assert (ratio >= jnp.minimum(grown, 1)).all()
        if loss is None:
            assert factor == 1


def test_without_the_loss_it_is_a_growth_limit():
    plain, limit = GrowthLimit(1.2), Backoff(1.2)
    growing, state, rng = plain.init(2), limit.init(2), np.random.default_rng(0)
    for _ in range(60):
        wanted = jnp.array(rng.uniform(0.5, 20, 2), jnp.float32)
        update = measured(rng.lognormal(0, 2), scale=rng.integers(1, 64))
        expected, growing, _ = plain.update(growing, wanted, update)
        ratio, state, _ = limit.update(state, wanted, update)
        np.testing.assert_array_equal(ratio, expected)
    np.testing.assert_array_equal(state.growth.ratio, growing.ratio)
