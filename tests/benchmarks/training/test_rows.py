"""Rows and tables: what is recorded, what is tuned, and what is there already."""

import dataclasses
import json

import pytest

from benchmarks import suite, train
from benchmarks.methods.registry import METHODS
from benchmarks.records import files
from benchmarks.records.record import read_records
from benchmarks.tasks.catalogue import DIGITS
from benchmarks.tasks.recipe import TARGET_DROP
from benchmarks.training import loop, tables
from tests.benchmarks.helpers import errors_of, record, tiny_workload


def test_every_method_of_every_table_exists():
    for table in tables.TABLES.values():
        assert table.methods[0] == "base"
        assert len(set(table.methods)) == len(table.methods)
        assert set(table.methods) <= set(METHODS)
        for method in table.methods:
            assert METHODS[method].tuned_as in ("", *table.methods)


def test_one_row_is_trained_once_from_the_command_line(tmp_path, monkeypatch, capsys):
    table = tables.Table(lambda validation=False: tiny_workload(), ("base", "lena"))
    monkeypatch.setitem(tables.TABLES, "digits", table)
    row = ["digits", "lena", "4", "--rate", "0.125"]
    out = ["--out", str(tmp_path / "new" / "rows.jsonl")]
    train.main([*row, "--seeds", "2", "3", *out])
    runs = read_records(tmp_path / "new" / "rows.jsonl")
    assert [(each.method, each.batch_scale, each.seed) for each in runs] == [
        ("lena", 4, 2),
        ("lena", 4, 3),
    ]
    assert {each.learning_rate for each in runs} == {0.125}
    assert capsys.readouterr().out == ""

    asked = []
    monkeypatch.setattr(
        loop, "run", lambda workload, config, tell: asked.append(config.seeds) or runs
    )
    train.main([*row, "--seeds", "3", "2", *out])
    assert not asked
    assert "holds these runs already" in capsys.readouterr().err
    train.main([*row, "--seeds", "3", "5", *out])
    assert asked == [(5,)]
    train.main(row)
    printed = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["seed"] for line in printed] == [2, 3]


@pytest.fixture
def trained(monkeypatch):
    """The configurations that `benchmarks.suite` trains on a table named `toy`.

    Nothing is trained: accuracy is best at a rate of 4.
    """
    calls = []

    def run(workload, config, on_progress, target=None):
        calls.append((workload.split, config, target))
        recipe = workload.at_rate(config.rate).recipe
        updates = [100 // config.batch_scale]
        return [
            record(
                config.method,
                config.batch_scale,
                0.0,
                workload=workload.title,
                seed=seed,
                recipe=dataclasses.asdict(recipe),
                split=workload.split,
                updates=updates,
                base_steps=100 // config.batch_scale * config.batch_scale,
                train_loss=[1.0],
                test_accuracy=[1 - abs(recipe.learning_rate - 4) / 100],
                layers={},
            )
            for seed in config.seeds
        ]

    def load(validation=False):
        split = "validation" if validation else "test"
        return dataclasses.replace(tiny_workload(), split=split)

    table = tables.Table(load, ("base", "linear", "lars_tuned"), scales=(8,))
    monkeypatch.setitem(tables.TABLES, "toy", table)
    monkeypatch.setattr(loop, "run", run)
    return calls


def test_a_table_that_is_started_again_trains_what_is_missing(trained, tmp_path):
    path = tmp_path / "toy.jsonl"
    command = ["toy", "--scales", "8", "--out", str(path)]
    suite.main([*command, "--methods", "base", "linear"])
    done = [(config.method, config.batch_scale) for _, config, _ in trained]
    assert done == [("base", 1), ("linear", 8)]
    base, linear = trained
    assert base[2] is None
    accuracy = 1 - (4 - DIGITS.learning_rate) / 100
    assert linear[2] == pytest.approx(accuracy - TARGET_DROP, abs=1e-4)

    trained.clear()
    suite.main(command)
    assert {config.method for _, config, _ in trained} == {"lars_tuned"}
    trained.clear()
    text = path.read_text()
    suite.main(command)
    assert not trained and path.read_text() == text


def test_a_table_tunes_on_validation_data_and_goes_on_where_it_stopped(
    trained, tmp_path
):
    command = ["toy", "--scales", "8", "--out", str(tmp_path / "toy.jsonl")]
    suite.main([*command, "--methods", "base"])
    trained.clear()
    suite.main([*command, "--methods", "lars_tuned"])
    *tuning, (split, config, _) = trained
    assert [each.rate for _, each, _ in tuning] == list(METHODS["lars_tuned"].rates)
    assert {split for split, _, _ in tuning} == {"validation"}
    assert {each.seeds for _, each, _ in tuning} == {(100,)}
    assert (split, config.rate, config.seeds) == ("test", 4.0, (0, 1, 2))

    # What was tuned is not tuned again.
    lines = (tmp_path / "toy.jsonl").read_text().splitlines()
    (tmp_path / "toy.jsonl").write_text("\n".join(lines[:-4]) + "\n")
    trained.clear()
    suite.main([*command, "--methods", "lars_tuned"])
    assert [each.rate for _, each, _ in trained] == [
        METHODS["lars_tuned"].rates[-1],
        4.0,
    ]


def test_a_method_is_tuned_by_all_of_its_seeds(trained, tmp_path, monkeypatch):
    """Seeds that are there are not trained again."""
    path = tmp_path / "toy.jsonl"
    command = ["toy", "--scales", "8", "--out", str(path)]
    suite.main([*command, "--methods", "base", "lars_tuned"])
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-3]) + "\n")
    tuned = dataclasses.replace(METHODS["lars_tuned"], tuning_seeds=(100, 101, 102))
    monkeypatch.setitem(METHODS, "lars_tuned", tuned)
    trained.clear()
    suite.main([*command, "--methods", "lars_tuned"])
    *tuning, (split, config, _) = trained
    assert {each.seeds for _, each, _ in tuning} == {(101, 102)}
    assert len(tuning) == len(tuned.rates)
    assert (split, config.rate) == ("test", 4.0)


def test_a_table_needs_its_base_run_first(trained, tmp_path, capsys):
    command = ["toy", "--methods", "linear", "--out", tmp_path / "toy.jsonl"]
    line, code = errors_of(suite.main, command, capsys)
    assert code == 2 and not trained
    assert "must hold the base run of all 3 seeds first, got less" in line


def test_a_table_does_not_mix_with_records_of_another(trained, tmp_path, capsys):
    path = tmp_path / "toy.jsonl"
    files.append([record("base", 1, 0.9, workload="another")], path)
    line, code = errors_of(suite.main, ["toy", "--out", path], capsys)
    assert code == 2 and not trained
    assert "must hold records of 'digits', got some of 'another'" in line
