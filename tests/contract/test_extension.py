"""Parts that are defined here, outside of the package: each is used by name only.

Every part is one small class, goes through `jit` and `scan` with public names alone,
and is seen in numbers that can be worked out by hand.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_lena
from tests import helpers

S, UPDATES = 2, 6
# Two microbatches 1 and 3: noise 2, signal 3, a gain of 5 / 4, a mean of 2.
STEADY = {"w": np.tile(np.float32([1, 3]), (UPDATES, 1))}
STEADY_GAIN = 5 / 4
# Every other update both are 2: no noise, signal 4.
ALTERNATING = {"w": np.tile(np.float32([[1, 3], [2, 2]]), (UPDATES // 2, 1))}


def trained(rate=None, stacks=STEADY, tx=None):
    """Returns parameters `[T]` and metrics `[T]` of a jitted scan over the updates."""
    if tx is None:
        scale = optax_lena.scale_by_layer_rate(rate, S)
        tx = optax.chain(scale, optax.scale(-1.0))
    _, params, metrics = helpers.train(tx, {"w": jnp.zeros(())}, stacks)
    return params["w"], metrics


half_way = optax_lena.Rule(lambda estimate, scale: (1 + estimate.gain(scale)) / 2)


def test_a_rule():
    params, metrics = trained(optax_lena.LayerRate(0.1, rule=half_way))
    ratio = (1 + STEADY_GAIN) / 2
    np.testing.assert_allclose(metrics["trust_ratio/w"], ratio, rtol=1e-6)
    np.testing.assert_allclose(metrics["model/trust_ratio"], ratio, rtol=1e-6)
    steps = np.arange(1, UPDATES + 1)
    np.testing.assert_allclose(params, -0.1 * ratio * 2 * steps, rtol=1e-5)


@dataclasses.dataclass(frozen=True)
class LastUpdateOnly:
    """An estimator without a memory, but for updates that measure nothing."""

    def init(self, num_rows):
        return optax_lena.Estimate(jnp.zeros(num_rows), jnp.zeros(num_rows))

    def update(self, state, measured):
        keep = lambda new, old: jnp.where(measured.is_usable, new, old)
        return optax_lena.Estimate(*map(keep, measured.estimate, state))

    def read(self, state):
        return state


def test_an_estimator():
    rate = optax_lena.LayerRate(0.1, estimator=LastUpdateOnly())
    params, metrics = trained(rate, ALTERNATING)
    gains = np.tile([STEADY_GAIN, 1], UPDATES // 2)
    np.testing.assert_allclose(metrics["gain/w"], gains, rtol=1e-6)
    np.testing.assert_allclose(metrics["noise/w"], np.tile([2, 0], UPDATES // 2))
    np.testing.assert_allclose(metrics["signal/w"], np.tile([3, 4], UPDATES // 2))
    np.testing.assert_allclose(params, -0.1 * 2 * np.cumsum(gains), rtol=1e-5)


def test_an_estimator_sees_which_layers_may_be_believed():
    stacks = {"w": STEADY["w"].copy()}
    stacks["w"][2, 0] = np.nan
    rate = optax_lena.LayerRate(0.1, estimator=LastUpdateOnly())
    _, metrics = trained(rate, stacks)
    np.testing.assert_allclose(metrics["gain/w"], STEADY_GAIN, rtol=1e-6)


@dataclasses.dataclass(frozen=True)
class SquareWarmup:
    """A warm-up that counts updates and rises as their square."""

    updates: int
    needs_moments = False

    def init(self, num_rows):
        return jnp.zeros(num_rows)

    def update(self, progress, worth):
        progress = progress.add(jnp.where(worth.is_finite, 1.0, 0.0))
        return progress, jnp.minimum(progress.read() / self.updates, 1) ** 2


def test_a_warmup():
    rate = optax_lena.LayerRate(0.1, rule=half_way, warmup=SquareWarmup(4))
    params, metrics = trained(rate)
    factors = np.minimum(np.arange(1, UPDATES + 1) / 4, 1) ** 2
    np.testing.assert_allclose(metrics["warmup_factor/w"], factors, rtol=1e-6)
    np.testing.assert_array_equal(metrics["progress/w"], np.arange(1, UPDATES + 1))
    # It ends with the fourth update of two base batches each.
    np.testing.assert_array_equal(metrics["warmup_end/w"], [-1, -1, -1, 8, 8, 8])
    ratio = (1 + STEADY_GAIN) / 2
    np.testing.assert_allclose(params, -0.1 * 2 * ratio * np.cumsum(factors), rtol=1e-5)


@pytest.mark.parametrize("needs_moments", [False, True])
def test_a_warmup_says_whether_it_needs_moments(needs_moments):
    """One that does not say so is taken to need them."""
    warmup = SquareWarmup(4)
    if needs_moments:
        warmup = dataclasses.make_dataclass(
            "Quiet",
            [],
            bases=(),
            namespace={
                "init": lambda self, rows: SquareWarmup(4).init(rows),
                "update": lambda self, *args: SquareWarmup(4).update(*args),
            },
        )()
    rate = optax_lena.LayerRate(0.1, rule=optax_lena.linear, warmup=warmup)
    assert rate.needs_moments == needs_moments
    tx = optax_lena.scale_by_layer_rate(rate, S)
    params = {"w": jnp.ones(())}
    if needs_moments:
        with pytest.raises(TypeError, match="`moments`"):
            tx.update(params, tx.init(params))
    else:
        updates, _ = tx.update(params, tx.init(params))
        np.testing.assert_allclose(updates["w"], 0.1 * S / 16, rtol=1e-6)


class CeilingState(NamedTuple):
    cuts: jax.Array


@dataclasses.dataclass(frozen=True)
class Ceiling:
    """A guard that lets no ratio beyond a ceiling, and counts how often it had to."""

    ceiling: float

    def init(self, num_rows):
        return CeilingState(jnp.zeros(num_rows, jnp.int32))

    def update(self, state, trust_ratio, measured):
        cut = jnp.minimum(trust_ratio, self.ceiling)
        factor = jnp.min(cut / trust_ratio)
        return cut, CeilingState(state.cuts + (cut < trust_ratio)), factor


def test_a_guard():
    rate = optax_lena.LayerRate(0.1, estimator=LastUpdateOnly(), guard=Ceiling(1.125))
    tx = optax.chain(optax_lena.scale_by_layer_rate(rate, S), optax.scale(-1.0))
    state, params, metrics = helpers.train(tx, {"w": jnp.zeros(())}, ALTERNATING)
    ratios = np.tile([1.125, 1], UPDATES // 2)
    np.testing.assert_allclose(metrics["trust_ratio/w"], ratios, rtol=1e-6)
    np.testing.assert_allclose(
        metrics["model/spike_factor"], np.tile([1.125 / STEADY_GAIN, 1], UPDATES // 2)
    )
    np.testing.assert_allclose(params["w"], -0.1 * 2 * np.cumsum(ratios), rtol=1e-5)
    cuts = helpers.lena_state(state).guard.cuts
    np.testing.assert_array_equal(cuts, [UPDATES // 2] * 2)
    assert cuts.dtype == jnp.int32


class LargestEntry(optax_lena.Metric):
    """The noise of the largest entry alone."""

    def sq_norm(self, gradient):
        return jnp.max(jnp.abs(gradient)) ** 2


def test_a_metric():
    """Microbatches (3, 1) and (1, 1): squares 9 and 1, of the mean 4; noise 2."""
    tx = optax_lena.lena(0.1, S, momentum=None)
    stacks = {"w": np.tile(np.float32([[3, 1], [1, 1]]), (UPDATES, 1, 1))}
    metric = lambda state, params: LargestEntry()
    _, params, metrics = helpers.train(
        tx, {"w": jnp.zeros(2)}, stacks, preconditioner=metric
    )
    np.testing.assert_allclose(metrics["noise/w"], 2, rtol=1e-6)
    np.testing.assert_allclose(metrics["signal/w"], 3, rtol=1e-6)
    steps = np.arange(1, UPDATES + 1)
    expected = -0.1 * STEADY_GAIN * steps[:, None] * [2, 1]
    np.testing.assert_allclose(params["w"], expected, rtol=1e-5)


def test_a_metric_in_every_gatherer():
    loss = lambda w, x: jnp.mean(x @ w)
    batch, w = jnp.array([[3.0, 1.0], [1.0, 1.0]]), jnp.zeros(2)
    gather = optax_lena.value_and_grad(loss, 2)
    _, _, moments = jax.jit(lambda w: gather(w, batch, preconditioner=LargestEntry()))(
        w
    )
    over_axis = jax.vmap(
        lambda g: optax_lena.moments_over_axis(g, "i", preconditioner=LargestEntry()),
        axis_name="i",
        out_axes=None,
    )
    for got in (moments, over_axis(batch)[1]):
        assert (got.micro_sq_norm, got.batch_sq_norm) == (5, 4)
    tx = optax_lena.accumulate(
        optax_lena.lena(0.1, S), 2, preconditioner=lambda state, params: LargestEntry()
    )
    body = lambda state, row: (tx.update(row, state, w)[1], None)
    state, _ = jax.jit(lambda s: jax.lax.scan(body, s, batch))(tx.init(w))
    assert optax_lena.metrics(state)["noise/model"] == 2


SIGN = optax_lena.LayerRate(rule=optax_lena.square_root_gain)


def lena_sign(learning_rate, batch_scale=None, parts=SIGN):
    """Sign descent whose layers find their own rate, by the square root of the gain."""
    rate = dataclasses.replace(parts, learning_rate=learning_rate)
    return optax.chain(
        optax.scale_by_sign(),
        optax_lena.scale_by_layer_rate(rate, batch_scale),
        optax.scale(-1.0),
    )


def test_an_optimizer():
    schedule = optax.linear_schedule(0.1, 0.0, 2 * S * UPDATES)
    params, metrics = trained(tx=lena_sign(schedule, S))
    rates = 0.1 * (1 - np.arange(UPDATES) / (2 * UPDATES))
    np.testing.assert_allclose(metrics["model/schedule"], rates, rtol=1e-6)
    expected = -np.sqrt(STEADY_GAIN) * np.cumsum(rates)
    np.testing.assert_allclose(params, expected, rtol=1e-5)


def test_an_optimizer_of_parts_that_are_all_ones_own():
    """Under `inject_hyperparams` too, which takes none of them for a schedule."""
    parts = optax_lena.LayerRate(
        estimator=LastUpdateOnly(),
        rule=half_way,
        warmup=SquareWarmup(4),
        guard=Ceiling(1.1),
    )
    tx = optax.inject_hyperparams(lena_sign)(0.1, float(S), parts=parts)
    params, metrics = trained(tx=tx, stacks=ALTERNATING)
    factors = np.minimum(np.arange(1, UPDATES + 1) / 4, 1) ** 2
    ratios = np.tile([1.1, 1], UPDATES // 2)
    np.testing.assert_allclose(metrics["trust_ratio/w"], ratios, rtol=1e-5)
    np.testing.assert_allclose(params, -0.1 * np.cumsum(ratios * factors), rtol=1e-5)


class Returning:
    """A part whose last method returns what it was made with."""

    needs_moments = True

    def __init__(self, value, method="update", first=None):
        self.value, self.method, self.first = value, method, first

    def init(self, num_rows=0):
        return self.value if self.method == "init" else self.first

    def update(self, *args):
        return self.value(*args) if self.method == "update" else args[0]

    def read(self, state):
        return self.value


ROWS = jnp.ones(2)
BAD_PARTS = {
    "a rule's scalar": (
        dict(rule=optax_lena.Rule(lambda estimate, scale: scale)),
        ["`rule`", "one trust ratio", "2 rows", "shape (2,), got ()"],
    ),
    "a rule's None": (
        dict(rule=optax_lena.Rule(lambda estimate, scale: None)),
        ["`rule`", "one trust ratio", "got None"],
    ),
    "a warm-up's scalar": (
        dict(warmup=Returning(lambda count, worth: (count, jnp.ones(())), first=ROWS)),
        ["`warmup`", "one factor", "shape (2,), got ()"],
    ),
    "a warm-up's first scalar": (
        dict(warmup=Returning(jnp.ones(()), "init")),
        ["`warmup`", "one factor", "shape (2,), got ()"],
    ),
    "a warm-up's progress": (
        dict(warmup=Returning(lambda count, worth: (worth.gain, ROWS), first=ROWS)),
        ["`warmup`", "progress", "`add`", "got"],
    ),
    "a warm-up's factor alone": (
        dict(warmup=Returning(lambda count, worth: worth.gain, first=ROWS)),
        ["`warmup`", "(progress, factors)", "got"],
    ),
    "a guard's ratio": (
        dict(guard=Returning(lambda state, ratio, _: (1.0, state, 1.0), first=())),
        ["`guard`", "one trust ratio", "shape (2,), got ()"],
    ),
    "a guard's None": (
        dict(guard=Returning(lambda state, ratio, _: (ratio, state, None), first=())),
        ["`guard`", "factor", "shape (), got None"],
    ),
    "a guard's pair": (
        dict(guard=Returning(lambda state, ratio, _: (ratio, state), first=())),
        ["`guard`", "(ratios, state, factor)", "got"],
    ),
    "no estimate": (
        dict(estimator=Returning(jnp.ones(2), "read")),
        ["`estimator`", "optax_lena.Estimate", "`read`", "got"],
    ),
    "an estimate of scalars": (
        dict(estimator=Returning(optax_lena.Estimate(ROWS, jnp.ones(())), "read")),
        ["`estimator`", "one signal", "shape (2,), got ()"],
    ),
    "a share of rows": (
        dict(loss_limit=Returning(ROWS, "read", first=())),
        ["`loss_limit`", "share of the noise", "shape (), got (2,)"],
    ),
}


@pytest.mark.parametrize("what", BAD_PARTS)
def test_what_a_part_returns_is_checked_where_it_is_used(what):
    """It would train, by broadcasting, and fail in a report or a scan."""
    parts, message = BAD_PARTS[what]
    tx = optax_lena.scale_by_layer_rate(optax_lena.LayerRate(0.1, **parts), S)
    with pytest.raises(ValueError, match=helpers.says(*message)):
        helpers.first_update(tx, {"w": STEADY["w"][0]})


def test_whole_numbers_of_a_rule_go_through_a_scan():
    rule = optax_lena.Rule(lambda estimate, scale: jnp.ones(2, jnp.int32))
    params, _ = trained(optax_lena.LayerRate(0.1, rule=rule))
    np.testing.assert_allclose(params[-1], -0.1 * 2 * UPDATES, rtol=1e-5)


class Careful(optax_lena.Estimate):
    """An estimate whose gain is another."""

    def gain(self, batch_scale):
        return 0.9 * super().gain(batch_scale)


class ReadsCarefully(LastUpdateOnly):
    def read(self, state):
        return Careful(*state)


@pytest.mark.parametrize("loss_limit", [None, optax_lena.LossLimit()])
@pytest.mark.parametrize(
    "rule, noise", [(optax_lena.amplified_gain, 8), (optax_lena.capped_gain, 2)]
)
def test_an_estimate_of_your_own_stays_itself_in_every_rule(rule, noise, loss_limit):
    rate = optax_lena.LayerRate(
        0.1, rule=rule, estimator=ReadsCarefully(), loss_limit=loss_limit
    )
    _, metrics = trained(rate)
    expected = 0.9 * (noise + 3) / (noise / S + 3)
    np.testing.assert_allclose(metrics["model/trust_ratio"], expected, rtol=1e-6)
