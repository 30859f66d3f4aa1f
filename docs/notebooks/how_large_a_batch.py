# %% [markdown]
# # How large a batch
#
# `monitor` watches the noise behind any optimizer and changes nothing. `advise` reads
# its log and says how large a batch would still pay off. The page is a program:
# `python docs/notebooks/how_large_a_batch.py`.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import optax_lena
import optax_lena.plotting

BASE_BATCH, SCALE, UPDATES = 8, 8, 400

# %% [markdown]
# A network learns a sine from examples with very noisy targets, with AdamW.


# %%
def loss_fn(params, batch):
    x, y = batch
    return jnp.mean((jnp.tanh(x @ params["hidden"]) @ params["out"] - y) ** 2)


def make_batch(key):
    keys = jax.random.split(key)
    x = jax.random.normal(keys[0], (BASE_BATCH * SCALE, 8))
    return x, jnp.sin(2 * x[:, :1]) + jax.random.normal(keys[1], (len(x), 1)) / 2


tx = optax_lena.monitor(optax.adamw(3e-3), batch_scale=SCALE)
gather = optax_lena.value_and_grad(loss_fn, num_microbatches=SCALE)


def step(carry, key):
    params, state = carry
    loss, grads, moments = gather(params, make_batch(key))
    updates, state = tx.update(grads, state, params, moments=moments)
    params = optax.apply_updates(params, updates)
    return (params, state), {"loss": loss, **optax_lena.metrics(state)}


keys = jax.random.split(jax.random.key(0), 3)
params = {
    "hidden": jax.random.normal(keys[0], (8, 64)) / 3,
    "out": jax.random.normal(keys[1], (64, 1)) / 8,
}
steps = jax.random.split(keys[2], UPDATES)
_, history = jax.lax.scan(step, (params, tx.init(params)), steps)
print(f"loss {history['loss'][0]:.2f} -> {history['loss'][-20:].mean():.2f}")

# %% [markdown]
# The noise scale, in base batches, is the batch at which half of the gradient's squared
# norm is noise. It rises while the model learns: late in a run a larger batch pays off.

# %%
figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
optax_lena.plotting.plot_layers(history, "noise_scale", ax=axes)
plt.show()

# %% [markdown]
# The advice: what every batch costs in examples, with its error.

# %%
logged = {name: np.asarray(values) for name, values in history.items()}
advice = optax_lena.advise(logged, base_batch=BASE_BATCH)
print(advice)

# %%
assert advice.critical_scale > 1
