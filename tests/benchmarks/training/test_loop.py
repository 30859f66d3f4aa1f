"""Benchmarks' training loop, report and demo."""

import dataclasses
import json

import numpy as np
import pytest

from benchmarks import demo, plan, records, report, train
from tests.benchmark_helpers import record, tiny_workload


def test_the_same_seed_gives_the_same_record(tmp_path):
    workload = tiny_workload()
    both = train.run(workload, plan.Config("adascale", 4, seeds=(0, 1)))
    again = train.run(workload, plan.Config("adascale", 4, seeds=(0, 1)))
    for one, other in zip(both, again, strict=True):
        assert dataclasses.replace(one, seconds=0) == dataclasses.replace(
            other, seconds=0
        )
    assert both[0].train_loss != both[1].train_loss
    clock = both[0].layers["model/gain_steps"]
    assert clock[-1] >= both[0].base_steps > clock[-2]

    records.write(both, tmp_path / "records.jsonl")
    read = records.read(tmp_path / "records.jsonl")
    assert read[0].updates == both[0].updates
    np.testing.assert_allclose(read[0].test_accuracy, both[0].test_accuracy, rtol=1e-3)


def test_a_batch_scale_must_divide_the_evaluation_interval():
    with pytest.raises(ValueError, match="`batch_scale` must divide the 8 base"):
        plan.make_plan(tiny_workload(), plan.Config("lena", 3, seeds=(0,)))


def sentences(runs):
    target = report.target_accuracy(runs, 0.005)
    return report.conclusions(runs, report.summarise(runs, target))


def test_the_report_says_where_ours_is_not_best():
    finals = {
        ("base", 1): (0.98, 0.98),
        ("linear", 8): (0.97, 0.98),
        (report.OURS, 8): (0.90, 0.92),
        ("linear", 16): (0.10, 0.50),
        (report.OURS, 16): (0.97, 0.98),
        (report.LAYERS_OF, 16): (0.96, 0.96),
    }
    runs = [record(*key, value) for key, pair in finals.items() for value in pair]
    at8, at16, layers = sentences(runs)
    assert "linear scaling is best with 97.5 %" in at8
    assert "amplified LENA is 6.5 points behind" in at8
    assert "amplified LENA is best with 97.5 %" in at16
    assert "linear scaling failed to train (worst seed 10.0 %)" in at16
    assert "highest in noisy (3.5) and lowest in calm (1.2)" in layers
    assert "1 of 2 layers had not ended theirs" in layers


def test_means_within_the_standard_error_are_level():
    finals = {
        ("base", 1): (0.98, 0.96),
        ("linear", 8): (0.97, 0.98),
        (report.OURS, 8): (0.96, 0.98),
    }
    runs = [record(*key, value) for key, pair in finals.items() for value in pair]
    text = sentences(runs)[0]
    assert "level with it, within the standard error: amplified LENA (97.0 %)" in text
    assert "amplified LENA ends level with the base run" in text


def test_updates_to_target_and_numbers_that_are_not_finite(tmp_path):
    run = record("lena", 8, 0.9)
    assert run.updates_to(0.05) == 1
    assert run.updates_to(0.85) == 2
    assert run.updates_to(0.95) is None
    records.write([run], tmp_path / "r.jsonl")
    assert json.loads((tmp_path / "r.jsonl").read_text())["train_loss"] == [1, None]
    assert np.isnan(records.read(tmp_path / "r.jsonl")[0].train_loss[1])


def test_the_demo_runs_from_end_to_end(tmp_path, capsys):
    demo.main(["--quick", "--seeds", "2", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "LENA" in printed
    assert "S = 16:" in printed
    runs = records.read(tmp_path / "records.jsonl")
    assert {run.method for run in runs} == {"base", *demo.DEMO}
    assert len(runs) == 2 * (1 + len(demo.DEMO))
    for name in ("accuracy.png", "trust_ratio.png", "warmup_factor.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
