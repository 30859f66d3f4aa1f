"""The loop of `nnx_optax.py` at 16 times its batch, with LENA.

    python examples/nnx.py

The model and the recipe stay, and eight lines change, two of them to print a report:
200 updates of 256 examples instead of 3,200 of 16. Every microbatch has dropout of its
own, and BatchNorm takes its statistics from it, as it did at the small batch. Expect
the same test accuracy, and for each layer its trust ratio, which is the factor on its
learning rate.
"""

import argparse

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

import optax_lena.flax

SCALE = 16  # the batch, in base batches
BATCH = 16 * SCALE


class Net(nnx.Module):
    """Two hidden layers, with BatchNorm and dropout."""

    def __init__(self, rngs):
        """Makes the layers."""
        self.hidden = nnx.List(nnx.Linear(64, 64, rngs=rngs) for _ in range(2))
        # 0.9: running averages count updates, and a large batch makes few of them.
        norms = (nnx.BatchNorm(64, momentum=0.9, rngs=rngs) for _ in range(2))
        self.norms = nnx.List(norms)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.out = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        """Returns the logits."""
        for hidden, norm in zip(self.hidden, self.norms, strict=True):
            x = self.dropout(nnx.relu(norm(hidden(x))))
        return self.out(x)


def loss_fn(model, batch):
    """The mean cross entropy."""
    x, y = batch
    return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()


def accuracy(model, x, y):
    """Returns the accuracy in evaluation mode: running averages, no dropout."""
    model.eval()
    correct = float(jnp.mean(model(x).argmax(-1) == y))
    model.train()
    return correct


def main(base_steps=3200):
    """Trains, and returns the test accuracy before and after."""
    x, y = load_digits(return_X_y=True)
    x, y = x.astype(np.float32) / 16, y.astype(np.int32)
    rng = np.random.default_rng(0)
    train, test = np.split(rng.permutation(len(x)), [1437])

    model = Net(nnx.Rngs(0))
    schedule = optax.cosine_decay_schedule(0.02, decay_steps=base_steps)
    tx = optax_lena.lena_amplified(schedule, SCALE, warmup_steps=base_steps // 20)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    gather = optax_lena.flax.value_and_grad(loss_fn, num_microbatches=SCALE)

    @nnx.jit
    def step(model, optimizer, batch):
        loss, grads, moments = gather(model, batch)
        optimizer.update(model, grads, moments=moments, value=loss)
        return loss

    before = accuracy(model, x[test], y[test])
    updates = base_steps // SCALE
    for _ in range(updates):
        rows = rng.choice(train, BATCH)
        step(model, optimizer, (x[rows], y[rows]))
    after = accuracy(model, x[test], y[test])
    print(f"test accuracy {before:.1%} -> {after:.1%}, {updates} updates of {BATCH}")
    for layer, row in optax_lena.layer_report(optimizer.opt_state).items():
        print(f"{layer}: trust ratio {row['trust_ratio']:.1f}")
    return {"before": before, "after": after, "updates": updates}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-steps", type=int, default=3200)
    main(parser.parse_args().base_steps)
