"""`jax.jit` with shardings: FSDP and tensor parallelism on a mesh of 4 x 2 devices.

    python examples/sharded.py

The batch is spread over the mesh axis "data", and so are the parameters (FSDP); the
hidden layer is split over the axis "tensor" too. XLA adds the communication. The
gatherer needs the name of the batch's axis, and nothing else differs from one device.
Expect the same losses as on one device, and an eighth of each large parameter, and of
its momentum, on every device. Without eight devices, eight CPU devices are made up.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optax_lena

MICROBATCHES = 8  # of 32 examples, the base batch
SPECS = {
    "hidden": {"kernel": P("data", "tensor"), "bias": P("tensor")},
    "out": {"kernel": P("tensor", "data"), "bias": P()},
}


def init_params():
    """Returns the parameters of a network with one hidden layer."""
    keys = jax.random.split(jax.random.key(0))
    return {
        "hidden": {
            "kernel": jax.random.normal(keys[0], (16, 64)) / 4,
            "bias": jnp.zeros(64),
        },
        "out": {
            "kernel": jax.random.normal(keys[1], (64, 8)) / 8,
            "bias": jnp.zeros(8),
        },
    }


def loss_fn(params, batch):
    """The mean squared error."""
    x, y = batch
    hidden = jnp.tanh(x @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    predicted = hidden @ params["out"]["kernel"] + params["out"]["bias"]
    return jnp.mean((predicted - y) ** 2)


def make_batch(rng):
    """Draws 256 examples, with noise in their targets."""
    x = rng.normal(size=(32 * MICROBATCHES, 16)).astype(np.float32)
    y = np.sin(x[:, :8]) + rng.normal(scale=0.5, size=(len(x), 8))
    return x, y.astype(np.float32)


def train(devices, base_steps):
    """Trains on these devices; returns the losses, the parameters and the state."""
    shape = (4, 2) if len(devices) > 1 else (1, 1)
    mesh = jax.make_mesh(
        shape, ("data", "tensor"), (AxisType.Auto,) * 2, devices=devices
    )
    schedule = optax.cosine_decay_schedule(0.1, base_steps)
    tx = optax_lena.lena_amplified(schedule, 8, warmup_steps=base_steps // 20)
    gather = optax_lena.value_and_grad(loss_fn, MICROBATCHES, axis_name="data")

    @jax.jit
    def train_step(params, opt_state, batch):
        loss, grads, moments = gather(params, batch)
        updates, opt_state = tx.update(
            grads, opt_state, params, moments=moments, value=loss
        )
        return optax.apply_updates(params, updates), opt_state, loss

    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), SPECS)
    params = jax.device_put(init_params(), shardings)
    opt_state = tx.init(params)  # the momentum is sharded like the parameters
    rng, losses = np.random.default_rng(0), []
    for _ in range(base_steps // 8):
        batch = jax.device_put(make_batch(rng), NamedSharding(mesh, P("data")))
        params, opt_state, loss = train_step(params, opt_state, batch)
        losses.append(float(loss))
    return losses, params, opt_state


def main(base_steps=800):
    """Trains on eight devices and on one; returns the losses of both."""
    sharded, params, opt_state = train(jax.devices()[:8], base_steps)
    alone, _, _ = train(jax.devices()[:1], base_steps)
    print(f"loss {sharded[0]:.4f} -> {sharded[-1]:.4f} on a mesh of 4 x 2 devices")
    print(f"loss {alone[0]:.4f} -> {alone[-1]:.4f} on one device")
    kernel = params["hidden"]["kernel"]
    (momentum,) = (x for x in jax.tree.leaves(opt_state) if x.shape == kernel.shape)
    for name, x in {"kernel": kernel, "momentum": momentum}.items():
        print(f"hidden {name} {x.shape}: {x.addressable_data(0).shape} on each device")
    for layer, row in optax_lena.layer_report(opt_state).items():
        print(f"{layer}: trust ratio {row['trust_ratio']:.1f}")
    share = momentum.addressable_data(0).size / momentum.size
    return {"sharded": sharded, "alone": alone, "share": share}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-steps", type=int, default=800)
    jax.config.update("jax_num_cpu_devices", 8)  # no effect on GPUs and TPUs
    main(parser.parse_args().base_steps)
