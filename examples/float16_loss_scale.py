"""float16 with a dynamic loss scale: what becomes of the moments.

    python examples/float16_loss_scale.py

The loss is multiplied by a scale so that small gradients do not vanish in float16. The
gradients are divided by it, and so must the moments be: `moments.rescale(1 / scale)`.
If a gradient is not finite, the step is left out: the scale is halved, and neither
the parameters nor LENA's state change. Expect some steps to be left out at the start,
because the first scale is too large on purpose, and a test accuracy of 98 % on the
digits.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import optax_lena

SCALE = 16  # the batch, in base batches of 16 examples
GROW_EVERY = 100  # steps without an overflow, after which the loss scale is doubled


def scaled_loss_fn(params, batch, loss_scale):
    """The cross entropy of a float16 network, times the loss scale."""
    x, y = batch
    low = jax.tree.map(lambda p: p.astype(jnp.float16), params)
    hidden = jax.nn.relu(x.astype(jnp.float16) @ low["hidden"])
    logits = (hidden @ low["out"]).astype(jnp.float32)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
    # Parameters are float32, but the gradient passes through float16 on its way back.
    return loss * loss_scale


def main(base_steps=3200, first_loss_scale=2.0**24):
    """Trains; returns the test accuracy, the steps left out and the last scale."""
    x, y = load_digits(return_X_y=True)
    x, y = x.astype(np.float32) / 16, y.astype(np.int32)
    rng = np.random.default_rng(0)
    train, test = np.split(rng.permutation(len(x)), [1437])

    schedule = optax.cosine_decay_schedule(0.02, decay_steps=base_steps)
    tx = optax_lena.lena_amplified(schedule, SCALE, warmup_steps=base_steps // 20)
    gather = optax_lena.value_and_grad(scaled_loss_fn, num_microbatches=SCALE)

    @jax.jit
    def step(params, opt_state, loss_scale, good_steps, batch):
        loss, grads, moments = gather(params, batch, loss_scale)
        grads = jax.tree.map(lambda g: g / loss_scale, grads)
        loss /= loss_scale
        moments = moments.rescale(1 / loss_scale)
        is_finite = jnp.isfinite(optax.tree.norm(grads))

        def apply():
            updates, new = tx.update(
                grads, opt_state, params, moments=moments, value=loss
            )
            good, grow = good_steps + 1, good_steps + 1 >= GROW_EVERY
            new_scale = jnp.where(grow, 2 * loss_scale, loss_scale)
            new_params = optax.apply_updates(params, updates)
            return new_params, new, new_scale, jnp.where(grow, 0, good)

        def leave_out():
            return params, opt_state, loss_scale / 2, jnp.zeros_like(good_steps)

        state = jax.lax.cond(is_finite, apply, leave_out)
        return *state, loss, is_finite

    keys = jax.random.split(jax.random.key(0))
    params = {
        "hidden": jax.random.normal(keys[0], (64, 64)) / 8,
        "out": jax.random.normal(keys[1], (64, 10)) / 8,
    }
    opt_state = tx.init(params)
    loss_scale, good_steps = jnp.float32(first_loss_scale), jnp.int32(0)
    left_out = 0
    for number in range(base_steps // SCALE):
        rows = rng.choice(train, 16 * SCALE)
        params, opt_state, loss_scale, good_steps, loss, is_finite = step(
            params, opt_state, loss_scale, good_steps, (x[rows], y[rows])
        )
        if not is_finite:
            left_out += 1
            print(f"step {number} left out, loss scale is now {loss_scale:,.0f}")

    logits = jax.nn.relu(x[test] @ params["hidden"]) @ params["out"]
    accuracy = float(jnp.mean(logits.argmax(-1) == y[test]))
    print(
        f"test accuracy {accuracy:.1%}, loss {loss:.3f}, loss scale {loss_scale:,.0f}"
    )
    report = optax_lena.layer_report(opt_state)
    for layer, row in report.items():
        print(f"{layer}: trust ratio {row['trust_ratio']:.1f}")
    ratios = {layer: row["trust_ratio"] for layer, row in report.items()}
    return {
        "accuracy": accuracy,
        "left_out": left_out,
        "loss_scale": float(loss_scale),
        "trust_ratios": ratios,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-steps", type=int, default=3200)
    main(parser.parse_args().base_steps)
