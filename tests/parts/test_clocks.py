"""Clocks that are exact: to a millionth after a billion base-batch steps, at any S."""

import functools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import optax_lena
from optax_lena._parts.clocks import Clocks, Count
from tests import helpers

MILLIONTH = 1e-6
BILLION = 10**9
LARGEST = np.iinfo(np.int32).max
# Batch scales, and gains that are hardly one: a float32 sum of them stands still.
STEPS = [1.0, 1.3, 24.0, 3000.7, 1.004]


@functools.partial(helpers.jit, static_argnums=2)
def add_many(count, steps, times):
    """Adds the same steps again and again."""
    return jax.lax.scan(lambda c, _: (c.add(steps), None), count, length=times)[0]


def at(value):
    """A count that starts at an exact value."""
    whole = int(value)
    return Count(jnp.int32(whole), jnp.float32(value - whole))


def exactly(count):
    """What a count holds, as a fraction of integers."""
    return int(count.whole) + Fraction(float(count.fraction))


def exact_sum(start, steps, times):
    return Fraction(start) + times * Fraction(float(np.float32(steps)))


def assert_exact(count, expected):
    assert abs(exactly(count) - expected) <= MILLIONTH * expected
    for number in (float(count.read()), float(count)):
        assert number == pytest.approx(float(expected), rel=MILLIONTH)


def test_two_million_updates_of_a_fractional_batch_scale():
    """A float32 sum is 2 % off by then."""
    count = add_many(Count.zeros(), jnp.float32(1.3), 2_000_000)
    assert_exact(count, exact_sum(0, 1.3, 2_000_000))
    naive = np.add.accumulate(np.full(2_000_000, 1.3, np.float32))[-1]
    assert abs(naive / 2_600_000 - 1) > 0.01


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("start", [0, 16_777_216, 123_456_789.625, BILLION - 0.5])
def test_half_a_million_updates_from_anywhere(steps, start):
    """Their own sum is right to a millionth, and not only what they are added to."""
    times = min(500_000, int((LARGEST - start) / steps) - 1)
    count = add_many(at(start), jnp.float32(steps), times)
    expected = exact_sum(start, steps, times)
    assert_exact(count, expected)
    added = expected - Fraction(start)
    assert abs(exactly(count) - expected) <= MILLIONTH * added
    assert 0 <= count.fraction < 1


@pytest.mark.parametrize("steps", STEPS)
def test_the_error_of_an_update_does_not_grow_with_the_sum(steps):
    """So that of a billion base-batch steps is at most that of one, times their number.

    What an update adds depends on the fraction alone: the whole part is an integer.
    """
    near, far = (
        add_many(at(start), jnp.float32(steps), 1000)
        for start in (0, BILLION - 3000 * 1000)
    )
    assert far.fraction == near.fraction
    assert int(far.whole) - int(near.whole) == BILLION - 3000 * 1000
    # One addition rounds to half a unit in the last place of (fraction + steps).
    rounding = Fraction(float(np.spacing(np.float32(1 + steps)))) / 2
    assert abs(exactly(near) - exact_sum(0, steps, 1000)) <= 1000 * rounding
    assert rounding / Fraction(steps) < MILLIONTH


@given(
    start=st.integers(0, BILLION),
    steps=st.lists(
        st.floats(0, 5000, width=32, allow_subnormal=False), min_size=1, max_size=20
    ),
)
def test_any_steps_add_up(start, steps):
    count = at(start)
    for step in steps:
        count = count.add(jnp.float32(step))
    expected = start + sum(Fraction(step) for step in steps)
    assert abs(exactly(count) - expected) <= MILLIONTH * max(expected, 1)


def test_a_count_stays_at_the_largest_integer_and_does_not_turn_negative():
    count = add_many(at(LARGEST - 10), jnp.float32(3), 5)
    assert int(count.whole) == LARGEST
    assert 0 <= count.fraction < 1
    huge = Count.zeros().add(jnp.float32(3e38))
    assert int(huge.whole) == 2**30
    assert int(huge.add(jnp.float32(3e38)).add(jnp.float32(3e38)).whole) == LARGEST
    assert float(Count.zeros().add(jnp.float32(jnp.inf)).fraction) == 0


@pytest.mark.parametrize("steps", [2.0**31, 1e12])
def test_a_clock_adds_at_most_what_converts_exactly(steps):
    count = Count.zeros().add(jnp.float32(steps))
    assert (count.whole, count.whole.dtype) == (2**30, jnp.int32)


def test_rows_count_each_for_themselves():
    count = Count.zeros(3)
    for _ in range(1000):
        count = count.add(jnp.array([0.0, 1.004, 3000.7]))
    expected = np.array([0, 1004, 3_000_700], np.float64)
    np.testing.assert_allclose(count.read(), expected, rtol=MILLIONTH)
    assert count.read().dtype == jnp.float32


def test_every_clock_gets_its_own_steps():
    clocks = Clocks.zeros()
    steps = dict(base_steps=4.0, gain_steps=2.5, rate_steps=0.25)
    steps = {name: jnp.float32(value) for name, value in steps.items()}
    clocks = clocks.add(**steps).add(**steps)
    assert [float(clock) for clock in clocks] == [8, 5, 0.5]


@pytest.mark.parametrize("clock", ["base_steps", "gain_steps", "rate_steps"])
def test_the_clocks_of_a_run_go_on_near_a_billion(clock):
    """In the state of an optimizer, and in the schedule that reads them."""
    learning_rate = lambda t: t - BILLION  # float32 near a billion counts in 64s
    rate = optax_lena.LayerRate(learning_rate, clock=clock)
    tx = optax_lena.scale_by_layer_rate(rate, 2)
    grads, moments = optax_lena.moments_from_stack({"w": jnp.array([1.0, -1.0])})
    state = tx.init(grads)
    billion = Clocks(*[at(BILLION) for _ in Clocks._fields])
    state = state._replace(clocks=billion)

    @helpers.jit
    def run(state):
        step = lambda s, _: (tx.update(grads, s, moments=moments)[1], None)
        return jax.lax.scan(step, state, length=64)[0]

    state = run(state)
    assert [exactly(c) for c in state.clocks] == [BILLION + 128] * 3
    assert optax_lena.metrics(state)[f"model/{clock}"] == BILLION + 128
    _, state = tx.update(grads, state, moments=moments)
    assert state.applied.schedule == 128


def test_a_count_is_of_float32_also_where_the_default_is_wider():
    with jax.enable_x64(True):
        for count in (Count.zeros(), Count.zeros(3)):
            assert count.fraction.dtype == jnp.float32
            assert count.whole.dtype == jnp.int32


TABLE = np.float32([0.5, 0.25, 0.125, 0.0625, 0.03125, 0.0])


@pytest.mark.parametrize(
    "schedule",
    [
        lambda t: jnp.asarray(TABLE)[t],
        lambda t: jnp.take(TABLE, t),
        lambda t: TABLE[t],
    ],
    ids=["brackets", "jnp.take", "NumPy"],
)
def test_a_schedule_that_indexes_a_table_reads_whole_steps(schedule):
    """As with `optax.sgd`, whose count is an integer."""
    tx = optax_lena.linear_scaling(schedule, 1.5, momentum=None)
    params = jnp.ones(())
    state, updates = tx.init(params), []
    for _ in range(4):
        update, state = tx.update(jnp.ones(()), state, params)
        updates.append(float(update))
    # At 0, 1.5, 3 and 4.5 base-batch steps.
    np.testing.assert_allclose(updates, -1.5 * TABLE[[0, 1, 3, 4]])
    plain = optax.sgd(schedule)
    first, _ = plain.update(jnp.ones(()), plain.init(params), params)
    assert updates[0] == 1.5 * first


@pytest.mark.parametrize("steps", [jnp.nan, -1.0, -jnp.inf])
def test_steps_that_are_none_add_nothing(steps):
    count = at(7.5).add(jnp.float32(steps))
    assert exactly(count) == Fraction(15, 2)
