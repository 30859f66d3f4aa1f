"""A loop that has its own `lax.scan` over microbatches, as MaxText and Tunix have.

    python examples/own_scan.py

Such a loop sums gradients in the carry of its scan. `IncrementalMoments` stands where
that sum stood: `init`, `add` with the number of tokens as weight, `finish`. One
gradient is in memory. Sequences have different lengths here, so microbatches hold
different numbers of tokens; with these as weights, the gradient is the mean over all
tokens. Expect the loss to fall from 1.1 to 0.3, its noise being 0.25.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_lena

SCALE, SEQUENCES, LENGTH = 16, 8, 16  # microbatches of 8 sequences of up to 16 tokens


def loss_fn(params, microbatch):
    """Returns the mean squared error of the tokens that count, and their number."""
    x, y, is_token = microbatch
    predicted = jnp.tanh(x @ params["hidden"]) @ params["out"]
    errors = jnp.where(is_token, jnp.mean((predicted - y) ** 2, axis=-1), 0)
    tokens = jnp.sum(is_token)
    return jnp.sum(errors) / jnp.maximum(tokens, 1), tokens


def make_batch(rng):
    """Draws padded sequences `(microbatches, sequences, tokens, features)`."""
    x = rng.normal(size=(SCALE, SEQUENCES, LENGTH, 16)).astype(np.float32)
    y = np.sin(x[..., :8]) + rng.normal(scale=0.5, size=(*x.shape[:-1], 8))
    lengths = rng.integers(1, LENGTH + 1, size=(SCALE, SEQUENCES, 1))
    return x, y.astype(np.float32), np.arange(LENGTH) < lengths


def main(base_steps=1600):
    """Trains; returns the losses and the final trust ratios."""
    schedule = optax.cosine_decay_schedule(0.1, base_steps)
    tx = optax_lena.lena_amplified(schedule, SCALE, warmup_steps=base_steps // 20)
    incremental = optax_lena.IncrementalMoments()

    @jax.jit
    def train_step(params, opt_state, batch):
        def accumulate(carry, microbatch):
            sums, total_loss = carry
            grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
            (loss, tokens), grads = grad_fn(params, microbatch)
            sums = incremental.add(sums, grads, weight=tokens)
            return (sums, total_loss + tokens * loss), None

        start = (incremental.init(params), 0.0)
        (sums, total_loss), _ = jax.lax.scan(accumulate, start, batch)
        # Inside shard_map, `sums = jax.lax.psum(sums, "data")` comes here.
        grads, moments = incremental.finish(sums, like=params)
        loss = total_loss / sums.weight
        updates, opt_state = tx.update(
            grads, opt_state, params, moments=moments, value=loss
        )
        return optax.apply_updates(params, updates), opt_state, loss

    keys = jax.random.split(jax.random.key(0))
    params = {
        "hidden": jax.random.normal(keys[0], (16, 64)) / 4,
        "out": jax.random.normal(keys[1], (64, 8)) / 8,
    }
    opt_state = tx.init(params)
    rng, losses = np.random.default_rng(0), []
    for _ in range(base_steps // SCALE):
        params, opt_state, loss = train_step(params, opt_state, make_batch(rng))
        losses.append(float(loss))

    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    report = optax_lena.layer_report(opt_state)
    for layer, row in report.items():
        print(f"{layer}: trust ratio {row['trust_ratio']:.1f}")
    ratios = {layer: row["trust_ratio"] for layer, row in report.items()}
    return {"losses": losses, "trust_ratios": ratios}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-steps", type=int, default=1600)
    main(parser.parse_args().base_steps)
