"""Evidence: what records of a table become, and that the pages show it."""

import numpy as np
import pytest

from benchmarks import evidence, markers, records


def fake_run(method, scale, seed, accuracies, split="test", rate=0.1):
    every = 8 // scale
    return records.Record(
        workload="fake",
        method=method,
        batch_scale=scale,
        num_microbatches=None,
        seed=seed,
        recipe={
            "base_batch": 4,
            "learning_rate": rate,
            "schedule": "exponential",
            "momentum": 0.9,
        },
        base_steps=32,
        updates=[every * (i + 1) for i in range(len(accuracies))],
        train_loss=[1.0] * len(accuracies),
        test_accuracy=accuracies,
        layers={},
        seconds=1.0,
        environment={"cpus": "2", "device": "cpu", "jax": "0", "commit": "abc"},
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


def test_evidence_counts_what_the_protocol_says(tmp_path):
    twice = fake_table() + fake_table()[-3:-1]  # as two processes may write it
    records.write(twice, tmp_path / "fake.jsonl")
    runs, target = evidence.load(tmp_path / "fake.jsonl")
    assert target == pytest.approx(0.795)
    table = evidence.cells(runs, target)
    # A tuning run is no row, and 2.5 times 8 updates count where none reaches it.
    np.testing.assert_allclose(table["sgd_tuned", 4].accuracy, [0.8, 0.8])
    np.testing.assert_array_equal(table["adascale", 4].updates, [20, 18])
    assert table["adascale", 4].reached == 1
    np.testing.assert_array_equal(table["lena_amplified", 4].updates, [10, 10])
    np.testing.assert_allclose(table["lena_amplified", 4].accuracy, [0.78, 0.79])
    assert evidence.best(table, 4, evidence.accuracy) == "lena_amplified"


def test_evidence_writes_tables_verdicts_and_a_figure():
    runs, target = fake_table()[:-1], 0.795
    text = evidence.markdown("fake", runs, target)
    assert "| amplified LENA | **78.5 ± 0.5** |" in text
    assert "| AdaScale | 19 (1/2) |" in text
    assert "| momentum SGD, re-tuned | 80.0 ± 0.0 |" in text
    assert "at least 47 % fewer updates than AdaScale" in text
    assert "it ends 1.5 points below the base run" in text
    rival = evidence.markdown("fake", runs, target, recommended="adascale")
    assert "18.50 ± 0.50 points behind amplified LENA in accuracy after" in rival
    assert "9 ± 1 updates behind amplified LENA in updates to the target" in rival
    short = evidence.markdown("fake", runs, target, methods=["adascale"], judge=False)
    assert "amplified LENA" not in short
    assert "fake.png" not in short  # one S makes no curve
    wide = [*runs, *(fake_run("adascale", 2, s, [0.8] * 4) for s in (0, 1))]
    assert "](x/fake.png)" in evidence.markdown("fake", wide, target, images="x")
    page = "a\n<!-- fake: made by b -->\nstale\n<!-- /fake -->\nc"
    filled = markers.replace(page, "fake", text)
    assert filled.startswith("a\n<!-- fake: made by b -->\n\nfake: base batch 4")
    assert filled.endswith("<!-- /fake -->\nc")
    assert "stale" not in filled
    assert len(evidence.figure(runs, target).axes) == 2
    assert "**never**" not in evidence.markdown("fake", runs, 0.95)  # nobody's best


def test_the_kept_evidence_is_what_the_pages_show():
    page, readme = evidence.PAGE.read_text(), evidence.README.read_text()
    assert (page, readme) == evidence.filled(page, readme)
