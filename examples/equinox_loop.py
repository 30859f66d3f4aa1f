"""An Equinox loop: the parameters are the arrays of a module.

    pip install equinox
    python examples/equinox_loop.py

`eqx.partition` splits a model into its arrays, which are the parameters, and the rest.
Every gatherer and optimizer takes them as it takes any pytree, and layers have the
names of the module's fields. Expect a test accuracy of 98 % on the digits after 200
updates of 256 examples.
"""

import argparse
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import optax_lena

try:
    import equinox as eqx
except ImportError:
    print("equinox is not installed: pip install equinox", file=sys.stderr)
    raise SystemExit(2) from None

SCALE = 16  # the batch, in base batches of 16 examples


def main(base_steps=3200):
    """Trains; returns the test accuracy before and after."""
    x, y = load_digits(return_X_y=True)
    x, y = x.astype(np.float32) / 16, y.astype(np.int32)
    rng = np.random.default_rng(0)
    train, test = np.split(rng.permutation(len(x)), [1437])

    model = eqx.nn.MLP(64, 10, width_size=64, depth=2, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    schedule = optax.cosine_decay_schedule(0.02, decay_steps=base_steps)
    tx = optax_lena.lena_amplified(schedule, SCALE, warmup_steps=base_steps // 20)

    def loss_fn(params, batch):
        x, y = batch
        logits = jax.vmap(eqx.combine(params, static))(x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    gather = optax_lena.value_and_grad(loss_fn, num_microbatches=SCALE)

    @eqx.filter_jit
    def step(params, opt_state, batch):
        loss, grads, moments = gather(params, batch)
        updates, opt_state = tx.update(
            grads, opt_state, params, moments=moments, value=loss
        )
        return eqx.apply_updates(params, updates), opt_state, loss

    def accuracy(params):
        logits = jax.vmap(eqx.combine(params, static))(x[test])
        return float(jnp.mean(logits.argmax(-1) == y[test]))

    before = accuracy(params)
    opt_state = tx.init(params)
    for _ in range(base_steps // SCALE):
        rows = rng.choice(train, 16 * SCALE)
        params, opt_state, _ = step(params, opt_state, (x[rows], y[rows]))
    after = accuracy(params)
    print(f"test accuracy {before:.1%} -> {after:.1%}")
    for layer, row in optax_lena.layer_report(opt_state).items():
        print(f"{layer}: trust ratio {row['trust_ratio']:.1f}")
    return {"before": before, "after": after}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-steps", type=int, default=3200)
    main(parser.parse_args().base_steps)
