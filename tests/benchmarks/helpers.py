"""What several tests of the benchmarks need: tiny data, tasks and records."""

import dataclasses
import gzip
import pickle

import numpy as np

from benchmarks.pages.conclusions import SHOWN_BY_LAYER
from benchmarks.records.record import Record
from benchmarks.tasks import catalogue, cifar, idx
from benchmarks.tasks.dataset import digits

RNG = np.random.default_rng(0)


def idx_bytes(array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def write_mnist(folder, compress=False):
    """Writes the four files of a tiny MNIST, and returns what they hold."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = [
        RNG.integers(0, 256, (20, 28, 28)),
        np.arange(20) % 10,
        RNG.integers(0, 256, (10, 28, 28)),
        np.arange(10),
    ]
    for name, array in zip(idx.NAMES, arrays, strict=True):
        raw = idx_bytes(array)
        if compress:
            (folder / f"{name}.gz").write_bytes(gzip.compress(raw))
        else:
            (folder / name).write_bytes(raw)
    return arrays


def write_batch(path, labels, key="labels", protocol=2):
    """Writes one python batch of CIFAR, and returns its images."""
    images = RNG.integers(0, 256, (len(labels), 3072), np.uint8)
    batch = {b"data": images, key.encode(): list(labels)}
    path.write_bytes(pickle.dumps(batch, protocol=protocol))
    return images


def write_cifar10(folder):
    """Writes the six batches of a tiny CIFAR-10, and returns the images of the last."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in cifar.NAMES10:
        images = write_batch(folder / name, range(4))
    return images


def write_cifar100(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train", "test"):
        write_batch(folder / name, [7, 99, 3], "fine_labels")
    (folder / "meta").touch()


def tiny_workload():
    recipe = dataclasses.replace(catalogue.DIGITS, epochs=0.5)
    workload = catalogue.digits(digits())
    return dataclasses.replace(workload, recipe=recipe, eval_every=8)


def record(method, scale, accuracy, **fields):
    """A run of two evaluations."""
    layers = {
        "trust_ratio/calm": [1.0, 1.5],
        "trust_ratio/noisy": [3.0, 4.0],
        "warmup_end/calm": [-1.0, -1.0],
        "warmup_end/noisy": [-1.0, 40.0],
    }
    default = {
        "workload": "toy",
        "method": method,
        "batch_scale": scale,
        "num_microbatches": None,
        "seed": 0,
        "recipe": {"learning_rate": 0.1},
        "base_steps": 2 * scale,
        "updates": [1, 2],
        "train_loss": [1.0, float("nan")],
        "test_accuracy": [0.1, accuracy],
        "layers": layers if method == SHOWN_BY_LAYER else {},
        "seconds": 1.0,
        "environment": {"cpus": "2", "device": "cpu", "jax": "0", "commit": "abc"},
    }
    return Record(**{**default, **fields})


def errors_of(program, arguments, capsys):
    """Runs a program that must refuse: its one line on stderr, and the exit code."""
    capsys.readouterr()
    try:
        program(list(map(str, arguments)))
    except SystemExit as end:
        code = end.code
    else:
        code = 0
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert len(lines) == 1, (arguments, printed.err)
    return lines[0], code


def run_of_base_examples(method, scale, accuracy, seed=0, split="test", rate=None):
    """A run of 128 base steps, looked at once: where it ends."""
    run = record(
        method,
        scale,
        None,
        seed=seed,
        base_steps=128,
        updates=[128 // scale],
        train_loss=[1.0],
        test_accuracy=[accuracy],
        layers={},
        split=split,
    )
    if rate is None:
        return run
    return dataclasses.replace(run, recipe=run.recipe | {"learning_rate": rate})
