"""A plain optax loop at its small batch: what `quickstart.py` starts from.

    python examples/quickstart_optax.py

A network of two layers fits a noisy sine. The recipe, of which the rate was tuned, has
6,400 updates of 32 examples, and the held-out loss falls from 0.9 to 0.03. Compare the
two files: `diff examples/quickstart_optax.py examples/quickstart.py`.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax

BATCH, UPDATES = 32, 6400


def loss_fn(params, batch):
    """The mean squared error."""
    x, y = batch
    return jnp.mean((jnp.tanh(x @ params["hidden"]) @ params["out"] - y) ** 2)


schedule = optax.cosine_decay_schedule(0.01, decay_steps=6400)
tx = optax.sgd(schedule, momentum=0.9)


@jax.jit
def step(params, state, batch):
    """Makes one update."""
    loss, grads = jax.value_and_grad(loss_fn)(params, batch)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss


def make_batch(rng, size, noise=0.5):
    """Draws examples of a sine, with noise in their targets."""
    x = rng.normal(size=(size, 8)).astype(np.float32)
    y = np.sin(2 * x[:, :1]) + rng.normal(scale=noise, size=(size, 1))
    return x, y.astype(np.float32)


def main(updates=UPDATES):
    """Trains, and returns the held-out loss before and after."""
    rng = np.random.default_rng(0)
    hidden, out = rng.normal(size=(8, 64)) / 3, rng.normal(size=(64, 1)) / 8
    params = {"hidden": jnp.float32(hidden), "out": jnp.float32(out)}
    state = tx.init(params)
    test_batch = make_batch(rng, 10_000, noise=0.0)

    before = float(loss_fn(params, test_batch))
    for _ in range(updates):
        params, state, loss = step(params, state, make_batch(rng, BATCH))
    after = float(loss_fn(params, test_batch))
    print(f"held-out loss {before:.3f} -> {after:.3f}, {updates} updates of {BATCH}")
    return {"before": before, "after": after, "updates": updates}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=UPDATES)
    main(parser.parse_args().updates)
