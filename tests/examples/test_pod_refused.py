"""What the pod program refuses: one line, exit code 2, and nothing lost."""

import dataclasses
import re
import shlex
import shutil

import jax
import numpy as np
import pytest

from examples.pod_training import config, loop, step, task
from tests.examples.pod import TINY, run

# Options as they are typed, and what the line must say. MISSING, EMPTY, FILE and the
# like are places that the fixture `places` makes.
BAD_OPTIONS = {
    "--batch x": "--batch: invalid literal",
    "--batch 0": "--batch must be at least 1, got 0",
    "--batch -8": "--batch must be at least 1, got -8",
    "--batch 33": "--batch must be a multiple of the base batch, 4, got 33",
    "--batch 36": "--microbatches must divide the batch, 36, .* got 72",
    "--microbatches 1": "--microbatches must be 0, or from 2 and divide batch, got 1",
    "--microbatches 3": "--microbatches must be 0, or from 2 and divide batch, got 3",
    "--microbatches 4": "--microbatches must .* multiple of the 8 devices .* got 4",
    "--seed -1": "--seed must be at least 0, got -1",
    "--save-every 0": "--save-every must be at least 1, got 0",
    "--keep 0": "--keep must be at least 1, got 0",
    "--log-every -5": "--log-every must be at least 1, got -5",
    "--eval-every 0": "--eval-every must be at least 1, got 0",
    "--eval-batches 0": "--eval-batches must be at least 1, got 0",
    "--model.blocks 0": "--model.blocks must be at least 1, got 0",
    "--model.features 0": "--model.features must be at least 1, got 0",
    "--model.heads 0": "--model.heads must be at least 1, got 0",
    "--model.heads 3": "--model.heads must divide 16 features, got 3",
    "--model.context 0": "--model.context must be at least 1, got 0",
    "--model.context 1e3": "--model.context: invalid literal .*'1e3'",
    "--model.dropout 1": r"--model.dropout must be in \[0, 1\), got 1.0",
    "--model.dropout nan": r"--model.dropout must be in \[0, 1\), got nan",
    "--model.dtype float16": "invalid choice 'float16' .*--model.dtype",
    "--recipe.optimizer adam": "invalid choice 'adam' .*--recipe.optimizer",
    "--recipe.base-batch 0": "--recipe.base-batch must be at least 1, got 0",
    "--recipe.base-steps 0": "--recipe.base-steps must be at least 1, got 0",
    "--recipe.learning-rate 0": "--recipe.learning-rate must be positive .* got 0.0",
    "--recipe.learning-rate inf": "--recipe.learning-rate must be .* got inf",
    "--recipe.learning-rate nan": "--recipe.learning-rate must be .* got nan",
    "--recipe.weight-decay -1": "--recipe.weight-decay must be finite .* got -1.0",
    "--mesh.data 0": "--mesh.data must be -1 or at least 1, got 0",
    "--mesh.data -2": "--mesh.data must be -1 or at least 1, got -2",
    "--mesh.data 3": "must be the 8 devices, got 3 x 1 x 1",
    "--mesh.fsdp 0": "--mesh.fsdp must be at least 1, got 0",
    "--mesh.tensor 16": "must be the 8 devices, got -1 x 1 x 16",
    "--mesh.fsdp 8 --model.features 12": "--mesh.fsdp must divide 12, .* got 8",
    "--processes.join no": "invalid choice 'no' .*--processes.join",
    "--processes.coordinator here": "--processes.coordinator must be host:port",
    "--processes.count 0": "--processes.count must be at least 1, got 0",
    "--processes.count 2": "--processes.coordinator must be host:port, got ''",
    "--processes.index 1": r"--processes.index must be in \[0, 1\), got 1",
    "--processes.cpu-devices -1": "--processes.cpu-devices must be at least 0",
    "--nope 1": "Unrecognized options: --nope",
    "--out": "--out",
    "--out FILE": "File exists: .*file",
    "--out FILE/below": "Not a directory: .*below",
    "--out /proc/below": "No such file or directory: '/proc/below'",
    "--data MISSING": "--data must hold train.bin and test.bin, got .*No such file",
    "--data EMPTY": "--data must hold .* got .*train.bin: .*No such file",
    "--data FILE": "--data must hold .* got .*train.bin: .*Not a directory",
    "--data NO_BYTES": "--data must hold .* got .*train.bin: cannot mmap an empty file",
    "--data FOLDERS": "--data must hold .* got .*train.bin: .*Is a directory",
    "--data SHORT": "training data must hold a batch of 32 windows .* got 12",
    "--data SHORT_TEST": "test data must hold a batch of 32 windows .* got 12",
}
OTHER_RUNS = {
    "--model.blocks 3": "model.blocks must stay 2, as in the checkpoint, got 3",
    "--model.dropout 0.5": "model.dropout must stay 0.1, as in the checkpoint, got 0.5",
    "--recipe.optimizer lena": "recipe.optimizer must stay 'lena_adamw', .* got 'lena'",
    "--recipe.base-batch 8": "recipe.base_batch must stay 4, as in the .* got 8",
    "--seed 1": "seed must stay 0, as in the checkpoint, got 1",
    "--data BYTES": "data must stay '[0-9a-f]{16}', as in the checkpoint, got '",
}
LATEST = "checkpoints/4"


@pytest.fixture(autouse=True)
def as_users_run_it():
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def places(tmp_path):
    """By name in the tables above: files and folders, none as it should be."""
    found = {name: tmp_path / name.lower() for name in ("MISSING", "EMPTY", "FOLDERS")}
    found["EMPTY"].mkdir()
    (found["FOLDERS"] / "train.bin").mkdir(parents=True)
    lengths = {"NO_BYTES": (0, 0), "SHORT": (100, 999), "SHORT_TEST": (999, 100)}
    for name, (train, test) in {**lengths, "BYTES": (999, 999)}.items():
        found[name] = tmp_path / name.lower()
        found[name].mkdir()
        (found[name] / "train.bin").write_bytes(bytes(train))
        (found[name] / "test.bin").write_bytes(bytes(test))
    found["FILE"] = tmp_path / "file"
    found["FILE"].write_text("mine")
    return found


def without_compiling(*arguments):
    """The program, but its first state is of zeros, which cost no time."""
    program = step.make_program(*arguments)
    zeros = lambda x: jax.device_put(np.zeros(x.shape, x.dtype), x.sharding)
    return program._replace(init=lambda seed: jax.tree.map(zeros, program.abstract))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run with checkpoints after 2 and 4 updates, which nobody had to train."""
    out = tmp_path_factory.mktemp("pod") / "run"
    options = config.parse([*TINY, "--out", str(out)])
    with pytest.MonkeyPatch.context() as patch, jax.numpy_rank_promotion("allow"):
        patch.setattr(loop, "make_program", without_compiling)
        job = loop.Job(options, task.make_task(options))
        for updates in (2, 4):
            job.updates, job.examples = updates, 32 * updates
            count = jax.device_put(np.int32(updates), job.state.updates.sharding)
            job.state = job.state._replace(updates=count)
            job._save()
        job.checkpoints.close()
        job.log.close()
    return out


def typed(text, places):
    names = "|".join(places)
    put = lambda word: re.sub(rf"^({names})\b", lambda m: str(places[m[1]]), word)
    return [put(word) for word in shlex.split(text)]


def whole(folder):
    """Every file of a folder with what it holds."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in files}


def refused(capsys, out, *options):
    """Returns the one line by which options were refused."""
    assert run(out, *options) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1, told
    assert told[0].startswith("pod_training: ")
    return told[0]


@pytest.mark.parametrize("text", BAD_OPTIONS)
def test_a_bad_option_is_one_line(text, places, tmp_path, capsys):
    before = whole(tmp_path)
    line = refused(capsys, tmp_path / "out", *typed(text, places))
    assert re.search(BAD_OPTIONS[text], line), line
    assert whole(tmp_path) == before


@pytest.mark.parametrize("text", OTHER_RUNS)
def test_the_checkpoint_of_another_run_is_one_line(text, places, saved, capsys):
    before = whole(saved)
    line = refused(capsys, saved, *typed(text, places))
    assert re.search(OTHER_RUNS[text], line), line
    assert whole(saved) == before


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = {
    "half of what the run was": lambda latest: cut(latest / "run/metadata"),
    "nothing of what the run was": lambda latest: shutil.rmtree(latest / "run"),
}


# Damaged arrays stand in test_pod_training.py: what tensorstore tells of them in the
# background would be another test's warning.
@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_checkpoint_is_one_line(name, saved, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(saved, out)
    DAMAGE[name](out / LATEST)
    before = whole(out)
    line = refused(capsys, out)
    told = r"the checkpoint .*/4 is damaged \(.+\): move it away to go on from update 2"
    assert re.search(told, line), line
    assert whole(out) == before


def test_without_the_damaged_one_it_goes_on(saved, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(saved, out)
    shutil.move(out / LATEST, tmp_path / "away")
    options = config.parse([*TINY, "--out", str(out)])
    job = loop.Job(options, task.make_task(options))
    assert (job.updates, job.examples) == (2, 64)
    assert "goes on after update 2; changed: nothing" in capsys.readouterr().out
    job.checkpoints.close()
    job.log.close()


def test_metrics_that_cannot_be_written_are_one_line(saved, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(saved, out)
    (out / "metrics.jsonl").unlink()
    (out / "metrics.jsonl").mkdir()
    assert "metrics.jsonl" in refused(capsys, out)


def test_the_checkpoint_of_another_program_is_one_line(saved, monkeypatch, capsys):
    """Same options, another model: what a change of the code does."""
    stacked = task.model.Transformer.__init__

    def deeper(self, options, *, rngs):
        stacked(self, dataclasses.replace(options, blocks=3), rngs=rngs)

    monkeypatch.setattr(task.model.Transformer, "__init__", deeper)
    line = refused(capsys, saved)
    told = r"must be of this model .* is float32\[2, 48\] and here float32\[3, 48\]"
    assert re.search(told, line), line
