"""Benchmarks' tables: methods, rows, and the programs that record them."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from benchmarks.ablations import EVERY
from benchmarks.gpt import GPT

from benchmarks import (
    adam_methods,
    data,
    plan,
    records,
    suite,
    tables,
    train,
    workloads,
)
from tests.benchmark_helpers import record, tiny_workload, write_mnist

RNG = np.random.default_rng(0)


def tiny_gpt():
    x = RNG.integers(0, 20, (64, 9), np.int32)
    dataset = data.Dataset("toy", 20, x[:, :-1], x[:, 1:], x[:8, :-1], x[:8, 1:])
    recipe = dataclasses.replace(workloads.CHARACTERS, base_batch=2, epochs=2)

    def make(rngs):
        return GPT(20, 8, rngs=rngs, features=8, heads=2, layers=1)

    return workloads.Workload(dataset, make, recipe, eval_every=16)


def test_lena_adamw_trains_a_gpt_on_the_gradient_as_adam_divides_it():
    config = plan.Config("lena_adamw_no_warmup", 4, seeds=(0,))
    (own,) = train.run(tiny_gpt(), config)
    assert len(own.updates) == 4 and np.isfinite(own.train_loss).all()
    # Adam's first five updates are not measured: one evaluation is four updates.
    ratios = [values for key, values in own.layers.items() if "trust_ratio" in key]
    assert {values[0] for values in ratios} == {1.0}
    assert all(1 < values[-1] <= 2 for values in ratios)


def test_a_method_of_sgd_refuses_a_recipe_of_adamw():
    with pytest.raises(ValueError, match="recipes of 'sgd', got one of 'adamw'"):
        EVERY["lena"].make(workloads.CHARACTERS, 4, 100)
    with pytest.raises(ValueError, match="recipes of 'adamw', got one of 'sgd'"):
        EVERY["lena_adamw"].make(workloads.DIGITS, 4, 100)


@pytest.mark.parametrize("method", adam_methods.COMPARED)
def test_every_method_of_the_gpt_takes_its_recipe(method):
    tx = EVERY[method].make(workloads.CHARACTERS, 4, 100)
    jax.eval_shape(tx.init, {"w": jnp.zeros((2, 2))})


@pytest.mark.parametrize(("power", "method"), [(1, "linear"), (0.5, "square_root")])
def test_adamw_is_scaled_by_a_power_and_warmed_up(power, method):
    recipe = dataclasses.replace(workloads.CHARACTERS, schedule=workloads.CONSTANT)
    recipe = dataclasses.replace(recipe, weight_decay=0.0)
    tx = EVERY[f"adamw_{method}"].make(recipe, 4, 400)  # 20 steps, 5 updates
    params = jnp.ones(())
    state, found = tx.init(params), []
    for _ in range(7):
        update, state = tx.update(jnp.ones(()), state, params)
        found.append(float(update))
    factor = np.array([0.2, 0.4, 0.6, 0.8, 1, 1, 1])
    expected = -recipe.learning_rate * 4**power * factor
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_every_method_of_every_table_exists():
    for table in tables.TABLES.values():
        assert table.methods[0] == "base"
        assert len(set(table.methods)) == len(table.methods)
        assert set(table.methods) <= set(EVERY)
        for method in table.methods:
            assert EVERY[method].tuned_as in ("", *table.methods)


@pytest.mark.parametrize("program", [suite.main, train.main])
def test_a_table_says_that_it_needs_a_folder(program):
    row = ["lena", "8"] if program is train.main else []
    with pytest.raises(SystemExit, match=r"'cifar10' needs .* got none.*`--data"):
        program(["cifar10", *row])


def test_a_table_of_cifar10_refuses_another_data_set(tmp_path):
    write_mnist(tmp_path / "fashion", compress=False)
    with pytest.raises(SystemExit, match=r"must hold CIFAR-10, got fashion in"):
        train.main(["cifar10", "base", "1", "--data", str(tmp_path / "fashion")])


def test_a_full_size_table_trains_its_seeds_one_by_one(monkeypatch):
    def run_one(workload, config, on_progress, target):
        on_progress(0.5)
        on_progress(1.2)
        return [(config.seeds, config.rate, target)]

    run, shares = train.run, []
    monkeypatch.setattr(train, "run", run_one)
    workload = dataclasses.replace(tiny_workload(), side_by_side=False)
    config = plan.Config("base", 1, seeds=(3, 5), rate=0.5)
    found = run(workload, config, shares.append, target=0.9)
    assert found == [((3,), 0.5, 0.9), ((5,), 0.5, 0.9)]
    assert shares == [0.25, 0.5, 0.75, 1]


def test_one_row_is_trained_from_the_command_line(tmp_path, monkeypatch, capsys):
    table = tables.Table(lambda validation=False: tiny_workload(), ("base", "lena"))
    monkeypatch.setitem(tables.TABLES, "digits", table)
    row = ["digits", "lena", "4", "--rate", "0.125", "--seeds", "2", "3"]
    train.main([*row, "--out", str(tmp_path / "new" / "rows.jsonl")])
    runs = records.read(tmp_path / "new" / "rows.jsonl")
    assert [(run.method, run.batch_scale, run.seed) for run in runs] == [
        ("lena", 4, 2),
        ("lena", 4, 3),
    ]
    assert {run.recipe["learning_rate"] for run in runs} == {0.125}
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(train, "run", lambda *args: runs)
    train.main(row)
    printed = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["seed"] for line in printed] == [2, 3]


def test_the_command_line_of_a_row_asks_for_a_rate_and_an_s_that_divides(monkeypatch):
    monkeypatch.setitem(tables.TABLES, "digits", tables.Table(tiny_workload))
    with pytest.raises(SystemExit, match="'lars_tuned' .*`--rate` must be given"):
        train.main(["digits", "lars_tuned", "4"])
    with pytest.raises(SystemExit, match="'lena_lars' .*`--rate` must be given"):
        train.main(["digits", "lena_lars", "4"])
    with pytest.raises(SystemExit, match="`batch_scale` must divide the 8"):
        train.main(["digits", "lena", "3"])


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
                seed=seed,
                recipe=dataclasses.asdict(recipe),
                split=workload.split,
                updates=updates,
                train_loss=[1.0],
                test_accuracy=[1 - abs(recipe.learning_rate - 4) / 100],
                layers={},
            )
            for seed in config.seeds
        ]

    def load(validation=False):
        split = "validation" if validation else "test"
        return dataclasses.replace(tiny_workload(), split=split)

    table = tables.Table(load, ("base", "linear", "lars_tuned"))
    monkeypatch.setitem(tables.TABLES, "toy", table)
    monkeypatch.setattr(train, "run", run)
    return calls


def test_a_table_that_is_started_again_trains_what_is_missing(trained, tmp_path):
    path = tmp_path / "toy.jsonl"
    command = ["toy", "--scales", "10", "--out", str(path)]
    suite.main([*command, "--methods", "base", "linear"])
    done = [(config.method, config.batch_scale) for _, config, _ in trained]
    assert done == [("base", 1), ("linear", 10)]
    base, linear = trained
    assert base[2] is None
    accuracy = 1 - (4 - workloads.DIGITS.learning_rate) / 100
    assert linear[2] == pytest.approx(accuracy - workloads.TARGET_DROP, abs=1e-4)

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
    command = ["toy", "--scales", "10", "--out", str(tmp_path / "toy.jsonl")]
    suite.main([*command, "--methods", "base"])
    trained.clear()
    suite.main([*command, "--methods", "lars_tuned"])
    *tuning, (split, config, _) = trained
    assert [each.rate for _, each, _ in tuning] == list(EVERY["lars_tuned"].rates)
    assert {split for split, _, _ in tuning} == {"validation"}
    assert {each.seeds for _, each, _ in tuning} == {(suite.TUNING_SEED,)}
    assert (split, config.rate, config.seeds) == ("test", 4.0, (0, 1, 2))

    # What was tuned is not tuned again.
    lines = (tmp_path / "toy.jsonl").read_text().splitlines()
    (tmp_path / "toy.jsonl").write_text("\n".join(lines[:-4]) + "\n")
    trained.clear()
    suite.main([*command, "--methods", "lars_tuned"])
    assert [each.rate for _, each, _ in trained] == [EVERY["lars_tuned"].rates[-1], 4.0]


def test_a_table_needs_its_base_run_first(trained, tmp_path):
    path = tmp_path / "toy.jsonl"
    with pytest.raises(SystemExit, match="must hold the base run first.*got none"):
        suite.main(["toy", "--methods", "linear", "--out", str(path)])
    assert not trained
