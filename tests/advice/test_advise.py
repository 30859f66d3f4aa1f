"""The advice: its sources, its numbers, its intervals, and what it says."""

import csv
import gzip
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_lena
from optax_lena._advice.interval import median, median_interval


def history_of(noise_scale, *, steps=8.0, **more):
    noise_scale = np.asarray(noise_scale, float)
    return {
        "model/base_steps": steps * np.arange(1, len(noise_scale) + 1),
        "model/noise": noise_scale * 0.5,
        "model/signal": np.full(len(noise_scale), 0.5),
        **more,
    }


def autocorrelated(rng, count, phi):
    shocks, values = rng.normal(size=count + 500), np.zeros(count + 500)
    for t in range(1, len(values)):
        values[t] = phi * values[t - 1] + shocks[t] * math.sqrt(1 - phi**2)
    return values[500:]


def trained(updates=12):
    params = {"a": jnp.zeros(4), "b": {"c": jnp.zeros(4)}}
    tx = optax_lena.lena(0.1, batch_scale=4)

    def step(state, key):
        keys = jax.random.split(key)
        stack = {
            "a": 1 + jax.random.normal(keys[0], (4, 4)),
            "b": {"c": 1 + 3 * jax.random.normal(keys[1], (4, 4))},
        }
        grads, moments = optax_lena.moments_from_stack(stack)
        _, state = tx.update(grads, state, params, moments=moments)
        return state, optax_lena.metrics(state)

    keys = jax.random.split(jax.random.key(0), updates)
    return jax.lax.scan(step, tx.init(params), keys)


def test_numbers():
    advice = optax_lena.advise(history_of(np.full(30, 100.0)), base_batch=32)
    assert advice.critical_scale == pytest.approx(20)
    assert advice.curve.noise_scale == pytest.approx(100)
    assert advice.curve.examples(1) == pytest.approx(1)
    assert advice.curve.examples(64) == pytest.approx(164 / 101)
    # The gain's own formula: E(S) / E(1) = S / gain(S).
    gain = (1 + 100) / (1 + 100 / 64)
    assert advice.curve.examples(64) == pytest.approx(64 / gain)
    # No chance in a constant: what is left are the factors for the model's error.
    assert advice.chance_interval == pytest.approx((20, 20))
    assert advice.interval == pytest.approx((20 / 1.5, 20 * 17))
    low, high = advice.examples_interval(64)
    assert low < advice.curve.examples(64) < high
    half = optax_lena.advise(history_of(np.full(30, 100.0)), efficiency=0.5)
    assert half.critical_scale == pytest.approx(100)


def test_every_source_says_the_same(tmp_path):
    state, history = trained()
    rows = [{k: float(v[t]) for k, v in history.items()} for t in range(12)]
    lines = [json.dumps(row) for row in rows]
    lines.insert(3, json.dumps({"eval/accuracy": 0.5, "note": "no metrics here"}))
    lines.insert(5, "")
    path = tmp_path / "run.jsonl"
    path.write_text("\n".join([*lines, '{"model/noise": 0.']))  # cut off
    nested = tmp_path / "nested.jsonl"
    nested.write_text("\n".join(json.dumps({"train": {"lena": row}}) for row in rows))
    stacked = optax_lena.advise(history)
    assert set(stacked.per_layer) == {"a", "b/c"}
    assert stacked.per_layer["a"] < stacked.per_layer["b/c"]
    grid = {k: np.reshape(v, (3, 4)) for k, v in history.items()}
    tables = tmp_path / "run.csv", tmp_path / "run.tsv"
    for table, delimiter in zip(tables, ",\t", strict=True):
        with table.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, ["note", *rows[0]], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows[:5] + [{"note": "no metrics here"}] + rows[5:])
    array = tmp_path / "array.json"
    array.write_text(json.dumps(rows))
    for source in (rows, tuple(rows), path, str(path), nested, *tables, array, grid):
        other = optax_lena.advise(source)
        assert other.critical_scale == pytest.approx(stacked.critical_scale, rel=1e-5)
        assert other.interval == pytest.approx(stacked.interval, rel=1e-5)
        values = pytest.approx([*stacked.per_layer.values()], rel=1e-5)
        assert [*other.per_layer.values()] == values


def test_a_state_has_no_interval():
    state, history = trained()
    for source in (
        state,
        {"opt_state": state},
        optax_lena.metrics(state),
        [rows_end(history)],
    ):
        advice = optax_lena.advise(source)
        noise, signal = history["model/noise"][-1], history["model/signal"][-1]
        assert advice.curve.noise_scale == pytest.approx(
            float(noise / signal), rel=1e-5
        )
        assert advice.interval == advice.chance_interval == (0, math.inf)
        assert advice.phases == ()
        assert "too short a log" in str(advice)
        assert "too short to say whether the base batch" in str(advice)


def rows_end(history):
    return {k: v[-1] for k, v in history.items()}


def test_several_states_add_up():
    params = {"a": jnp.zeros(4), "b": jnp.zeros(4)}
    one = lambda: optax_lena.lena(0.1, batch_scale=2)
    tx = optax.partition({"x": one(), "y": one()}, {"a": "x", "b": "y"})
    state = tx.init(params)
    keys = jax.random.split(jax.random.key(0))
    stack = {
        k: 1 + jax.random.normal(key, (2, 4)) for k, key in zip("ab", keys, strict=True)
    }
    grads, moments = optax_lena.moments_from_stack(stack)
    _, state = tx.update(grads, state, params, moments=moments)
    metrics = optax_lena.metrics(state)
    advice = optax_lena.advise(state)
    noise, signal = (
        metrics[f"x/model/{f}"] + metrics[f"y/model/{f}"] for f in ("noise", "signal")
    )
    assert advice.curve.noise_scale == pytest.approx(float(noise / signal), rel=1e-5)
    assert set(advice.per_layer) == {"x/a", "y/b"}


def constant(**fields):
    return {k.replace("_of_", "/"): np.full(9, float(v)) for k, v in fields.items()}


@pytest.mark.parametrize(
    "fields",
    [
        constant(model_of_noise_scale=30),
        constant(noise_of_a=20, noise_of_b=10, signal_of_a=0.5, signal_of_b=0.5)
        | constant(model_of_gain=2),
        constant(model_of_gain=31 / (30 / 8 + 1), model_of_batch_scale=8),
    ],
)
def test_other_metrics_will_do(fields):
    assert optax_lena.advise(fields).curve.noise_scale == pytest.approx(30)


def test_a_restart_counts_once():
    first, again = history_of(np.full(20, 10.0)), history_of(np.full(20, 40.0))
    again["model/base_steps"] += 8 * 10  # went back to the checkpoint after entry 10
    both = {k: np.concatenate([first[k], again[k]]) for k in first}
    advice = optax_lena.advise(both)
    assert len(advice.history.base_steps) == 30
    assert np.all(np.diff(advice.history.base_steps) > 0)
    assert advice.curve.noise_scale == pytest.approx(40)


def test_entries_without_a_time_do_not_count():
    whole = history_of(np.arange(1.0, 31))
    rows = [{k: float(v[t]) for k, v in whole.items()} for t in range(30)]
    gone = [dict.fromkeys(rows[0], math.nan), dict.fromkeys(rows[0])]
    advice = optax_lena.advise(rows[:10] + gone + rows[10:])
    assert advice.critical_scale == optax_lena.advise(whole).critical_scale
    assert advice.phases[-1].end == 240


def test_entries_weigh_as_much_as_the_examples_before_them():
    steps = np.array([1, 2, 3, 4, 5, 105, 205, 305.0])
    history = history_of([1, 1, 1, 1, 1, 9, 9, 9]) | {"model/base_steps": steps}
    assert optax_lena.advise(history).curve.noise_scale == pytest.approx(9)


def test_medians():
    assert median(np.array([3, 1, 2.0]), np.ones(3)) == 2
    assert median(np.array([4, 1, 2, 3.0]), np.ones(4)) == 2.5
    assert median(np.array([1, 2, math.inf, math.nan]), np.ones(4)) == 2
    assert median(np.array([1, math.inf]), np.ones(2)) == 1
    assert median(np.array([math.inf]), np.ones(1)) == math.inf
    assert math.isnan(median(np.array([math.nan]), np.ones(1)))
    assert median(np.array([1, 2.0]), np.array([3.0, 1.0])) == pytest.approx(1.25)


@pytest.mark.parametrize(
    ("count", "phi"), [(30, 0.5), (60, 0.0), (60, 0.9), (200, 0.9)]
)
def test_intervals_cover(count, phi):
    """16 of 20 short runs or more, by chance alone, without the model's factor."""
    covered = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        noise = np.exp(0.3 * autocorrelated(rng, count, phi))
        signal = np.exp(0.4 * autocorrelated(rng, count, phi)) / 50
        history = history_of(np.ones(count)) | {
            "model/noise": noise,
            "model/signal": signal,
        }
        advice = optax_lena.advise(history)
        low, high = advice.chance_interval
        assert low <= advice.critical_scale <= high
        assert advice.interval[0] < low and high < advice.interval[1]
        covered += low <= 0.2 * 50 <= high
    assert covered >= 16


def test_intervals_cover_moving_averages():
    """As LENA logs them: at every update, remembering for forty, so that 400 entries
    are worth five. Chance alone covers in 75 to 85 %, the whole interval in all.
    """
    by_chance = covered = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        noise, signal = 0.0, 0.0
        pairs = []
        for t in range(400):
            noise += (rng.gamma(4, 50 / 4) - noise) / min(t + 1, 40)
            signal += (rng.normal(1, 1.5) - signal) / min(t + 1, 40)
            pairs.append((noise, signal))
        noises, signals = np.array(pairs).T
        history = history_of(np.ones(400)) | {
            "model/noise": noises,
            "model/signal": signals,
        }
        advice = optax_lena.advise(history)
        by_chance += advice.chance_interval[0] <= 10 <= advice.chance_interval[1]
        covered += advice.interval[0] <= 10 <= advice.interval[1]
    assert by_chance >= 14
    assert covered >= 19


def test_intervals_shrink_with_the_log():
    rng = np.random.default_rng(0)
    widths = []
    for count in (20, 200, 3000):
        values = np.exp(0.5 * rng.normal(size=count))
        _, (low, high) = median_interval(values, np.ones(count))
        widths.append(math.log(high / low))
    assert widths[0] > widths[1] > widths[2] > 0


def test_outliers_of_the_log():
    values = np.full(40, 50.0) * np.exp(np.random.default_rng(0).normal(0, 0.1, 40))
    values[[3, 9]] = math.inf
    values[5] = 0
    estimate, (low, high) = median_interval(values, np.ones(40))
    assert 40 < low < estimate < high < 60
    assert median_interval(np.full(9, math.inf), np.ones(9)) == (
        math.inf,
        (0, math.inf),
    )
    assert median_interval(np.zeros(9), np.ones(9)) == (0, (0, math.inf))


def test_until():
    rise = np.exp(np.linspace(0, 4, 90))
    whole, half = history_of(rise), history_of(rise[:45])
    advice = optax_lena.advise(whole, until=360)
    assert advice.interval == optax_lena.advise(half).interval
    assert advice.phases[-1].end == 360
    assert advice.critical_scale < optax_lena.advise(whole).critical_scale
    for until, words in [(7, "first base step, 8, got 7"), (0, "above 0")]:
        with pytest.raises(ValueError, match=words):
            optax_lena.advise(whole, until=until)


def test_phases():
    rise = np.exp(np.linspace(0, 4, 90))
    advice = optax_lena.advise(history_of(rise))
    assert len(advice.phases) == 3
    scales = [phase.noise_scale for phase in advice.phases]
    np.testing.assert_allclose(scales, [np.median(part) for part in np.split(rise, 3)])
    assert advice.phases[0].start == 0 and advice.phases[-1].end == 720
    assert "rises 14.8 times" in str(advice).replace("\n", " ")
    for phase in advice.phases:
        assert phase.interval[0] < phase.critical_scale < phase.interval[1]


def test_time():
    seconds = {1: 0.11, 8: 0.18, 64: 0.74}
    advice = optax_lena.advise(history_of(np.full(9, 90.0)), seconds=seconds)
    assert advice.step_seconds.base_examples == pytest.approx(0.1)
    assert advice.fastest_scale == pytest.approx(math.sqrt(90 * 0.1 / 0.01))
    grid = [(advice.time(s), s) for s in range(1, 200)]
    assert min(grid)[1] == 30
    assert advice.time(1, 1000) == pytest.approx(110)
    assert "Time: shortest at S = 30" in str(advice)
    flat = optax_lena.advise(history_of(np.full(9, 90.0)), seconds={1: 0.2, 8: 0.2})
    assert flat.fastest_scale == math.inf and "same at any batch" in str(flat)
    with pytest.raises(ValueError, match="`seconds` must be given"):
        optax_lena.advise(history_of(np.ones(9))).time(8)


@pytest.mark.parametrize(
    ("noise_scale", "words"),
    [
        (100.0, "Recommended: S = 16 (512 examples), 15 % more examples"),
        (7.0, "By the noise scale alone, keep the base batch"),
        (7.0, "examples are needed than in ever smaller batches"),
        (2.0, "past it already"),
        (0.0, "No noise was seen"),
        (math.inf, "No signal was seen"),
    ],
)
def test_words(noise_scale, words):
    values = np.full(20, noise_scale)
    history = (
        history_of(values)
        if math.isfinite(noise_scale)
        else history_of(np.ones(20)) | {"model/signal": np.zeros(20)}
    )
    text = str(optax_lena.advise(history, base_batch=32, seconds={1: 1, 8: 2}))
    assert words in text.replace("\n", " ")
    assert max(map(len, text.splitlines())) <= 79


def test_branch_is_shown():
    history = history_of(np.full(20, 100.0))
    assert "optax_lena.branch_test" in str(optax_lena.advise(history))
    for losses, words in [
        ({1: 2.0, 16: 2.0, 64: 3.0}, "agrees with the prediction"),
        ({1: 2.0, 4: 2.0, 8: 3.0}, "allows 5.0 times more"),
        ({1: 2.0, 64: 2.0}, "allows 3.2 times less"),
        ({1: 2.0, 8: 2.0}, "does not contradict"),
    ]:
        branch = optax_lena.BranchTest(losses, {s: 64 // s for s in losses}, 64, 0.01)
        advice = optax_lena.advise(history, branch=branch)
        assert advice.branch is branch
        assert words in str(advice)


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        ({"loss": [1.0]}, {}, "must hold the state of a LENA"),
        ([{"loss": 1.0}], {}, "must hold 'model/noise'"),
        ({"model/gain": [2.0]}, {}, "'model/batch_scale', got only one"),
        (
            {"model/noise": [1.0], "model/signal": [1.0, 2.0]},
            {},
            "arrays of one length",
        ),
        (history_of([math.nan] * 3), {}, "got none in 3 entries"),
        (history_of([]), {}, "one entry or more"),
        (history_of([1.0]), {"base_batch": 0}, "`base_batch` must be an integer"),
        (history_of([1.0]), {"base_batch": 1.5}, "`base_batch` must be an integer"),
        (
            history_of([1.0]),
            {"efficiency": 1.0},
            "`efficiency` must be a finite number in",
        ),
        (history_of([1.0]), {"seconds": {8: 0.1}}, "`seconds` must hold"),
        (history_of([1.0]), {"seconds": {1: 0.1, 8: -1}}, "`seconds` must hold"),
        (optax.adam(0.1).init(jnp.zeros(2)), {}, "state of a LENA transformation"),
    ],
)
def test_errors(source, options, words):
    with pytest.raises(ValueError, match=words):
        optax_lena.advise(source, **options)


def test_errors_of_files(tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_text("{}\nnonsense\n{}\n")
    with pytest.raises(ValueError, match="line 2 is not JSON"):
        optax_lena.advise(path)
    path.write_text('{"loss": 1}\n')
    with pytest.raises(ValueError, match=r"run.jsonl must hold .* \['loss'\] in 1 ent"):
        optax_lena.advise(path)
    path.write_text("")
    with pytest.raises(ValueError, match=r"run.jsonl must hold .* \[\] in 0 entries"):
        optax_lena.advise(path)
    path.write_bytes(gzip.compress(b"{}"))
    with pytest.raises(ValueError, match="text in UTF-8"):
        optax_lena.advise(path)
    with pytest.raises(FileNotFoundError):
        optax_lena.advise(tmp_path / "none.jsonl")
    events = tmp_path / "events.out.tfevents.1.host"
    events.write_bytes(b"\xff")
    for path, got in ((tmp_path, "a directory"), (events, "events of TensorBoard")):
        with pytest.raises(ValueError, match=f"{got}.*EventAccumulator.*dictionary"):
            optax_lena.advise(path)


def test_an_untouched_state_says_so():
    state = optax_lena.lena(0.1, batch_scale=4).init(jnp.zeros(2))
    with pytest.raises(ValueError, match="make at least one update"):
        optax_lena.advise(state)
