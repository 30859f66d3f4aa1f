"""`jax.shard_map`: the training step is written for one device's part of the batch.

    python examples/shard_map.py

The same `value_and_grad` finds the axis bound and sums over it: gradients, loss and
moments come back averaged over all devices, so there is no `pmean` to write. Expect
the loss to fall from 1.1 to 0.3, its noise being 0.25. Without eight devices, eight CPU
devices are made up.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optax_lena

SCALE = 16  # microbatches of 32 examples, the base batch: two on each of 8 devices


def loss_fn(params, batch):
    """The mean squared error."""
    x, y = batch
    return jnp.mean((jnp.tanh(x @ params["hidden"]) @ params["out"] - y) ** 2)


def make_batch(rng):
    """Draws 512 examples, with noise in their targets."""
    x = rng.normal(size=(32 * SCALE, 16)).astype(np.float32)
    y = np.sin(x[:, :8]) + rng.normal(scale=0.5, size=(len(x), 8))
    return x, y.astype(np.float32)


def main(base_steps=1600):
    """Trains; returns the losses and the final trust ratios."""
    mesh = jax.make_mesh((jax.device_count(),), ("data",), (AxisType.Auto,))
    schedule = optax.cosine_decay_schedule(0.1, base_steps)
    tx = optax_lena.lena_amplified(schedule, SCALE, warmup_steps=base_steps // 20)
    gather = optax_lena.value_and_grad(loss_fn, SCALE, axis_name="data")

    def train_step(params, opt_state, batch):  # of one device
        loss, grads, moments = gather(params, batch)
        updates, opt_state = tx.update(
            grads, opt_state, params, moments=moments, value=loss
        )
        return optax.apply_updates(params, updates), opt_state, loss

    specs = dict(in_specs=(P(), P(), P("data")), out_specs=P())
    train_step = jax.jit(jax.shard_map(train_step, mesh=mesh, **specs))

    keys = jax.random.split(jax.random.key(0))
    params = {
        "hidden": jax.random.normal(keys[0], (16, 64)) / 4,
        "out": jax.random.normal(keys[1], (64, 8)) / 8,
    }
    params, opt_state = jax.device_put(
        (params, tx.init(params)), NamedSharding(mesh, P())
    )
    rng, losses = np.random.default_rng(0), []
    for _ in range(base_steps // SCALE):
        batch = jax.device_put(make_batch(rng), NamedSharding(mesh, P("data")))
        params, opt_state, loss = train_step(params, opt_state, batch)
        losses.append(float(loss))

    devices = jax.device_count()
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f} on {devices} devices")
    report = optax_lena.layer_report(opt_state)
    for layer, row in report.items():
        print(f"{layer}: trust ratio {row['trust_ratio']:.1f}")
    ratios = {layer: row["trust_ratio"] for layer, row in report.items()}
    return {"losses": losses, "trust_ratios": ratios}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-steps", type=int, default=1600)
    jax.config.update("jax_num_cpu_devices", 8)  # no effect on GPUs and TPUs
    main(parser.parse_args().base_steps)
