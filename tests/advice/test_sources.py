"""What is read: what a logger writes for infinity, chunks, prefixes, broken lines."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optax_lena
from tests.advice.logs import assert_same, entries


def without_signal():
    stack = {"w": jnp.array([[1.0, -1.0], [-1.0, 1.0]])}
    grads, moments = optax_lena.moments_from_stack(stack)
    tx = optax_lena.lena(0.1, 2)
    _, state = tx.update(grads, tx.init(grads), grads, moments=moments)
    return optax_lena.metrics(state)


@pytest.mark.parametrize("rounded", ["{!r}", "{:g}", "{:.3g}", "inf"])
def test_the_largest_float_is_infinite(rounded):
    """A log of the noise scale alone says the same as one of noise and signal."""
    logged = without_signal()
    scale = float(rounded.format(float(logged["model/noise_scale"])))
    alone = {"model/noise_scale": scale, "model/base_steps": 2.0}
    for ours in (alone, logged):
        ramp = optax_lena.BatchRamp(batch_scale=8)
        assert ramp.update(ramp.init(), ours) == ramp.init()
    advice = optax_lena.advise([alone] * 20)
    assert np.isinf(advice.critical_scale)
    assert "No signal was seen" in str(advice)


def test_what_was_not_measured_is_not_infinite():
    scales = np.array([30.0, np.nan, 30.0, 1e30, 30.0])
    history = optax_lena.advise({"model/noise_scale": scales}).history
    np.testing.assert_allclose(history.noise_scale, [30, 30, 1e30, 30])


@pytest.mark.parametrize("prefix", ["", "train/", "run/train/"])
@pytest.mark.parametrize("name", ["gain", "noise", "noise_scale"])
def test_a_layer_called_as_the_models_metrics(prefix, name):
    params = {"model": {name: jnp.ones(3), "w": jnp.ones(3)}}
    tx = optax_lena.lena(0.1, 2)
    noise = jax.random.normal(jax.random.key(0), (2, 3))
    stack = jax.tree.map(lambda p: p[None] + noise, params)
    grads, moments = optax_lena.moments_from_stack(stack)
    _, state = tx.update(grads, tx.init(params), params, moments=moments)
    logged = optax_lena.metrics(state)
    # The layer's metrics come first, as in a sorted log.
    keys = sorted(logged, key=lambda key: key.startswith("model/"))
    row = {prefix + key: float(logged[key]) for key in keys}
    advice = optax_lena.advise(row)
    assert set(advice.per_layer) == {f"{prefix}model/{name}", f"{prefix}model/w"}
    of_state = optax_lena.advise(state).curve.noise_scale
    assert advice.curve.noise_scale == pytest.approx(of_state, rel=1e-5)


def stacked(rows):
    return {key: np.array([row[key] for row in rows]) for key in rows[0]}


@pytest.mark.parametrize("cuts", [[10], [1, 2, 15], [0, 19]])
def test_chunks_are_joined(cuts, tmp_path):
    """What `lax.scan` stacked, epoch by epoch, in a list or in lines of JSON."""
    rows = entries()
    ends = [0, *cuts, 20]
    parts = [rows[a:b] for a, b in zip(ends, ends[1:], strict=False)]
    chunks = [stacked(part) for part in parts if part]
    chunks += [{key: value[:0] for key, value in chunks[0].items()}]
    notes = {"note": "none of ours", "loss": [1.0] * 7}
    path = tmp_path / "run.jsonl"
    lines = [{k: v.tolist() for k, v in chunk.items()} for chunk in chunks]
    path.write_text("\n".join(json.dumps(line | notes) for line in lines))
    nested = [{k: v[:, None] for k, v in chunk.items()} for chunk in chunks]
    on_device = [{k: jnp.asarray(v) for k, v in chunk.items()} for chunk in chunks]
    for source in (chunks, tuple(chunks), path, nested, on_device):
        assert_same(source, rows)
    # A metric that began later, or ended earlier, is missing from the others.
    late = [*rows[:10], stacked(rows[10:]) | {"noise/a": np.ones(10)}]
    late[-1]["signal/a"] = np.ones(10)
    assert_same(late, rows)
    layer = optax_lena.advise(late).history.layers["a"]
    np.testing.assert_array_equal(layer, [np.nan] * 10 + [1] * 10)


def test_chunks_of_several_lengths():
    whole = stacked(entries(3))
    for field in ("model/signal", "model/base_steps"):
        for wrong in (np.ones(2), 1.0):
            chunks = [whole, whole | {field: wrong}]
            words = "entry 2 with metrics, must hold arrays of one length"
            with pytest.raises(ValueError, match=words):
                optax_lena.advise(chunks)
    # Beside a number an array is no metric: a histogram, perhaps.
    rows = [row | {"model/weights": [1, 2, 3]} for row in entries()]
    assert_same(rows, entries())


@pytest.mark.parametrize("order", [slice(None, None, -1), [3, 1, 2, 0, 5, 4]])
def test_entries_that_are_not_in_order_of_time_are_told_of(order):
    rows = np.array(entries())[order].tolist()
    message = "falls .* in .* entries, so that .* of them count"
    with pytest.warns(RuntimeWarning, match=message) as told:
        optax_lena.advise(rows)
    assert told[0].filename == __file__


def test_a_run_that_was_restarted_now_and_then_is_in_order():
    rows = entries(60)
    restarted = rows[:30] + rows[10:40] + rows[35:]
    assert_same(restarted, rows)


def test_a_noise_scale_that_is_no_float_is_infinite():
    rows = [row | {"model/noise": 1e308, "model/signal": 1e-308} for row in entries()]
    assert np.isinf(optax_lena.advise(rows).critical_scale)


def test_an_integer_beyond_all_floats(tmp_path):
    """Is infinite, wherever it stands; what is infinite was not measured."""
    rows = entries()
    rows[3]["model/noise"] = 10**400
    path = tmp_path / "run.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    table = tmp_path / "run.csv"
    lines = [rows[0], *(row.values() for row in rows)]
    table.write_text("\n".join(",".join(map(str, line)) for line in lines))
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    expected = rows[:3] + [rows[3] | {"model/noise": np.inf}] + rows[4:]
    for source in (rows, path, table, columns, [columns]):
        assert_same(source, expected)
