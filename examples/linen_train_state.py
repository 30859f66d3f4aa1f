"""A flax linen loop with `TrainState` and BatchNorm, on a large batch.

    python examples/linen_train_state.py

flax's own `TrainState.apply_gradients` passes no keyword arguments on to the optimizer;
`optax_lena.flax.TrainState` passes the moments. The running averages of BatchNorm come
out of the loss as auxiliary data, and are averaged over the microbatches. Expect a test
accuracy of 98 % on the digits after 200 updates of 256 examples.
"""

import argparse
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import optax_lena.flax

SCALE = 16  # the batch, in base batches of 16 examples


class Net(nn.Module):
    """Two hidden layers with BatchNorm."""

    @nn.compact
    def __call__(self, x, train):
        """Returns the logits."""
        for _ in range(2):
            # 0.9: running averages count updates, and a large batch makes few of them.
            norm = nn.BatchNorm(use_running_average=not train, momentum=0.9)
            x = nn.relu(norm(nn.Dense(64)(x)))
        return nn.Dense(10)(x)


class TrainState(optax_lena.flax.TrainState):
    """With the running averages of BatchNorm, as in flax's own examples."""

    batch_stats: Any


@jax.jit
def train_step(state, batch):
    """Makes one update."""

    def loss_fn(params, microbatch):
        x, y = microbatch
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, new = state.apply_fn(variables, x, train=True, mutable=["batch_stats"])
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
        return loss, new["batch_stats"]

    # "mean" says it; the default would find it out from the shapes.
    gather = optax_lena.value_and_grad(loss_fn, SCALE, has_aux=True, aux="mean")
    (loss, batch_stats), grads, moments = gather(state.params, batch)
    state = state.apply_gradients(
        grads=grads, moments=moments, value=loss, batch_stats=batch_stats
    )
    return state, loss


def main(base_steps=3200):
    """Trains; returns the test accuracy before and after."""
    x, y = load_digits(return_X_y=True)
    x, y = x.astype(np.float32) / 16, y.astype(np.int32)
    rng = np.random.default_rng(0)
    train, test = np.split(rng.permutation(len(x)), [1437])

    model = Net()
    variables = model.init(jax.random.key(0), x[:1], train=False)
    schedule = optax.cosine_decay_schedule(0.02, decay_steps=base_steps)
    tx = optax_lena.lena_amplified(schedule, SCALE, warmup_steps=base_steps // 20)
    state = TrainState.create(apply_fn=model.apply, tx=tx, **variables)

    def accuracy(state):
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        logits = model.apply(variables, x[test], train=False)
        return float(jnp.mean(logits.argmax(-1) == y[test]))

    before = accuracy(state)
    updates = base_steps // SCALE
    for _ in range(updates):
        rows = rng.choice(train, 16 * SCALE)
        state, _ = train_step(state, (x[rows], y[rows]))
    after = accuracy(state)
    print(f"test accuracy {before:.1%} -> {after:.1%}, {int(state.step)} updates")
    for layer, row in optax_lena.layer_report(state.opt_state).items():
        print(f"{layer}: trust ratio {row['trust_ratio']:.1f}")
    return {"before": before, "after": after, "updates": int(state.step)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-steps", type=int, default=3200)
    main(parser.parse_args().base_steps)
