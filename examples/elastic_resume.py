"""Checkpoint, and resume on another number of devices at another batch.

    python examples/elastic_resume.py

Noise and signal are kept per base batch, so a run may lose half of its devices. orbax
saves it on eight devices at S = 16, and restores it on four at S = 8, which is all that
changes. Expect every statistic to be the same after the restart, to the last bit, and
the schedule's clock to arrive at 1,600 base batches. One CPU is made into eight.
"""

import argparse
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import optax_lena


def loss_fn(params, batch):
    """The mean squared error."""
    x, y = batch
    return jnp.mean((jnp.tanh(x @ params["hidden"]) @ params["out"] - y) ** 2)


def make_batch(rng, size):
    """Draws examples with noise in their targets; the base batch has 32."""
    x = rng.normal(size=(size, 16)).astype(np.float32)
    y = np.sin(x[:, :8]) + rng.normal(scale=0.5, size=(size, 8))
    return x, y.astype(np.float32)


def make_optimizer(scale, base_steps):
    """Returns LENA at S = `scale`: the state has the same structure for all S."""
    schedule = optax.cosine_decay_schedule(0.1, base_steps)
    return optax_lena.lena_amplified(schedule, scale, warmup_steps=base_steps // 20)


def init(tx):
    """Returns the parameters and the optimizer's state."""
    keys = jax.random.split(jax.random.key(0))
    hidden = jax.random.normal(keys[0], (16, 64)) / 4
    params = {"hidden": hidden, "out": jax.random.normal(keys[1], (64, 8)) / 8}
    return params, tx.init(params)


def replicated(devices):
    """Returns the sharding that keeps a copy on each of the devices."""
    mesh = jax.make_mesh((len(devices),), ("data",), (AxisType.Auto,), devices=devices)
    return NamedSharding(mesh, PartitionSpec())


def train(tx, state, scale, updates, seed):
    """Trains on the devices where the state lies; returns the new state."""
    mesh = jax.tree.leaves(state)[0].sharding.mesh
    over_data = NamedSharding(mesh, PartitionSpec("data"))
    gather = optax_lena.value_and_grad(loss_fn, scale, axis_name="data")

    @jax.jit
    def train_step(params, opt, batch):
        loss, grads, moments = gather(params, batch)
        updates, opt = tx.update(grads, opt, params, moments=moments, value=loss)
        return optax.apply_updates(params, updates), opt

    rng = np.random.default_rng(seed)
    for _ in range(updates):
        batch = make_batch(rng, 32 * scale)
        state = train_step(*state, jax.device_put(batch, over_data))
    return state


def show(when, state):
    """Prints the loss and what LENA knows; returns it as numbers."""
    numbers = jax.device_get(optax_lena.metrics(state[1]))
    loss = float(loss_fn(state[0], make_batch(np.random.default_rng(9), 4096)))
    print(f"{when} loss {loss:.4f}", end=" ")
    fields = ("batch_scale", "noise", "signal", "base_steps")
    print(*(f"{field} {numbers[f'model/{field}']:.4g}" for field in fields))
    return numbers | {"loss": loss}


def main(base_steps=1600):
    """Trains, restarts and trains on; returns what it saw."""
    half, tx = base_steps // 2, make_optimizer(16, base_steps)
    state = jax.device_put(init(tx), replicated(jax.devices()[:8]))
    show("8 devices, at start:", state)
    state = train(tx, state, 16, half // 16, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint"
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(path, state)
        saved = show("8 devices, saved   :", state)

        # Another program starts here. It knows the model, and has four devices.
        tx, sharding = make_optimizer(8, base_steps), replicated(jax.devices()[:4])
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            jax.eval_shape(lambda: init(tx)),
        )
        with ocp.StandardCheckpointer() as checkpointer:
            state = checkpointer.restore(path, target)
    restored = show("4 devices, restored:", state)
    same = [np.array_equal(saved[name], restored[name]) for name in saved]
    state = train(tx, state, 8, half // 8, seed=2)
    end = show("4 devices, at end  :", state)
    print(f"nothing changed in the restart: {all(same)}")
    return {"is_same": all(same), "saved": saved, "end": end}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-steps", type=int, default=1600)
    jax.config.update("jax_num_cpu_devices", 8)  # no effect on GPUs and TPUs
    main(parser.parse_args().base_steps)
