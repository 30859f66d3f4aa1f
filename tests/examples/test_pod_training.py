"""The pod program trains, resumes to the last bit, and tells what changed."""

import os
import signal

import jax
import pytest

from examples.pod_training import loop
from tests.examples.pod import back_to, metrics, run, steps

pytestmark = pytest.mark.slow
MESH, FLOAT32 = ("--mesh.fsdp", 2, "--mesh.tensor", 2), ("--model.dtype", "float32")


@pytest.fixture(autouse=True)
def as_users_run_it():
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A whole run on a mesh of 2 x 2 x 2."""
    out = tmp_path_factory.mktemp("pod") / "run"
    with jax.numpy_rank_promotion("allow"):
        assert run(out, *MESH, *FLOAT32) == 0
    return out


def test_it_trains_and_leaves_what_it_should(trained):
    rows = metrics(trained)
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < losses[0] < 5.6  # log(256) is 5.55
    assert [row["updates"] for row in rows if "test_loss" in row] == [4, 8]
    assert rows[-2]["base_steps"] == 64
    assert 1 <= rows[0]["trust_ratio/blocks/merge/kernel[1]"] <= 8
    assert steps(trained) == [6, 8]
    for name in ("losses.png", "trust_ratios.png"):
        assert (trained / name).stat().st_size > 10_000
    assert list((trained / "tensorboard").iterdir())


def test_it_goes_on_to_the_same_metrics_on_other_devices(trained, tmp_path, capsys):
    """Half a row that a kill left, and the rows behind the checkpoint, are dropped."""
    out = back_to(trained, 6, tmp_path / "again")
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"updates": 9, "lo')
    other = ("--mesh.fsdp", 1, "--mesh.tensor", 4)
    assert run(out, *other, *FLOAT32) == 0
    assert "after update 6; changed: mesh.fsdp 2 -> 1, mesh.tensor 2 -> 4" in (
        capsys.readouterr().out
    )
    for one, other in zip(metrics(trained), metrics(out), strict=True):
        assert other == pytest.approx(one, rel=1e-2, abs=1e-4)
        assert (one == other) == (one["updates"] <= 6)


def test_a_finished_run_stays_as_it_is(trained, tmp_path, capsys):
    out = back_to(trained, 8, tmp_path / "again")
    assert run(out, *MESH, *FLOAT32) == 0
    assert "goes on after update 8; changed: nothing" in capsys.readouterr().out
    assert metrics(out) == metrics(trained)


def test_sigterm_saves_and_says_so_by_its_code(tmp_path, monkeypatch, capsys):
    """Sent to this process once it has made an update, as a scheduler sends it."""
    log = loop.Job._log

    def log_and_be_told(self, *arguments):
        log(self, *arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop.Job, "_log", log_and_be_told)
    before = signal.getsignal(signal.SIGTERM)
    assert run(tmp_path, "--save-every", 100, "--log-every", 1) == 75
    assert steps(tmp_path) == [1]
    assert "stopped after update 1" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) == before
