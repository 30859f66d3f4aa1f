"""A run that goes from 8 devices to 2 and on to 16, beside one that keeps its 8.

    python examples/elastic_run.py

Every part is a process; orbax hands the state on. Each device has one base batch, so S
is their number. LENA follows S; plain SGD keeps the rate of S = 8 and counts updates.
Expect LENA to end within 5 % of its steady run, and SGD two fifths above its own.
"""

import argparse
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from matplotlib.figure import Figure

import optax_lena

# Devices, from which third of the run on, and to which.
RUNS = {"elastic": [(8, 0, 1), (2, 1, 2), (16, 2, 3)], "steady": [(8, 0, 3)]}


def loss_fn(params, batch):
    """The mean squared error."""
    x, y = batch
    return jnp.mean((jnp.tanh(x @ params["hidden"]) @ params["out"] - y) ** 2)


def batches(start, stop, noise=1.0):
    """Draws base batches of 32: the same ones whatever S is."""
    draws = [np.random.default_rng([1, step]) for step in range(start, stop)]
    x, e = (np.concatenate([r.normal(size=(32, n)) for r in draws]) for n in (16, 8))
    return x.astype("float32"), (np.sin(2 * x[:, :8]) + noise * e).astype("float32")


def make_optimizers(scale, base_steps):
    """Returns LENA at this S, and SGD as it was set up for S = 8."""
    follows = optax.cosine_decay_schedule(0.05, base_steps)
    lena = optax_lena.lena_amplified(follows, scale, warmup_steps=base_steps // 20)
    sgd = optax.sgd(optax.cosine_decay_schedule(0.3, base_steps // 8), 0.9)
    return {"LENA": lena, "plain SGD": optax.with_extra_args_support(sgd)}


def train(start, stop, base_steps, folder):
    """Trains a part of a run on all devices that there are; returns the losses."""
    scale, losses = len(jax.devices()), {}
    mesh = jax.make_mesh((scale,), ("data",), (AxisType.Auto,))
    everywhere = NamedSharding(mesh, PartitionSpec())
    sharded = NamedSharding(mesh, PartitionSpec("data"))
    gather = optax_lena.value_and_grad(loss_fn, scale, axis_name="data")
    keys = jax.random.split(jax.random.key(0))
    params = {"hidden": jax.random.normal(keys[0], (16, 64)) / 4}
    params["out"] = jax.random.normal(keys[1], (64, 8)) / 8
    test = batches(10**6, 10**6 + 128, noise=0)
    for name, tx in make_optimizers(scale, base_steps).items():

        @jax.jit
        def step(params, opt, batch, tx=tx):
            loss, grads, moments = gather(params, batch)
            updates, opt = tx.update(grads, opt, params, moments=moments, value=loss)
            return optax.apply_updates(params, updates), opt

        state, losses[name] = jax.device_put((params, tx.init(params)), everywhere), []
        with ocp.StandardCheckpointer() as checkpointer:
            if start:
                state = checkpointer.restore(f"{folder}/{name} {start}", state)
            for at in range(start + scale, stop + 1, scale):
                state = step(*state, jax.device_put(batches(at - scale, at), sharded))
                if at % (base_steps // 30) < scale:
                    losses[name].append((at, float(loss_fn(state[0], test))))
            checkpointer.save(f"{folder}/{name} {stop}", state)
    return losses


def draw(losses, path):
    """Draws the losses of all runs, and where the elastic one moves."""
    ax = (figure := Figure(figsize=(8, 4), layout="constrained")).subplots()
    for (run, name), curve in losses.items():
        style = {"LENA": "C0", "plain SGD": "C1"}[name] + "-:"[run == "steady"]
        ax.plot(*zip(*curve, strict=True), style, lw=2, label=f"{name}, {run}")
    for devices, start, _ in RUNS["elastic"]:
        ax.axvline(at := start * curve[-1][0] / 3, c="#cccccc")
        ax.text(at, 0.032, f" {devices} devices")
    ax.set(xlabel="base batches seen", ylabel="held-out loss", ylim=(0.03, 0.2))
    ax.legend(frameon=False, title="steady: 8 devices throughout")
    figure.savefig(path, dpi=150)


def main(base_steps=4800, figure=None):
    """Makes both runs, each part in a process; returns the losses."""
    losses = {}
    with tempfile.TemporaryDirectory() as folder:
        for run, (devices, *thirds) in ((r, p) for r in RUNS for p in RUNS[r]):
            flag = f"--xla_force_host_platform_device_count={devices}"
            os.environ |= {"XLA_FLAGS": flag, "JAX_PLATFORMS": "cpu"}  # of the process
            start, stop = (third * base_steps // 3 for third in thirds)
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                job = process.submit(train, start, stop, base_steps, f"{folder}/{run}")
            for name, more in job.result().items():
                losses.setdefault((run, name), []).extend(more)
    for (run, name), curve in losses.items():
        print(f"{name:9} {run:7} loss {' '.join(f'{x:.4f}' for _, x in curve[9::10])}")
    if figure:
        draw(losses, figure)
    return losses


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-steps", type=int, default=4800)
    parser.add_argument("--figure", help="a file to draw the losses to")
    main(**vars(parser.parse_args()))
