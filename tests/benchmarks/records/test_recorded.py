"""The records that the tables are made of keep the protocol."""

import pytest

from benchmarks.records.home import kept
from benchmarks.records.record import read_records, target_accuracy
from benchmarks.tasks.recipe import TARGET_DROP


@pytest.mark.parametrize("table", ["fashion_batchnorm", "text", "digits", "bytecode"])
def test_a_run_that_is_late_was_let_on(table):
    """Else it counts with fewer updates than another that misses the target too."""
    runs = [run for run in read_records(kept(table)) if run.split == "test"]
    target = target_accuracy(runs, TARGET_DROP)
    stopped = {
        (run.method, run.batch_scale, run.seed)
        for run in runs
        if run.updates[-1] == run.base_updates
        and run.updates_to(target) is None
        and run.final_accuracy >= target / 2
    }
    assert stopped == set()
