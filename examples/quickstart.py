"""The loop of `quickstart_optax.py` at 32 times its batch, with LENA.

    python examples/quickstart.py

The recipe stays, and eight lines change, two of them to print a report: 200 updates of
1,024 examples instead of 6,400 of 32. Expect nearly the same held-out loss (0.03), and
for each layer its trust ratio, which is the factor on its learning rate.
"""

import argparse

import jax
import jax.numpy as jnp
import optax

import optax_lena

SCALE = 32  # the batch, in base batches
BATCH = 32 * SCALE


def loss_fn(params, batch):
    """The mean squared error."""
    x, y = batch
    return jnp.mean((jnp.tanh(x @ params["hidden"]) @ params["out"] - y) ** 2)


def make_batch(key, size, noise=0.5):
    """Draws examples of a sine, with noise in their targets."""
    x_key, y_key = jax.random.split(key)
    x = jax.random.normal(x_key, (size, 8))
    return x, jnp.sin(2 * x[:, :1]) + noise * jax.random.normal(y_key, (size, 1))


def main(base_steps=6400):
    """Trains, and returns the held-out loss before and after."""
    hidden_key, out_key, test_key, data_key = jax.random.split(jax.random.key(0), 4)
    params = {
        "hidden": jax.random.normal(hidden_key, (8, 64)) / 3,
        "out": jax.random.normal(out_key, (64, 1)) / 8,
    }
    schedule = optax.cosine_decay_schedule(0.01, decay_steps=base_steps)
    tx = optax_lena.lena_amplified(schedule, SCALE, warmup_steps=base_steps // 20)
    gather = optax_lena.value_and_grad(loss_fn, num_microbatches=SCALE)

    @jax.jit
    def step(params, opt_state, key):
        loss, grads, moments = gather(params, make_batch(key, BATCH))
        updates, opt_state = tx.update(grads, opt_state, params, moments=moments)
        return optax.apply_updates(params, updates), opt_state, loss

    test_batch = make_batch(test_key, 10_000, noise=0.0)
    before = float(loss_fn(params, test_batch))
    opt_state = tx.init(params)
    updates = base_steps // SCALE
    for key in jax.random.split(data_key, updates):
        params, opt_state, loss = step(params, opt_state, key)
    after = float(loss_fn(params, test_batch))
    print(f"held-out loss {before:.3f} -> {after:.3f}, {updates} updates of {BATCH}")
    for layer, row in optax_lena.layer_report(opt_state).items():
        print(f"{layer}: trust ratio {row['trust_ratio']:.1f}")
    return {"before": before, "after": after, "updates": updates}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-steps", type=int, default=6400)
    main(parser.parse_args().base_steps)
