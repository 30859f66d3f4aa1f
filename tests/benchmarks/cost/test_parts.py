"""The cost benchmark: what repeats, its tables and its bars."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.cost import __main__ as program
from benchmarks.cost import contenders, jobs, measure, parts, peer, trees
from benchmarks.cost.compare import compare
from benchmarks.cost.measure import Measurement
from benchmarks.pages import bars, cost_block
from benchmarks.records import files
from benchmarks.records.home import RUN_FILE
from benchmarks.tasks.perceptrons import MLP


def test_methods_take_turns_and_are_divided_within_a_turn():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    times = measure.take_turns(calls, "a", rounds=2)
    assert order == ["a", "b"] * 3
    assert times["a"]["ratio"] == [1, 1, 1]
    middle, least, most = times["b"]["seconds"]
    assert 0 < least <= middle <= most


def test_the_cost_of_an_update_is_the_same_every_time(tmp_path, capsys):
    arguments = ["--quick", "--part", "update", "--out", str(tmp_path)]
    program.main(arguments)
    runs = files.read(tmp_path / RUN_FILE, Measurement)
    assert "3 tensors, LENA: words 6." in capsys.readouterr().out
    assert [one.method for one in runs] == list(contenders.UPDATES)
    tree = trees.equal_shapes(3)
    grads, params = (jax.tree.map(lambda p: jnp.ones(p.shape), tree) for _ in range(2))
    compared = [
        contenders.update(name, *contenders.UPDATES[name], grads)
        for name in ("SGD", "LENA")
    ]
    again = compare(runs[0], compared, params, rounds=1)
    for one, other in zip(runs[::6], again, strict=True):
        assert (one.method, one.words) == (other.method, other.words)
        assert one.temp_bytes == other.temp_bytes
        assert one.environment["jax"] == jax.__version__


def test_the_cost_of_a_step_on_several_devices(monkeypatch):
    def make(rngs):
        return MLP((4, 3, 2), rngs=rngs)

    job = jobs.Job("MLP", make, (4,), num_classes=2, batch_size=16, num_microbatches=8)
    monkeypatch.setattr(jobs, "job_here", lambda quick: job)
    sgd, lena = parts.devices_step(quick=True)
    assert sgd.devices == lena.devices == jax.device_count()
    assert sgd.all_reduces == lena.all_reduces == 1


def measured(part, method, **fields):
    fields = {"setting": "toy", "baseline": "SGD", "size": 4, "tensors": 2} | fields
    where = {"cpus": "2", "device": "cpu", "jax": "0", "commit": "c"}
    return Measurement(part, method=method, environment=where, **fields)


def test_the_cost_tables_and_bars_are_made_from_the_records():
    cheap = {"bytes_accessed": 96, "temp_bytes": 0, "ratio": [1.0, 1.0, 1.0]}
    dear = {"bytes_accessed": 112, "temp_bytes": 2_000_000, "ratio": [1.2, 1.1, 1.4]}
    runs = [
        measured("update", "SGD", seconds=[0.1, 0.1, 0.1], rounds=3, **cheap),
        measured("update", "LENA", seconds=[0.12, 0.1, 0.2], rounds=3, **dear),
    ]
    text = cost_block.block(runs)
    assert "| method | words | temp. MB | time ms | × (range) |" in text
    assert "| LENA | 7.00 | 2.00 | 120 | 1.20 (1.10–1.40) |" in text
    assert bars.sentences(runs) == [
        "toy, LENA: words 7, at most 7.02 allowed: met.",
        "toy, LENA: temporary MB 2, at most 1 allowed: MISSED.",
        "toy, LENA: time over SGD 1.2, at most 1.25 allowed: met.",
    ]


@pytest.mark.skipif(peer.is_installed(), reason="the peer would be measured")
def test_the_cost_says_what_the_peer_needs(tmp_path, capsys):
    program.main(["--quick", "--part", "peer", "--out", str(tmp_path)])
    assert "pip install --group peer" in " ".join(capsys.readouterr().out.split())
