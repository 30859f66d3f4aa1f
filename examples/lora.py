"""LoRA with flax nnx: the base is frozen, and only its low-rank additions train.

    python examples/lora.py

`wrt=nnx.LoRAParam` says what trains, in the optimizer and in the gatherer alike. The
base gets no gradient, takes no part in any sum, and stays the same to the last bit. A
network learns the digits, then adapts to digits upside down. Expect its accuracy on
those to rise from about 40 % to over 90 %, with a quarter of the parameters training.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

import optax_lena.flax

SCALE = 16  # the batch, in base batches of 16 examples


class Net(nnx.Module):
    """One hidden layer; both layers have a low-rank addition, which starts at zero."""

    def __init__(self, rngs):
        """Makes the layers."""
        self.hidden = nnx.LoRALinear(64, 128, lora_rank=8, rngs=rngs)
        self.out = nnx.LoRALinear(128, 10, lora_rank=8, rngs=rngs)

    def __call__(self, x):
        """Returns the logits."""
        return self.out(nnx.relu(self.hidden(x)))


def is_base(path, variable):
    """Selects the parameters that are no part of the low-rank additions."""
    is_param = isinstance(variable, nnx.Param)
    return is_param and not isinstance(variable, nnx.LoRAParam)


def loss_fn(model, batch):
    """The mean cross entropy."""
    x, y = batch
    return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()


def train(model, wrt, batches, base_steps):
    """Trains the parameters that `wrt` selects; returns the optimizer."""
    schedule = optax.cosine_decay_schedule(0.02, decay_steps=base_steps)
    tx = optax_lena.lena_amplified(schedule, SCALE, warmup_steps=base_steps // 20)
    optimizer = nnx.Optimizer(model, tx, wrt=wrt)
    gather = optax_lena.flax.value_and_grad(loss_fn, SCALE, wrt=wrt)

    @nnx.jit
    def step(model, optimizer, batch):
        loss, grads, moments = gather(model, batch)
        optimizer.update(model, grads, moments=moments, value=loss)
        return loss

    for _ in range(base_steps // SCALE):
        step(model, optimizer, next(batches))
    return optimizer


def main(base_steps=3200):
    """Trains the base, then the additions; returns accuracies upside down."""
    x, y = load_digits(return_X_y=True)
    x, y = x.astype(np.float32) / 16, y.astype(np.int32)
    rng = np.random.default_rng(0)
    rows, test = np.split(rng.permutation(len(x)), [1437])
    upside_down = x[:, ::-1]

    def batches(x):
        while True:
            batch = rng.choice(rows, 16 * SCALE)
            yield x[batch], y[batch]

    def accuracy(x):
        return float(jnp.mean(model(x[test]).argmax(-1) == y[test]))

    model = Net(nnx.Rngs(0))
    train(model, is_base, batches(x), base_steps)
    before, base = accuracy(upside_down), jax.device_get(nnx.state(model, is_base))
    print(f"base: accuracy {accuracy(x):.1%}, upside down {before:.1%}")

    optimizer = train(model, nnx.LoRAParam, batches(upside_down), base_steps)
    after = accuracy(upside_down)
    same = jax.tree.map(np.array_equal, base, jax.device_get(nnx.state(model, is_base)))
    is_frozen = jax.tree.all(same)
    print(f"with LoRA: upside down {after:.1%}, base unchanged: {is_frozen}")
    for layer, row in optax_lena.layer_report(optimizer.opt_state).items():
        print(f"{layer}: trust ratio {row['trust_ratio']:.1f}")
    return {"before": before, "after": after, "is_frozen": is_frozen}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-steps", type=int, default=3200)
    main(parser.parse_args().base_steps)
