"""Curves and logs: what is trained, what is recorded, and what advice makes of it."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import curve
from benchmarks.curve import Scored
from benchmarks.pages import advice_check
from benchmarks.records import files
from benchmarks.unseen.task import Task


def line():
    """A regression that every S learns."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(640, 4)).astype(np.float32)
    y = x.sum(1) + 0.3 * rng.normal(size=640).astype(np.float32)
    error = lambda w, batch: jnp.mean((batch[0] @ w - batch[1]) ** 2)
    return Task(
        name="line",
        rate=0.02,
        rates=(0.02,),
        adamw_rate=0.02,
        muon_rate=None,
        init=lambda key: 0.1 * jax.random.normal(key, (4,)),
        loss=error,
        score=lambda w, batch: 100 * (1 - error(w, batch) / 4),
        train=(x[:512], y[:512]),
        test=(x[512:], y[512:]),
    )


def test_a_task_in_stages_is_left_out(monkeypatch, tmp_path):
    staged = lambda: dataclasses.replace(line(), stages=(0.5,))
    monkeypatch.setattr(curve, "TASKS", {"line": staged})
    curve.main(["--out", str(tmp_path / "curve.jsonl")])
    assert not list(tmp_path.iterdir())


def test_runs_end_with_the_base_run_or_at_the_target(monkeypatch, tmp_path):
    monkeypatch.setattr(curve, "TASKS", {"line": line})
    monkeypatch.setattr(curve, "SCALES", (8,))
    monkeypatch.setattr(curve, "BASE_STEPS", 256)
    path = tmp_path / "curve.jsonl"
    arguments = ["line", "--seeds", "0", "--out", str(path)]
    curve.main(arguments)
    base, large = files.read(path, Scored)
    assert base.base_steps == large.base_steps == [128, 256]
    assert base.target is None and large.target == base.score[-1] - curve.DROP
    assert base.noise_scale == [None, None] and all(large.noise_scale)
    assert large.steps_to(80) == 128 and large.steps_to(101) is None
    curve.main(arguments)
    assert len(files.read(path, Scored)) == 2


def scored(scale, seed, steps):
    """A run that reaches 90 % after so many base batches; never, if infinite."""
    at = list(range(128, 8193, 128))
    noise_scale = [5.0] * len(at) if scale > 1 else [None] * len(at)
    scores = [90.0 if step >= steps else 50.0 for step in at]
    return Scored("line", scale, seed, 90.0, at, scores, noise_scale, {})


def test_predicted_beside_measured():
    """Runs whose b is 32: E = 1024 (1 + S / 32)."""
    steps = {1: 1056, 8: 1280, 16: 1536, 32: 2048, 64: 3072, 128: math.inf}
    runs = [scored(s, seed, e) for s, e in steps.items() for seed in range(3)]
    subject = advice_check.of_scored("line", runs)
    assert subject.failed == (3, 15)
    found = advice_check.check(subject, is_whole=False)
    assert found.predicted == pytest.approx([5.0] * 3)
    assert found.measured == pytest.approx((32, 32, 32))
    assert found.factor == pytest.approx(6.4)
    assert found.covered == 3  # the interval reaches up to 17 times
    assert found.covered_with(1.0, 6.0) == 0 and found.covered_with(1.0, 7.0) == 3
    # The base run is looked at every 128 base batches.
    assert found.measured_examples[0] == pytest.approx(3072 / 1152)


def test_the_factor_of_the_interval_is_students():
    class One:
        def __init__(self, factor):
            self.factor = factor

    low, high = advice_check.model_error([One(1.0), One(4.0), One(16.0)])
    # 1.8856 is Student's 90 % quantile with two degrees of freedom.
    reach = 1.8856 * math.log(4) * math.sqrt(4 / 3)
    assert math.log(high / 4) == pytest.approx(reach, rel=1e-3)
    assert math.log(4 / low) == pytest.approx(reach, rel=1e-3)
