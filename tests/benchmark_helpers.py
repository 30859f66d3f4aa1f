"""What several tests of the benchmarks need: tiny data, tasks and records."""

import dataclasses
import gzip

import numpy as np

from benchmarks import data, records, report, workloads

RNG = np.random.default_rng(0)


def write_idx(path, array, compress):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    raw = header + array.astype(np.uint8).tobytes()
    if compress:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(raw))
    else:
        path.write_bytes(raw)


def write_mnist(folder, compress):
    folder.mkdir(parents=True)
    arrays = [
        RNG.integers(0, 256, (20, 28, 28)),
        np.arange(20) % 10,
        RNG.integers(0, 256, (10, 28, 28)),
        np.arange(10),
    ]
    for name, array in zip(data.IDX_NAMES, arrays, strict=True):
        write_idx(folder / name, array, compress)
    return arrays


def tiny_workload():
    recipe = dataclasses.replace(workloads.DIGITS, epochs=0.5)
    workload = workloads.digits(data.load())
    return dataclasses.replace(workload, recipe=recipe, eval_every=8)


def record(method, scale, accuracy, **kwargs):
    layers = {
        "trust_ratio/calm": [1.0, 1.5],
        "trust_ratio/noisy": [3.0, 4.0],
        "warmup_end/calm": [-1.0, -1.0],
        "warmup_end/noisy": [-1.0, 40.0],
    }
    fields = {
        "workload": "toy",
        "method": method,
        "batch_scale": scale,
        "num_microbatches": None,
        "seed": 0,
        "recipe": {},
        "base_steps": 100,
        "updates": [1, 2],
        "train_loss": [1.0, float("nan")],
        "test_accuracy": [0.1, accuracy],
        "layers": layers if method == report.LAYERS_OF else {},
        "seconds": 1.0,
        "environment": {},
    }
    return records.Record(**{**fields, **kwargs})
