"""The pod program trains, resumes to the last bit, and tells what changed."""

import os
import re
import shutil
import signal
import socket
import time

import jax
import pytest

from examples.pod_training import loop
from tests.examples.pod import TINY, back_to, metrics, run, run_code, start, steps

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
        assert one == other or one["updates"] > 6


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


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def cut_all(folder):
    for path in folder.iterdir():
        cut(path)


DAMAGE = {
    "half of the arrays": lambda state: cut_all(state / "d"),
    "no arrays": lambda state: shutil.rmtree(state / "d"),
    "half of the list of arrays": lambda state: cut(state / "_METADATA"),
    "no list of contents": lambda state: (state / "manifest.ocdbt").unlink(),
    "nothing": lambda state: shutil.rmtree(state),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_arrays_are_one_line(name, trained, tmp_path):
    out = back_to(trained, 8, tmp_path / "again")
    DAMAGE[name](out / "checkpoints/8/state")
    program = start(out, *FLOAT32)
    told = program.communicate(timeout=900)[1]
    assert program.returncode == 2
    assert re.fullmatch(
        "pod_training: the checkpoint .*/8 is damaged .* to go on from update 6.\n",
        told,
    )


# A disk that is full from there on, for this process: Python ignores the signal.
@pytest.mark.parametrize(
    "room, line",
    [
        (5_000, "File too large"),
        (40_000, "could not save in .*checkpoints .*: make room"),
    ],
    ids=["metrics", "checkpoints"],
)
def test_a_full_disk_is_one_line(room, line, tmp_path):
    out = tmp_path / "run"
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({room},) * 2)"
    main = 'runpy.run_module("examples.pod_training", run_name="__main__")'
    options = [*TINY, "--out", str(out), "--log-every", 2 if room < 10_000 else 1000]
    options += ["--eval-every", 1000, "--model.features", 64]
    arguments = ["pod_training", *map(str, options)]
    code = f"import runpy, sys; {limit}; sys.argv = {arguments}; {main}"
    program = run_code(code)
    told = program.communicate(timeout=900)[1].splitlines()
    assert program.returncode == 2, told
    assert len(told) == 1 and re.search(line, told[0]), told


def lines_of(programs):
    """Waits for all; returns what each said on stderr."""
    return [program.communicate(timeout=900)[1] for program in programs]


def together(out, *options):
    """Starts two processes of one job."""
    with socket.socket() as server:  # a port that nobody uses
        server.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{server.getsockname()[1]}"
    options += ("--processes.join", "auto", "--processes.coordinator", address)
    options += ("--processes.count", 2, "--processes.index")
    return [start(out, *options, index) for index in range(2)]


@pytest.mark.parametrize("killed", [0, 1])
def test_of_two_processes_one_is_killed_and_the_job_resumes(killed, tmp_path):
    out = tmp_path / "run"
    programs = together(out, "--recipe.base-steps", 10**6, "--log-every", 1)
    deadline = time.monotonic() + 900
    while not (out / "checkpoints/4").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    programs[killed].kill()
    start = time.monotonic()
    told = lines_of([programs[1 - killed], programs[killed]])[0]
    assert time.monotonic() - start < 60
    code = programs[1 - killed].returncode
    # The first process holds JAX's service, whose end may abort the other one sooner.
    if killed == 0 and code == -signal.SIGABRT:
        assert "JAX distributed service detected fatal errors" in told, told
    else:
        assert "another process of the job is gone" in told, told
        assert code == 75
    before = steps(out)[-1]
    end = ("--recipe.base-steps", 8 * (before + 4), "--log-every", 1)
    again = together(out, *end)
    lines_of(again)
    assert [program.returncode for program in again] == [0, 0]
    rows = [row["updates"] for row in metrics(out) if "loss" in row]
    assert rows == list(range(1, before + 5))


def test_sigterm_to_one_of_two_processes_saves_both(tmp_path):
    out = tmp_path / "run"
    programs = together(out, "--recipe.base-steps", 10**6, "--save-every", 10**6)
    deadline = time.monotonic() + 900
    while len(metrics(out)) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    programs[1].terminate()
    lines_of(programs)
    assert [program.returncode for program in programs] == [75, 75]
    assert len(steps(out)) == 1
