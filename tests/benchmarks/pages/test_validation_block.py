"""What validation data said: a grid of rates, and an ablation."""

from benchmarks.pages import validation_block
from tests.benchmarks.helpers import run_of_base_examples


def run(method, scale, accuracy, rate=0.01, seed=100):
    return run_of_base_examples(method, scale, accuracy, seed, "validation", rate)


def test_a_row_for_each_method_and_a_column_for_each_rate():
    runs = [
        run("base", 1, 0.9),
        run("adamw_tuned", 16, 0.5, rate=0.01),
        run("adamw_tuned", 16, 0.6, rate=0.02),
        run("adamw_transferred_tuned", 16, 0.55, rate=0.02),
    ]
    said, table = validation_block.parts(runs, [])
    assert "1 seed." in said
    assert "| S | method | 0.01 | 0.02 |" in table
    assert "| 16 | AdamW, re-tuned | 50.0 | **60.0** |" in table
    assert "| 16 | AdamW, re-tuned, averages count examples |  | 55.0 |" in table


def test_an_ablation_has_a_column_for_each_scale():
    names = ["muon_transferred_80", "muon_transferred"]
    runs = [
        *(run(names[0], 16, 0.5 + s / 100, seed=100 + s) for s in (0, 1)),
        run(names[1], 64, 0.4),
    ]
    said, table = validation_block.parts(runs, names)
    assert "means of 1 to 2 seeds." in said
    first, _, low, own = table.splitlines()
    assert first == "| method | S = 16 | S = 64 |"
    assert low.endswith("momentum ≥ 0.8 | 50.5 |  |")
    assert own.endswith("|  | 40.0 |")


def test_without_runs_it_says_nothing():
    assert validation_block.parts([run("base", 1, 0.9)], ["muon_transferred"]) == []
