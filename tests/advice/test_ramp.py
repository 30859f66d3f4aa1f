"""Ramps: the controller, Seesaw, and what MaxText and Levanter read."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_lena


def metrics(noise_scale, base_steps, **more):
    return {"model/noise_scale": noise_scale, "model/base_steps": base_steps, **more}


def run(ramp, noise_scales, state=None, every=100):
    state = ramp.init() if state is None else state
    scales = []
    for number, noise_scale in enumerate(noise_scales, start=1):
        state = ramp.update(state, metrics(noise_scale, every * number))
        scales.append(state["batch_scale"])
    return state, scales


def test_largest_power_of_two_below():
    ramp = optax_lena.BatchRamp(batch_scale=2, max_scale=64, theta=1.0)
    # One doubling a call; monotone; nothing on what is not a number.
    state, scales = run(ramp, [3.9, 4, 40, 40, 40, 40, 1, math.inf, math.nan, 1e9, 1e9])
    assert scales == [2, 4, 8, 16, 32, 32, 32, 32, 32, 64, 64]
    assert ramp.schedule(state).changes == (
        (0, 2), (200, 4), (300, 8), (400, 16), (500, 32), (1000, 64),
    )  # fmt: skip
    half = optax_lena.BatchRamp(batch_scale=2, max_scale=64, theta=0.5)
    assert run(half, [1])[1] == [4]


def test_the_state_lives_in_a_checkpoint():
    ramp = optax_lena.BatchRamp(batch_scale=8, max_scale=64)
    noise_scales = [1, 10, 10, 20, 40, 80]
    state, scales = run(ramp, noise_scales)
    stopped, first = run(ramp, noise_scales[:3])
    assert jax.tree.structure(stopped) == jax.tree.structure(ramp.init())
    restored = json.loads(json.dumps(stopped))
    as_arrays = jax.tree.map(np.asarray, stopped)
    for again in (restored, as_arrays):
        for number in range(3, 6):
            now = metrics(noise_scales[number], 100 * (number + 1))
            again = ramp.update(again, now)
        assert again == state
    before = dict(stopped)
    ramp.update(stopped, metrics(1e9, 1e9))
    assert stopped == before


def test_waits_for_the_warm_up_and_a_late_start():
    ramp = optax_lena.BatchRamp(max_scale=4, start=50)
    state = ramp.update(ramp.init(), metrics(100.0, 49))
    assert state["batch_scale"] == 1
    state = ramp.update(state, metrics(100.0, 50, **{"model/warming_up": 0.1}))
    assert state["batch_scale"] == 1
    state = ramp.update(state, metrics(100.0, 50, **{"model/warming_up": 0.0}))
    assert state["batch_scale"] == 2


def test_reads_an_optax_state():
    tx = optax_lena.lena(0.1, batch_scale=2)
    state, ramp = tx.init(jnp.zeros(2)), optax_lena.BatchRamp(batch_scale=2)
    assert ramp.update(ramp.init(), state) == ramp.init()  # nothing measured yet
    grads, moments = optax_lena.moments_from_stack(jnp.array([[3.0, 1.0], [0.0, 1.0]]))
    _, state = tx.update(grads, state, jnp.zeros(2), moments=moments)
    assert optax_lena.metrics(state)["model/noise_scale"] == pytest.approx(4.5)
    assert ramp.update(ramp.init(), state)["batch_scale"] == 4


def test_one_base_step_doubles_once():
    """Its noise scale is no news; and `schedule` takes every state that it makes."""
    ramp = optax_lena.BatchRamp(batch_scale=8, max_scale=64)
    state = ramp.init()
    seen = []
    # Twice at once, from the very start, and back at an older checkpoint's steps.
    for base_steps in (0, 0, 240, 240, 100, 240, 241, 50, 300, 300, 301):
        state = ramp.update(state, metrics(1e4, base_steps))
        seen.append(state["batch_scale"])
        ramp.schedule(state)
    assert seen == [8, 8, 16, 16, 16, 16, 32, 32, 64, 64, 64]
    assert ramp.schedule(state).changes == ((0, 8), (240, 16), (241, 32), (300, 64))
    full = optax_lena.BatchRamp(batch_scale=8, max_scale=8)
    assert full.update(full.init(), metrics(1e4, 240)) == full.init()


@pytest.mark.parametrize(
    ("more", "got"),
    [
        ({}, r"\['model/noise_scale'\]"),
        ({"model/base_steps": math.nan}, r"\[nan\]"),
        ({"model/base_steps": math.inf}, r"\[inf\]"),
    ],
)
def test_a_doubling_needs_its_base_step(more, got):
    """The number of an entry would stand for one, and it is 1 at every call."""
    ramp = optax_lena.BatchRamp(batch_scale=8)
    words = f"`metrics` must hold a finite 'model/base_steps' .* got {got}"
    with pytest.raises(ValueError, match=words):
        ramp.update(ramp.init(), {"model/noise_scale": 30.0} | more)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_scale": 3}, "`batch_scale` must be a power of two"),
        ({"max_scale": 0}, "`max_scale` must be an integer of at least 1"),
        ({"batch_scale": 8, "max_scale": 4}, "at least `batch_scale`"),
        ({"theta": 0}, "`theta` must be a finite number above 0"),
        ({"start": -1}, "`start` must be a finite number of at least 0"),
    ],
)
def test_bad_ramps(options, words):
    with pytest.raises(ValueError, match=words):
        optax_lena.BatchRamp(**options)


def test_seesaw_of_cosine():
    schedule = optax.warmup_cosine_decay_schedule(0, 0.1, 100, 1000)
    rate, batch = optax_lena.seesaw(schedule, 1000, max_scale=16)
    steps = jnp.arange(1000)
    rates = np.asarray(jax.jit(jax.vmap(rate))(steps))
    given = np.asarray(jax.vmap(schedule)(steps))
    batches = np.array([batch(t) for t in range(1000)])
    assert [scale for _, scale in batch.changes] == [1, 2, 4, 8, 16]
    np.testing.assert_allclose(rates[:100], given[:100], rtol=1e-5)
    # Noise per example, rate over root batch, is the schedule's at every step.
    np.testing.assert_allclose(rates / np.sqrt(batches), given, rtol=1e-5, atol=1e-8)
    for start, scale in batch.changes[1:]:
        assert given[start] <= 0.1 / scale * (1 + 1e-5) < given[start - 1]
        assert rates[start] == pytest.approx(0.1 / math.sqrt(scale), rel=0.02)
    # Fewer updates: the batch's share of every base step.
    assert batch.updates()[-1][0] + (1000 - batch.changes[-1][0]) / 16 < 800


def test_seesaw_leaves_a_constant_alone():
    rate, batch = optax_lena.seesaw(optax.constant_schedule(0.1), 50)
    assert batch.changes == ((0, 1),)
    assert float(rate(49)) == pytest.approx(0.1)


def test_seesaw_does_not_shrink_the_batch_where_the_schedule_rises_again():
    schedule = optax.piecewise_constant_schedule(0.1, {10: 0.25, 20: 2.0, 30: 0.25})
    _, batch = optax_lena.seesaw(schedule, 50)
    assert batch.changes == ((0, 1), (10, 4), (30, 8))


def test_bad_seesaws():
    with pytest.raises(ValueError, match="`schedule` must be finite, and positive"):
        optax_lena.seesaw(optax.constant_schedule(0.0), 50)
    with pytest.raises(ValueError, match="`steps` must be an integer of at least 1"):
        optax_lena.seesaw(optax.constant_schedule(0.1), 0)
    with pytest.raises(
        ValueError, match="`max_scale` must be a finite number of at least 1"
    ):
        optax_lena.seesaw(optax.constant_schedule(0.1), 5, max_scale=0)


def test_updates_of_a_schedule():
    schedule = optax_lena.BatchSchedule(((0, 8), (20, 16), (21, 32), (100, 64)))
    # 20 base steps are 2.5 updates of 8: the change comes after the third.
    assert schedule.updates() == ((0, 8), (3, 32), (6, 64))
    for changes in ((), ((1, 8),), ((0, 8), (0, 16)), ((0, 8), (9, 16), (5, 32))):
        with pytest.raises(ValueError, match="start at base step 0 and rise"):
            optax_lena.BatchSchedule(changes)
    with pytest.raises(ValueError, match="at least 1, got"):
        optax_lena.BatchSchedule(((0, 0),))


def fields(text):
    pairs = (line.split(": ") for line in text.splitlines())
    return {name: float(value) for name, value in pairs if value != "true"}


@pytest.mark.parametrize(
    "changes",
    [
        ((0, 8), (800, 16), (2400, 32)),
        ((0, 1), (50, 2), (60, 4), (3000, 8)),
        ((0, 4), (1000, 8), (1004, 16), (1012, 32), (1044, 64)),
        ((0, 1), (50.025, 2)),  # a stage of 800.4 examples
    ],
)
def test_maxtext_is_never_ahead(changes):
    """Its RampupBatchManager, by its rule: a stage ends once it has had its samples."""
    schedule = optax_lena.BatchSchedule(changes)
    text = optax_lena.maxtext_config(schedule, base_batch=16, num_devices=8)
    assert text.startswith("enable_rampup_batch_size: true\n")
    config = fields(text)
    start, end, more = (
        8 * config[f"per_device_batch_size{suffix}"]
        for suffix in ("_start", "", "_increment")
    )
    assert (start, end) == (16 * changes[0][1], 16 * changes[-1][1])
    assert (end - start) % more == 0
    per_stage = config["global_rampup_samples"] / ((end - start) / more)
    batch, seen, in_stage = start, 0.0, 0.0
    while batch < end:
        assert batch <= 16 * schedule(seen / 16)
        seen, in_stage = seen + batch, in_stage + batch
        if in_stage >= per_stage:
            batch, in_stage = batch + more, 0.0
    assert seen < 100 * 16 * changes[-1][0]


def test_bad_configurations():
    constant = optax_lena.BatchSchedule(((0, 8),))
    falls = optax_lena.BatchSchedule(((0, 8), (9, 4)))
    for schedule in (constant, falls):
        with pytest.raises(ValueError, match="must grow by multiples"):
            optax_lena.maxtext_config(schedule, 4, 4)
    assert optax_lena.levanter_config(constant, 4).endswith("value: 32")
    of_floats = optax_lena.BatchSchedule(((0, 8.0),))
    assert optax_lena.levanter_config(of_floats, 4.0).endswith("value: 32")
    with pytest.raises(ValueError, match="`base_batch` must be an integer"):
        optax_lena.levanter_config(constant, 0)
    with pytest.raises(ValueError, match="`num_devices` must be an integer"):
        optax_lena.maxtext_config(falls, 4, 0)
