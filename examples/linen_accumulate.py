"""A flax linen loop that is not changed at all: `accumulate` wraps its optimizer.

    python examples/linen_accumulate.py

For loops that know nothing of moments and that you do not want to touch: each call
brings the gradient of one base batch of 16 digits, every 16th call makes an update from
the mean of 16. `train` is run twice, with plain momentum SGD and with LENA. Expect the
same test accuracy, 98 %, from 3,200 updates and from 200 of them.
"""

import argparse

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training import train_state
from sklearn.datasets import load_digits

import optax_lena

SCALE = 16  # base batches in the batch of one update


class Net(nn.Module):
    """Two hidden layers."""

    @nn.compact
    def __call__(self, x):
        """Returns the logits."""
        for _ in range(2):
            x = nn.relu(nn.Dense(64)(x))
        return nn.Dense(10)(x)


@jax.jit
def train_step(state, x, y):
    """Makes one step of a plain linen loop."""

    def loss_fn(params):
        logits = state.apply_fn({"params": params}, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    loss, grads = jax.value_and_grad(loss_fn)(state.params)
    return state.apply_gradients(grads=grads), loss


def train(tx, base_steps):
    """Runs a plain linen loop; returns the test accuracy and the final state."""
    x, y = load_digits(return_X_y=True)
    x, y = x.astype(np.float32) / 16, y.astype(np.int32)
    rng = np.random.default_rng(0)
    rows, test = np.split(rng.permutation(len(x)), [1437])

    model = Net()
    params = model.init(jax.random.key(0), x[:1])["params"]
    state = train_state.TrainState.create(apply_fn=model.apply, params=params, tx=tx)
    for _ in range(base_steps):
        batch = rng.choice(rows, 16)
        state, _ = train_step(state, x[batch], y[batch])
    logits = state.apply_fn({"params": state.params}, x[test])
    return float(jnp.mean(logits.argmax(-1) == y[test])), state


def main(base_steps=3200):
    """Trains with both optimizers; returns the accuracies and LENA's updates."""
    schedule = optax.cosine_decay_schedule(0.02, decay_steps=base_steps)
    plain, _ = train(optax.sgd(schedule, momentum=0.9), base_steps)
    print(f"momentum SGD: test accuracy {plain:.1%}, {base_steps} updates")

    lena = optax_lena.lena_amplified(schedule, SCALE, warmup_steps=base_steps // 20)
    accuracy, state = train(optax_lena.accumulate(lena, SCALE), base_steps)
    updates = int(state.opt_state.updates)
    print(f"LENA:         test accuracy {accuracy:.1%}, {updates} updates")
    for layer, row in optax_lena.layer_report(state.opt_state).items():
        print(f"{layer}: trust ratio {row['trust_ratio']:.1f}")
    return {"plain": plain, "lena": accuracy, "updates": updates}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-steps", type=int, default=3200)
    main(parser.parse_args().base_steps)
