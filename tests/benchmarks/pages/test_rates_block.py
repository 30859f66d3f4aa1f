"""The block of the base rate: its grid, and methods at two of its rates."""

from benchmarks.pages import rates_block
from benchmarks.tasks.catalogue import TEXT
from tests.benchmarks.helpers import record


def run(method, scale, accuracy, rate, seed=0, split="test"):
    recipe = {"learning_rate": rate, "base_batch": TEXT.base_batch}
    return record(method, scale, accuracy, seed=seed, recipe=recipe, split=split)


def test_the_grid_and_both_rates():
    table = [run("base", 1, 0.6, 0.05), run("linear", 64, 0.4, 0.05)]
    table.append(run("lena", 64, 0.45, 0.05))
    others = [
        run("base", 1, accuracy, rate, seed, "validation")
        for rate, accuracy in ((0.1, 0.58), (0.05, 0.57))
        for seed in (100, 101)
    ]
    others += [run("linear", 64, 0.41, 0.1), run("lena", 64, 0.5, 0.1)]
    text = rates_block.block("text", table, others)
    assert "mean ± standard error of 2 seeds" in text
    assert "| rate | 0.05 | 0.1 |" in text
    assert "| base run | 57.0 ± 0.0 | 58.0 ± 0.0 |" in text
    rows = [line for line in text.splitlines() if "| 64 |" in line]
    assert rows == [
        "| LENA | 64 | 45.0 | 50.0 |",
        "| linear scaling | 64 | 40.0 | 41.0 |",
    ]


def test_a_grid_alone():
    table = [run("base", 1, 0.6, 0.05)]
    others = [
        run("base", 1, accuracy, rate, seed, "validation")
        for rate, accuracy in ((0.1, 0.58), (0.05, 0.57))
        for seed in (100, 101)
    ]
    text = rates_block.block("images", table, others)
    assert "| base run | 57.0 ± 0.0 | 58.0 ± 0.0 |" in text
    assert "Test accuracy" not in text
    assert "python -m benchmarks.train images METHOD S" in text
