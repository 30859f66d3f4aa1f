"""`jax.pmap`: an older loop, with replicated states and a batch of `(devices, ...)`.

    python examples/pmap.py

`moments_over_axis` stands where the loop had `jax.lax.pmean(grads, "batch")`, and must
get each device's own gradients: if they are averaged before, every gain is 1, and
`layer_report` warns. Expect the loss to fall from 1.1 to 0.3, its noise being 0.25.
Without eight devices, eight CPU devices are made up.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_lena


def loss_fn(params, batch):
    """The mean squared error."""
    x, y = batch
    return jnp.mean((jnp.tanh(x @ params["hidden"]) @ params["out"] - y) ** 2)


def make_batch(rng, devices):
    """Draws 32 examples for each device, with noise in their targets."""
    x = rng.normal(size=(devices, 32, 16)).astype(np.float32)
    y = np.sin(x[..., :8]) + rng.normal(scale=0.5, size=(devices, 32, 8))
    return x, y.astype(np.float32)


def main(base_steps=1600):
    """Trains; returns the losses and the final trust ratios."""
    devices = jax.local_device_count()
    schedule = optax.cosine_decay_schedule(0.1, base_steps)
    scale = devices  # 32 examples, the base batch, on each device
    tx = optax_lena.lena_amplified(schedule, scale, warmup_steps=base_steps // 20)

    @functools.partial(jax.pmap, axis_name="batch")
    def train_step(params, opt_state, batch):
        loss, grads = jax.value_and_grad(loss_fn)(params, batch)
        loss = jax.lax.pmean(loss, "batch")  # of the whole batch
        grads, moments = optax_lena.moments_over_axis(grads, "batch")
        updates, opt_state = tx.update(
            grads, opt_state, params, moments=moments, value=loss
        )
        return optax.apply_updates(params, updates), opt_state, loss

    keys = jax.random.split(jax.random.key(0))
    params = {
        "hidden": jax.random.normal(keys[0], (16, 64)) / 4,
        "out": jax.random.normal(keys[1], (64, 8)) / 8,
    }
    replicate = lambda x: jnp.broadcast_to(x, (devices, *x.shape))  # noqa: E731
    params, opt_state = jax.tree.map(replicate, (params, tx.init(params)))
    rng, losses = np.random.default_rng(0), []
    for _ in range(base_steps // devices):
        batch = make_batch(rng, devices)
        params, opt_state, loss = train_step(params, opt_state, batch)
        losses.append(float(loss[0]))

    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f} on {devices} devices")
    # Reports are of one state; the replicas are all the same.
    report = optax_lena.layer_report(jax.tree.map(lambda x: x[0], opt_state))
    for layer, row in report.items():
        print(f"{layer}: trust ratio {row['trust_ratio']:.1f}")
    ratios = {layer: row["trust_ratio"] for layer, row in report.items()}
    return {"losses": losses, "trust_ratios": ratios}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-steps", type=int, default=1600)
    jax.config.update("jax_num_cpu_devices", 8)  # no effect on GPUs and TPUs
    main(parser.parse_args().base_steps)
