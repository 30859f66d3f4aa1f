"""Many processes, each with its part of the batch, train as one process does."""

import os
import pathlib
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import optax_lena
from tests.gather import process_worker

ROOT = pathlib.Path(__file__).parents[2]
TIME_LIMIT = 120  # seconds for all processes of a run


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def run_processes(folder, num_processes, devices_each, last_seed=0):
    """Runs the workers; returns their exit codes and logs.

    All of them have the seed 0, but for the last.
    """
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices_each}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    port, workers = free_port(), []
    try:
        for i in range(num_processes):
            seed = last_seed if i == num_processes - 1 else 0
            arguments = [folder / f"{i}.npz", port, i, num_processes, seed]
            command = [sys.executable, "-m", "tests.gather.process_worker"]
            with open(folder / f"{i}.log", "w") as log:
                worker = subprocess.Popen(
                    command + [str(argument) for argument in arguments],
                    stdout=log,
                    stderr=log,
                    cwd=ROOT,
                    env=environment,
                )
            workers.append(worker)
        deadline = time.monotonic() + TIME_LIMIT
        # A worker that fails leaves the others waiting: stop at the first failure.
        while any(w.poll() is None for w in workers) and time.monotonic() < deadline:
            if any(w.poll() for w in workers):
                deadline = min(deadline, time.monotonic() + 10)
            time.sleep(0.1)
    finally:
        codes = [worker.poll() for worker in workers]
        for worker in workers:
            worker.kill()
            worker.wait()
    return codes, [(folder / f"{i}.log").read_text() for i in range(num_processes)]


def flatten(tree):
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in paths
    }


@pytest.fixture(scope="module")
def single_process():
    """10 updates by a scan over the same 8 microbatches, and one batch's gradients."""
    params, batches = process_worker.make_params(), process_worker.make_batches()
    return process_worker.train(params, batches)


def one_microbatch_per_device(devices):
    params, batch = process_worker.make_params(), process_worker.make_batches()[0]
    parts = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)
    grads = jax.vmap(jax.grad(process_worker.loss_fn), (None, 0))(params, parts)
    mean_grads, moments = optax_lena.moments_from_stack(grads)
    return {"grads": mean_grads, **moments._asdict()}


@pytest.mark.parametrize("num_processes, devices_each", [(2, 4), (4, 1)])
def test_processes_train_as_one(tmp_path, single_process, num_processes, devices_each):
    codes, logs = run_processes(tmp_path, num_processes, devices_each)
    assert codes == [0] * num_processes, "\n".join([f"{codes}, None: too late", *logs])
    saved = [dict(np.load(tmp_path / f"{i}.npz")) for i in range(num_processes)]
    one_per_device = one_microbatch_per_device(num_processes * devices_each)
    expected = flatten({"train": single_process, "over_axis": one_per_device})
    for results in saved:
        # Saved and restored by all of them, every bit is as if they had gone on.
        for name in [name for name in results if name.startswith("resumed/")]:
            straight = results[name.replace("resumed/", "train/")]
            np.testing.assert_array_equal(results.pop(name), straight, err_msg=name)
        assert results.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(
                results[name], value, rtol=1e-5, atol=1e-6, err_msg=name
            )
            np.testing.assert_array_equal(results[name], saved[0][name], err_msg=name)


def test_a_process_with_other_settings_ends_all_of_them(tmp_path):
    codes, logs = run_processes(tmp_path, 2, 1, last_seed=1)
    assert codes == [1, 1]
    for log in logs:
        assert "`seed` must be the same on all 2 processes, got another on [1]" in log
