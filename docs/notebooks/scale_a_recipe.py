# %% [markdown]
# # Scale a recipe
#
# A classifier of handwritten digits was tuned at a batch of 16. Here it is trained at
# 32 times that batch, three times: with the rate unchanged, with the rate times 32,
# and with LENA. The page is a program: `python docs/notebooks/scale_a_recipe.py`.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits

import optax_lena

BASE_BATCH, BASE_STEPS, SCALE = 16, 1600, 32

x, y = load_digits(return_X_y=True)
x = x.astype(np.float32) / 16
order = np.random.default_rng(0).permutation(len(x))
train, test = order[360:], order[:360]

# %% [markdown]
# The recipe: a network with one hidden layer, momentum SGD, a cosine schedule.


# %%
def logits(params, x):
    return jax.nn.relu(x @ params["hidden"]) @ params["out"]


def loss_fn(params, batch):
    x, y = batch
    found = optax.softmax_cross_entropy_with_integer_labels(logits(params, x), y)
    return found.mean()


def initial():
    keys = jax.random.split(jax.random.key(0))
    hidden = jax.random.normal(keys[0], (64, 128)) / 8
    return {"hidden": hidden, "out": jax.random.normal(keys[1], (128, 10)) / 12}


schedule = optax.cosine_decay_schedule(0.05, decay_steps=BASE_STEPS)

# %% [markdown]
# One loop serves all of them. `scale` is the batch in base batches, and every run sees
# the same number of examples. An optimizer that needs no moments ignores them.


# %%
def run(tx, scale, gather):
    tx = optax.with_extra_args_support(tx)

    @jax.jit
    def step(params, state, batch):
        loss, grads, moments = gather(params, batch)
        updates, state = tx.update(grads, state, params, moments=moments, value=loss)
        return optax.apply_updates(params, updates), state

    params, rng, accuracies = initial(), np.random.default_rng(1), []
    state = tx.init(params)
    for _ in range(BASE_STEPS // scale):
        rows = rng.choice(train, BASE_BATCH * scale)
        params, state = step(params, state, (x[rows], y[rows]))
        right = logits(params, x[test]).argmax(-1) == y[test]
        accuracies.append(100 * float(right.mean()))
    return accuracies, state


gather = optax_lena.value_and_grad(loss_fn, num_microbatches=SCALE)
small = optax_lena.value_and_grad(loss_fn, num_microbatches=2)
at = lambda factor: optax.sgd(lambda t: factor * schedule(SCALE * t), momentum=0.9)
lena = optax_lena.lena_amplified(schedule, SCALE, warmup_steps=BASE_STEPS // 20)
runs = {
    "base batch": run(optax.sgd(schedule, momentum=0.9), 1, small),
    "32 batches, same rate": run(at(1), SCALE, gather),
    "32 batches, rate x 32": run(at(SCALE), SCALE, gather),
    "32 batches, LENA": run(lena, SCALE, gather),
}
for name, (accuracies, _) in runs.items():
    print(f"{name:22} {accuracies[-1]:5.1f} % after {len(accuracies):4} updates")

# %%
figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
for name, (accuracies, _) in runs.items():
    seen = np.linspace(0, BASE_STEPS, len(accuracies) + 1)[1:]
    axes.plot(seen, accuracies, label=name)
axes.set(xlabel="base batches seen", ylabel="test accuracy (%)", ylim=(0, 100))
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# Why it works, layer by layer: the factor on each layer's rate, and the gain.

# %%
for layer, row in optax_lena.layer_report(runs["32 batches, LENA"][1]).items():
    print(f"{layer:7} rate x {row['trust_ratio']:4.1f}, gain {row['gain']:4.1f}")

# %%
base, large = (runs[name][0][-1] for name in ("base batch", "32 batches, LENA"))
assert large > base - 3, (base, large)
