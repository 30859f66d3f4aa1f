"""Rows that three seeds cannot decide: which they are, and their block."""

import pytest

from benchmarks.pages import again_block
from benchmarks.records import files
from benchmarks.unseen import __main__ as program
from benchmarks.unseen import bar, run
from benchmarks.unseen.__main__ import AGAIN_SEEDS, FAMILIES, SEEDS
from benchmarks.unseen.run import Score

SGD = FAMILIES["sgd"]
WHERE = {"commit": "c", "cpus": "2", "device": "cpu", "jax": "0"}


def runs(values, seeds):
    """Runs of the words: one for each method and seed, a tenth of a point apart."""
    return [
        Score(
            "words",
            method,
            1 if method == "base" else 16,
            seed,
            0.01,
            value and value + steps * (seed - seeds[0]) / 10,
            WHERE,
        )
        for method, (value, steps) in values.items()
        for seed in seeds
    ]


@pytest.mark.parametrize(
    ("own", "rival", "holds", "hangs"),
    [
        # The allowance is 0.8, 1 % of the base run, or one standard error.
        ((69.3, 1), (70.0, 1), True, False),  # always 0.7 behind: no error
        ((69.1, 1), (70.0, 1), False, True),
        ((70.0, 1), (69.0, 0), True, False),  # ahead by 1.1, error 0.06
        ((68.9, 5), (70.0, 0), True, True),  # -0.6 +- 0.29: 0.2 above the border
        ((69.7, 5), (70.0, 0), True, False),  # +0.2 +- 0.29
        ((69.5, 20), (70.0, 0), True, False),  # +1.5 +- 1.15, border -1.15
        ((67.5, 20), (70.0, 0), True, True),  # -0.5 +- 1.15: 0.65 above it
        ((None, 0), (70.0, 0), False, True),
        ((70.0, 0), (None, 0), True, False),
    ],
)
def test_a_verdict_hangs_on_its_seeds_near_the_border(own, rival, holds, hangs):
    values = {"base": (80.0, 0), "lena": rival, "lena_amplified": own}
    scores = bar.of_seeds(runs(values, SEEDS), SEEDS)
    (verdict,) = bar.verdicts(SGD, scores)
    assert (verdict.holds, verdict.hangs) == (holds, hangs)


def test_scores_of_some_of_the_seeds_are_no_row():
    values = {"base": (80.0, 0), "lena_amplified": (70.0, 0)}
    recorded = runs(values, SEEDS)
    assert not bar.verdicts(SGD, bar.of_seeds(recorded[:-1], SEEDS))
    assert not bar.verdicts(SGD, bar.of_seeds(recorded, AGAIN_SEEDS))


def test_the_variants_of_the_recommended_method_are_no_rivals():
    assert {"lena", "adascale", "linear"} <= set(SGD.rivals)
    assert not {SGD.recommended, *SGD.own} & set(SGD.rivals)
    assert set(SGD.compared) == {SGD.recommended, *SGD.rivals}


@pytest.mark.slow
def test_again_runs_the_methods_of_the_rows_that_hang(monkeypatch, tmp_path):
    path = tmp_path / "unseen.jsonl"
    monkeypatch.setattr(program, "kept", lambda name: path)
    monkeypatch.setattr(run, "BASE_STEPS", 64)
    values = {"base": (80.0, 0), "lena": (70.0, 0), "lena_amplified": (60.0, 0)}
    before = runs(values, SEEDS)
    files.append(before, path)
    command = ["--again", "--methods", "lena", "lena_amplified"]
    program.main(command)
    new = files.read(path, Score)[len(before) :]
    assert {(one.task, one.batch_scale) for one in new} == {("words", 1), ("words", 16)}
    assert [one.seed for one in new] == 3 * list(AGAIN_SEEDS)
    assert {one.method for one in new} == {"base", "lena", "lena_amplified"}


def test_the_block_sets_both_verdicts_side_by_side():
    first = {"base": (80.0, 0), "lena": (70.0, 0), "lena_amplified": (69.0, 0)}
    again = {"base": (80.0, 0), "lena": (70.0, 0), "lena_amplified": (69.5, 1)}
    recorded = runs(first, SEEDS)
    assert not again_block.block(recorded, "sgd")
    recorded += runs(again, AGAIN_SEEDS)
    text = again_block.block(recorded, "sgd")
    row = "| -1.0 ± 0.0 | missed | LENA, 70.0 ± 0.0 | -0.2 ± 0.1 | holds |"
    assert f"| words * | 16 {row}" in text
    assert "Of 1 rows that the table has as *missed*, 1 hold the bar" in text
    assert "Of 0 rows that the table has as *holds by less than" in text
    said = "With six other seeds for the 1 rows that three seeds cannot decide, 1 of 1"
    assert said in text
    assert text.rstrip().endswith(
        "by `python -m benchmarks.unseen --recipe sgd --again`."
    )


def test_where_nothing_hangs_there_is_no_block():
    values = {"base": (80.0, 0), "lena": (70.0, 0), "lena_amplified": (75.0, 0)}
    assert not again_block.block(runs(values, SEEDS), "sgd")
