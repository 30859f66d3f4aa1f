"""Results: what the records of a table become."""

import numpy as np
import pytest

from benchmarks.pages import markers, result_block, summary_block, verdicts
from benchmarks.pages.outcomes import outcomes
from benchmarks.pages.result_figure import figure
from benchmarks.records import files
from tests.benchmarks.helpers import record


def fake_run(method, scale, seed, accuracies, split="test", rate=0.1):
    every = 8 // scale
    return record(
        method,
        scale,
        None,
        workload="fake",
        seed=seed,
        recipe={
            "base_batch": 4,
            "learning_rate": rate,
            "schedule": "exponential",
            "momentum": 0.9,
            "optimizer": "sgd",
        },
        base_steps=32,
        updates=[every * (i + 1) for i in range(len(accuracies))],
        train_loss=[1.0] * len(accuracies),
        test_accuracy=accuracies,
        layers={},
        split=split,
    )


def fake_table():
    base = [fake_run("base", 1, s, [0.5, 0.6, 0.7, 0.8]) for s in (0, 1)]
    ours = [
        fake_run("lena_amplified", 4, s, [0.5, 0.6, 0.7, 0.78 + s / 100, 0.80])
        for s in (0, 1)
    ]
    late = [0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.76, 0.77, 0.78]
    adascale = [
        fake_run("adascale", 4, 0, late),
        fake_run("adascale", 4, 1, late[:8] + [0.8]),
    ]
    tuned = [
        *(fake_run("sgd_tuned", 4, s, [0.8] * 4, rate=0.4) for s in (0, 1)),
        fake_run("sgd_tuned", 4, 100, [0.9] * 4, "validation", rate=0.4),
    ]
    return base + ours + adascale + tuned


def test_outcomes_count_what_the_protocol_says(tmp_path):
    twice = fake_table() + fake_table()[-3:-1]  # as two processes may write it
    files.rewrite(twice, tmp_path / "fake.jsonl")
    runs, target = result_block.load(tmp_path / "fake.jsonl")
    assert target == pytest.approx(0.795)
    table = outcomes(runs, target)
    # A tuning run is no row, and 2.5 times 8 updates count where none reaches it.
    np.testing.assert_allclose(table["sgd_tuned", 4].accuracy, [0.8, 0.8])
    np.testing.assert_array_equal(table["adascale", 4].counted, [20, 18])
    assert table["adascale", 4].reached == 1
    np.testing.assert_array_equal(table["lena_amplified", 4].counted, [10, 10])
    np.testing.assert_allclose(table["lena_amplified", 4].accuracy, [0.78, 0.79])
    assert verdicts.best(table, 4, verdicts.accuracy) == "lena_amplified"


def test_the_block_has_tables_verdicts_and_a_figure():
    runs, target = fake_table()[:-1], 0.795
    text = result_block.block("fake", runs, target)
    assert "| amplified LENA | **78.5 ± 0.5** |" in text
    assert "| AdaScale | 19 (1/2) |" in text
    assert "| momentum SGD, re-tuned | 80.0 ± 0.0 |" in text
    assert "at least 47 % fewer updates than AdaScale" in text
    assert "it ends 1.5 points below the base run" in text
    rival = result_block.block("fake", runs, target, recommended="adascale")
    assert "18.50 ± 0.50 points behind amplified LENA in accuracy after" in rival
    assert "9 ± 1 updates behind amplified LENA in updates to the target" in rival
    assert "fake.png" not in text  # one S makes no curve
    wide = [*runs, *(fake_run("adascale", 2, s, [0.8] * 4) for s in (0, 1))]
    assert "](benchmarks/fake.png)" in result_block.block("fake", wide, target)
    page = "a\n<!-- fake: made by b -->\nstale\n<!-- /fake -->\nc"
    filled = markers.fill(page, "fake", text)
    assert filled.startswith("a\n<!-- fake: made by b -->\n\nfake: base batch 4")
    assert filled.endswith("<!-- /fake -->\nc")
    assert "stale" not in filled
    assert len(figure(runs, target).axes) == 2
    assert "**never**" not in result_block.block("fake", runs, 0.95)  # nobody's best


def test_the_summary_puts_tasks_side_by_side():
    def task(method, accuracy):
        base = [record("base", 1, 0.8, seed=s) for s in (0, 1)]
        return base + [record(method, 16, accuracy, seed=s) for s in (0, 1)], 0.7

    kept = {name: task("linear", 0.75) for name in summary_block.TASKS}
    kept["text"] = task("sgd_tuned", 0.9)
    gpt = [
        record(method, 16, accuracy + seed / 100, seed=seed)
        for method, accuracy in (("lena_adamw", 0.6), ("adamw_transferred", 0.58))
        for seed in (0, 1)
    ]
    text = summary_block.block(kept, gpt, [], {}, {})
    assert "On 0 [small tasks](docs/small_tasks.md)" in text
    assert "`lena_adamw` changes accuracy by +2.0 ± 0.7 points at S = 16, on" in text
    lines = text.splitlines()
    assert lines[1].startswith(
        "|  | images, long, S = 64 | images, long, S = 128 | images, long, S = 256 | "
    )
    assert lines[3].startswith("| base run, S = 1 | 80.0 ± 0.0 | 80.0 ± 0.0 |")
    linear = "| linear scaling |  |  |  | **75.0 ± 0.0** |  |  |  |  |"
    assert lines[4] == linear
    tuned = "| momentum SGD, re-tuned |  |  |  |  |  | 90.0 ± 0.0 |  |  |"
    assert tuned in lines


def test_a_single_seed_is_not_the_best_where_others_have_more():
    runs, target = fake_table()[:-1], 0.795
    alone = fake_run("lena", 4, 0, [0.9] * 4)
    text = result_block.block("fake", [*runs, alone], target)
    assert "| LENA | 90.0 (1 seed) |" in text
    assert "| amplified LENA | **78.5 ± 0.5** |" in text


def test_the_updates_of_the_base_run_over_the_scale_stand_first():
    runs, target = fake_table()[:-1], 0.795
    base = outcomes(runs, target)["base", 1]
    perfect = f"{base.counted.mean() / 4:,.0f}"
    text = result_block.block("fake", runs, target)
    assert f"| *the base run's steps / S* | {perfect} |" in text
    assert "steps / S* |" not in result_block.block("fake", runs, 0.95)
