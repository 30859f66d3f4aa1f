"""The training loop: what a seed gives, and how a run is cut."""

import dataclasses

import numpy as np
import pytest

from benchmarks.records import files
from benchmarks.records.record import read_records
from benchmarks.training import loop
from benchmarks.training.plan import Config, make_plan
from tests.benchmarks.helpers import tiny_workload


def test_the_same_seed_gives_the_same_record(tmp_path):
    workload = tiny_workload()
    both = loop.run(workload, Config("adascale", 4, seeds=(0, 1)))
    again = loop.run(workload, Config("adascale", 4, seeds=(0, 1)))
    for one, other in zip(both, again, strict=True):
        assert dataclasses.replace(one, seconds=0) == dataclasses.replace(
            other, seconds=0
        )
    assert both[0].train_loss != both[1].train_loss
    clock = both[0].layers["model/gain_steps"]
    assert clock[-1] >= both[0].base_steps > clock[-2]

    files.rewrite(both, tmp_path / "records.jsonl")
    read = read_records(tmp_path / "records.jsonl")
    assert read[0].updates == both[0].updates
    np.testing.assert_allclose(read[0].test_accuracy, both[0].test_accuracy, rtol=1e-3)


def test_a_batch_scale_must_divide_the_evaluation_interval():
    with pytest.raises(ValueError, match="S must divide the 8 .* 1, 2, 4, 8, got 3"):
        make_plan(tiny_workload(), Config("lena", 3, seeds=(0,)))


def test_a_full_size_table_trains_its_seeds_one_by_one(monkeypatch):
    def run_one(workload, config, on_progress, target):
        on_progress(0.5)
        on_progress(1.2)
        return [(config.seeds, config.rate, target)]

    run, shares = loop.run, []
    monkeypatch.setattr(loop, "run", run_one)
    workload = dataclasses.replace(tiny_workload(), side_by_side=False)
    config = Config("base", 1, seeds=(3, 5), rate=0.5)
    found = run(workload, config, shares.append, target=0.9)
    assert found == [((3,), 0.5, 0.9), ((5,), 0.5, 0.9)]
    assert shares == [0.25, 0.5, 0.75, 1]


def test_the_base_run_trains_at_its_own_batch():
    with pytest.raises(ValueError, match="S must be 1 for the base run, got 4"):
        make_plan(tiny_workload(), Config("base", 4, seeds=(0,)))
