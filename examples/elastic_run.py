"""A run that goes from 8 devices to 2 and on to 16, beside one that keeps its 8.

    python examples/elastic_run.py

Every phase is a process of its own; orbax hands the state on. Each device has one base
batch, so S is their number. LENA's rates, averages and clock follow S; plain SGD keeps
the rate of S = 8 and a schedule that counts updates. Expect LENA's elastic run to end
close to the steady one, and SGD's far above. CPU devices; `--figure FILE` draws it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import optax_lena

RUNS = {"elastic": (8, 2, 16), "steady": (8, 8, 8)}  # devices in each third
LOOKS = 15  # evaluations in a third


def loss_fn(params, batch):
    """The mean squared error."""
    x, y = batch
    return jnp.mean((jnp.tanh(x @ params["hidden"]) @ params["out"] - y) ** 2)


def make_batches(start, stop, noise=1.0):
    """Draws base batches of 32: the same ones whatever S is."""
    draws = [np.random.default_rng([1, step]) for step in range(start, stop)]
    x, e = (np.concatenate([r.normal(size=(32, n)) for r in draws]) for n in (16, 8))
    return x.astype("float32"), (np.sin(2 * x[:, :8]) + noise * e).astype("float32")


def make_optimizers(scale, base_steps):
    """Returns LENA at this S, and SGD as it was set up for S = 8."""
    follows = optax.cosine_decay_schedule(RATE, base_steps)
    fixed = optax.cosine_decay_schedule(SGD_RATE, base_steps // 8)
    lena = optax_lena.lena_amplified(follows, scale, warmup_steps=base_steps // 20)
    return {"LENA": lena, "plain SGD": optax.sgd(fixed, 0.9)}


RATE = float(os.environ.get("RATE", 0.1))
SGD_RATE = float(os.environ.get("SGD_RATE", 0.4))


def train(start, stop, base_steps, folder):
    """Trains a third of a run on all devices that there are; prints the losses."""
    scale, losses = len(jax.devices()), {}
    mesh = jax.make_mesh((scale,), ("data",), (AxisType.Auto,))
    everywhere = NamedSharding(mesh, PartitionSpec())
    over_data = NamedSharding(mesh, PartitionSpec("data"))
    gather = optax_lena.value_and_grad(loss_fn, scale, axis_name="data")
    keys = jax.random.split(jax.random.key(0))
    hidden = jax.random.normal(keys[0], (16, 64)) / 4
    params = {"hidden": hidden, "out": jax.random.normal(keys[1], (64, 8)) / 8}
    test = make_batches(10**6, 10**6 + 128, noise=0)
    for name, tx in make_optimizers(scale, base_steps).items():
        tx = optax.with_extra_args_support(tx)

        @jax.jit
        def step(params, opt_state, batch, tx=tx):
            _, grads, moments = gather(params, batch)
            updates, opt_state = tx.update(grads, opt_state, params, moments=moments)
            return optax.apply_updates(params, updates), opt_state

        state, losses[name] = jax.device_put((params, tx.init(params)), everywhere), []
        with ocp.StandardCheckpointer() as checkpointer:
            if start:
                state = checkpointer.restore(folder / f"{name} {start}", state)
            for at in range(start, stop, scale):
                batch = jax.device_put(make_batches(at, at + scale), over_data)
                state = step(*state, batch)
                if (at + scale - start) % ((stop - start) // LOOKS) < scale:
                    losses[name].append((at + scale, float(loss_fn(state[0], test))))
            checkpointer.save(folder / f"{name} {stop}", state)
    print(json.dumps(losses))


def draw(losses, path):
    """Draws the losses of all runs."""
    from matplotlib.figure import Figure  # only who draws needs it

    ax = (figure := Figure(figsize=(8, 4), layout="constrained")).subplots()
    for (run, name), curve in losses.items():
        style = {"elastic": "-", "steady": ":"}[run]
        colour = {"LENA": "#009E73", "plain SGD": "#D55E00"}[name]
        ax.plot(*zip(*curve, strict=True), style, color=colour, label=f"{name}, {run}")
    for number, devices in enumerate(RUNS["elastic"]):
        ax.axvspan(number, number + 1, color="#eeeeee", alpha=number % 2)
        ax.text(number, 1, f" {devices} devices", va="top")
    ax.set(xlabel="base batches", ylabel="held-out loss", yscale="log")
    ax.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main(base_steps=4800, path=None):
    """Makes both runs, each third in a process; returns the losses."""
    losses, third = {}, base_steps // 3
    with tempfile.TemporaryDirectory() as folder:
        for run, devices in RUNS.items():
            for number, count in enumerate(devices):
                flag = f"--xla_force_host_platform_device_count={count}"
                part = [number * third, (number + 1) * third, base_steps]
                part = [*map(str, part), str(Path(folder, run))]
                ran = subprocess.run(
                    [sys.executable, __file__, "--phase", *part], check=True, stdout=-1,
                    env=os.environ | {"XLA_FLAGS": flag, "JAX_PLATFORMS": "cpu"},
                )  # fmt: skip
                for name, more in json.loads(ran.stdout).items():
                    losses.setdefault((run, name), []).extend(more)
    for (run, name), curve in losses.items():
        ends = " ".join(f"{curve[k * LOOKS - 1][1]:.4f}" for k in (1, 2, 3))
        print(f"{run} on {RUNS[run]} devices, {name}: loss {ends}")
    if path:
        draw(losses, path)
    return losses


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-steps", type=int, default=4800)
    parser.add_argument("--figure", help="a file to draw the losses to")
    parser.add_argument("--phase", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.phase:
        train(*map(int, options.phase[:3]), Path(options.phase[3]))
    else:
        main(options.base_steps, options.figure)
