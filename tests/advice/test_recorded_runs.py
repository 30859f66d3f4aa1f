"""The advice on runs that were recorded, beside what was measured."""

import json
from pathlib import Path

import numpy as np
import pytest

import optax_lena

RESULTS = Path(__file__).parents[2] / "results"


@pytest.mark.parametrize(
    ("name", "measured", "examples"),
    # b and E(64) / E(1) of `amplified_first`, from updates to the target.
    [("text", 129, 20224 / 13056), ("fashion_batchnorm", 88, 20864 / 11648)],
)
def test_recorded_runs(name, measured, examples):
    """One run at S = 8 predicts b within 1.5 times and E(64) within 15 %."""
    path = RESULTS / f"{name}.jsonl"
    if not path.exists():
        pytest.skip("the records are not in this copy")
    runs = [json.loads(line) for line in path.read_text().splitlines()]
    kept = [
        r["layers"]
        for r in runs
        if (r["method"], r["batch_scale"]) == ("amplified_first", 8)
    ]
    assert kept
    for layers in kept:
        size = len(layers["model/gain"])
        advice = optax_lena.advise(layers | {"model/batch_scale": np.full(size, 8.0)})
        assert measured / 1.5 < advice.curve.noise_scale < measured * 1.5
        assert advice.curve.examples(64) == pytest.approx(examples, rel=0.15)
        low, high = advice.noise_scale_interval
        assert low < measured < high
