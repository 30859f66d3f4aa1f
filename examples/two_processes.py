"""Two processes that train one model, each with its half of every batch.

    python examples/two_processes.py

The program starts its own second process on this machine; on a cluster, every machine
runs it once and `jax.distributed.initialize()` finds the others. The mesh spans the
devices of all processes and the training step is that of one process. Expect both
to print the same losses and trust ratios, to the last digit.
"""

import argparse
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optax_lena

SCALE = 8  # microbatches of 32 examples, the base batch


def loss_fn(params, batch):
    """The mean squared error."""
    x, y = batch
    return jnp.mean((jnp.tanh(x @ params["hidden"]) @ params["out"] - y) ** 2)


def local_batches(process, updates):
    """Yields this process's half of each batch: each process has its own data."""
    rng = np.random.default_rng([0, process])
    for _ in range(updates):
        x = rng.normal(size=(16 * SCALE, 16)).astype(np.float32)
        noise = rng.normal(size=(len(x), 8)).astype(np.float32)
        yield x, np.sin(x[:, :8]) + noise / 2


def train(process, base_steps):
    """Trains as one of two processes, and prints what it saw."""
    mesh = jax.make_mesh((jax.device_count(),), ("data",), (AxisType.Auto,))
    over_data, replicated = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    schedule = optax.cosine_decay_schedule(0.1, base_steps)
    tx = optax_lena.lena_amplified(schedule, SCALE, warmup_steps=base_steps // 20)
    gather = optax_lena.value_and_grad(loss_fn, SCALE, axis_name="data")

    @jax.jit
    def train_step(params, opt_state, batch):
        loss, grads, moments = gather(params, batch)
        updates, opt_state = tx.update(
            grads, opt_state, params, moments=moments, value=loss
        )
        return optax.apply_updates(params, updates), opt_state, loss

    def init(key):
        hidden_key, out_key = jax.random.split(key)
        hidden = jax.random.normal(hidden_key, (16, 64)) / 4
        params = {"hidden": hidden, "out": jax.random.normal(out_key, (64, 8)) / 8}
        return params, tx.init(params)

    # The same seed everywhere: every process makes the same parameters.
    params, opt_state = jax.jit(init, out_shardings=replicated)(jax.random.key(0))
    losses = []
    for local_batch in local_batches(process, base_steps // SCALE):
        batch = jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(over_data, x), local_batch
        )
        params, opt_state, loss = train_step(params, opt_state, batch)
        losses.append(float(loss))  # replicated, so every process has it
    line = f"loss {losses[0]:.6f} -> {losses[-1]:.6f}"
    for layer, row in optax_lena.layer_report(opt_state).items():
        line += f", trust ratio of {layer} {row['trust_ratio']:.6f}"
    print(f"process {process} of {jax.process_count()}: {line}", flush=True)


def main(base_steps, process=0, port=None):
    """Joins the other process, which process 0 starts, and trains."""
    other = None
    if process == 0:
        with socket.socket() as server:  # a port that nobody uses
            server.bind(("127.0.0.1", 0))
            port = server.getsockname()[1]
        arguments = f"--base-steps={base_steps} --process=1 --port={port}".split()
        other = subprocess.Popen([sys.executable, __file__, *arguments])
    try:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(
            f"127.0.0.1:{port}", 2, process, initialization_timeout=60
        )
        train(process, base_steps)
        jax.distributed.shutdown()  # waits for the other
        if other is not None and other.wait(timeout=60):
            raise SystemExit(f"process 1 ended with code {other.returncode}")
    finally:
        if other is not None:
            other.kill()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-steps", type=int, default=800)
    parser.add_argument("--process", type=int, default=0, help="set by the program")
    parser.add_argument("--port", type=int, help="set by the program")
    main(**vars(parser.parse_args()))
