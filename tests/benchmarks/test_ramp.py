"""Batches that grow: what is trained and recorded, and what the pages make of it."""

import dataclasses
import math

import numpy as np
import pytest

import optax_lena
from benchmarks import branch, watch
from benchmarks.branch import Branches
from benchmarks.pages import advice_check, branch_block, ramp_block, ramp_figure
from benchmarks.ramp import __main__ as program
from benchmarks.ramp import run as ramp_run
from benchmarks.ramp.run import Run, Trainer
from benchmarks.ramp.ways import WAYS, Plan, Way
from benchmarks.records import files
from benchmarks.tasks.recipe import EXPONENTIAL
from benchmarks.training import tables
from tests.benchmarks.helpers import tiny_workload


@pytest.fixture
def tiny(monkeypatch):
    """A workload that takes a second, looked at every 16 base batches."""
    monkeypatch.setattr(ramp_run, "EVERY", 16)
    monkeypatch.setattr(branch, "EVERY", 16)
    workload = tiny_workload()
    recipe = dataclasses.replace(workload.recipe, schedule=EXPONENTIAL, epochs=2.2)
    return dataclasses.replace(workload, recipe=recipe, eval_every=32)


def grows(label="grows"):
    schedule = optax_lena.BatchSchedule(((0, 4), (32, 8), (64, 16)))
    return Way(label, lambda recipe, base_steps: Plan(schedule))


@pytest.mark.slow
def test_updates_and_clocks_follow_the_batch(tiny):
    trainer = Trainer(tiny)
    run = trainer.run("by_hand", grows(), seed=0)
    assert run.changes == [[0, 4], [32, 8], [64, 16]]
    steps = np.array(run.evaluated_at)
    assert steps[-1] == tiny.base_steps and np.all(np.diff(steps) == 32)
    assert run.updates == [8, 12] + [12 + (s - 64) // 16 for s in steps[2:]]
    assert {scale for _, scale in trainer.compiled} == {4, 8, 16}
    again = trainer.run("by_hand", grows(), seed=0)
    assert again.accuracy == run.accuracy
    assert len(trainer.compiled) == 3  # nothing was compiled again


@pytest.mark.slow
def test_the_metrics_drive_a_ramp(tiny):
    ramp = optax_lena.BatchRamp(4, 16, theta=1e-3)  # as soon as there is a noise scale
    eager = Way("eager", lambda recipe, base_steps: ramp)
    run = Trainer(tiny).run("ramp", eager, seed=0)
    scales = [scale for _, scale in run.changes]
    assert scales == [4, 8, 16][: len(scales)] and len(scales) > 1


@pytest.mark.parametrize("name", WAYS)
def test_every_way_makes_an_optimizer_and_a_controller(name, tiny):
    recipe, length = tiny.recipe, tiny.base_steps
    state = WAYS[name].control(recipe, length).init()
    assert state["batch_scale"] in (8, 16, 32, 64)
    assert WAYS[name].make(recipe, state["batch_scale"], length).init({"w": np.ones(2)})


def test_doublings_spread_over_what_follows_the_start(tiny):
    control = WAYS["ramp_spread"].control(tiny.recipe, 800)
    state, scales = control.init(), []
    for step in range(100, 900, 100):
        now = {"model/noise_scale": 1e3, "model/base_steps": step}
        state = control.update(state, now)
        scales.append(state["batch_scale"])
    # After 200, 400 and 600; the third is before the next call.
    assert scales == [8, 16, 16, 32, 32, 64, 64, 64]


@pytest.mark.slow
def test_what_is_there_is_not_trained_again(tiny, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(
        tables.TABLES, "text", tables.Table(lambda validation=False: tiny)
    )
    monkeypatch.setitem(WAYS, "by_hand", grows())
    path = tmp_path / "ramp.jsonl"
    arguments = ["text", "--ways", "by_hand", "--seeds", "0", "1", "--out", str(path)]
    program.main(arguments)
    assert [run.seed for run in files.read(path, Run)] == [0, 1]
    assert "by_hand seed 0" in capsys.readouterr().err
    program.main(arguments)
    assert len(files.read(path, Run)) == 2
    assert not capsys.readouterr().err


@pytest.mark.slow
def test_a_branch_test_is_recorded(tiny, monkeypatch):
    monkeypatch.setattr(branch, "SCALES", (1, 2, 4))
    found = branch.branches(Trainer(tiny), seed=0)
    assert found.window == found.checkpoint == tiny.base_steps // branch.SHARE
    assert len(found.losses) == 3 and np.all(np.isfinite(found.losses))


def made(way, seed, accuracy, updates, **fields):
    return Run(
        workload="task",
        way=way,
        seed=seed,
        split="test",
        recipe={"base_batch": 8, "optimizer": "sgd"},
        base_steps=64,
        changes=[[0, 8]],
        evaluated_at=[64],
        updates=[updates],
        accuracy=[accuracy],
        train_loss=[1.0],
        noise_scale=[9.0],
        seconds=1.0,
        environment={"cpus": "2", "device": "cpu", "jax": "0", "commit": "c0ffee"},
    )


def test_the_block_says_whether_the_bar_holds():
    def block(accuracy, updates):
        runs = [made("constant_8", s, 0.9 + 0.01 * s, 100) for s in range(3)]
        runs += [
            made(ramp_block.CHOSEN[-1], s, accuracy + 0.01 * s, updates)
            for s in range(3)
        ]
        group = ramp_block.by_workload(runs)["task", "test"]
        assert ramp_figure.figure(group, "test").axes
        return ramp_block.block(runs)

    held = block(0.905, 50)
    assert "makes 50 % fewer updates" in held and "the bar is met" in held
    for late in (block(0.905, 61), block(0.85, 50)):
        assert "the bar is missed" in late


def test_the_block_compares_branch_and_advice():
    environment = {"cpus": "2", "device": "cpu", "jax": "0", "commit": "c0ffee"}
    losses, scales = [1.0, 1.01, 1.02, 1.5], [1, 8, 16, 32]
    for critical, words in [(10.0, "two agree"), (2.0, "do not agree")]:
        runs = [
            Branches("task", seed, "test", 64, 64, scales, losses, 1.02, critical,
                     [critical / 2, critical * 2], environment)
            for seed in range(3)
        ]  # fmt: skip
        assert branch_block.found(runs).scale == 16
        grown = [made("constant_8", 0, 0.9, 16)]
        grown = [
            dataclasses.replace(run, evaluated_at=[64, 128], noise_scale=[20.0, 90.0],
                                accuracy=[0.5, 0.9], updates=[8, 16])
            for run in grown
        ]  # fmt: skip
        text = branch_block.block(runs, grown)
        assert words in text
        assert "was 20 at the checkpoint, and 90 at the end" in text
        assert "at the checkpoint" not in branch_block.block(runs, [])


def test_steps_to_a_target():
    reached = {0: {8: 10.0, 16: 20.0}, 1: {8: 30.0, 16: math.inf}}
    reached[2] = {8: 80.0, 16: 40.0}
    median = advice_check.Subject("task", {}, reached, True, 0.0, (1, 6))
    mean = dataclasses.replace(median, takes_median=False)
    assert (mean.steps(8, (0, 1, 2)), median.steps(8, (0, 1, 2))) == (40, 30)
    assert median.steps(16, (0, 1, 2)) == 40
    assert median.steps(16, (0, 1)) == math.inf
    assert median.noise_scale((0, 1, 2)) == pytest.approx(16)


def test_left_out():
    values = {0: 1.0, 1: 2.0, 2: 6.0}
    mean = lambda some: float(np.mean([values[k] for k in some]))
    assert advice_check.left_out(mean, (0, 1, 2)) == (3.0, 1.5, 4.0)


@pytest.mark.slow
def test_a_log_holds_every_layer(tiny):
    found = watch.watch("text", Trainer(tiny, watch.SEEN), seed=0)
    noise = [name for name in found.metrics if name.startswith("noise/")]
    assert noise and f"signal/{noise[0].removeprefix('noise/')}" in found.metrics
    assert len(found.metrics["model/noise"]) == tiny.base_steps // ramp_run.EVERY
