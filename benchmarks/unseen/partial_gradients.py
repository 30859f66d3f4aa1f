"""Partial gradients: of rows that occur, through rounding, of one of two views."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.unseen.task import (
    EXAMPLES,
    TRAIN,
    Task,
    apply,
    classifier,
    cut,
    dense,
    explained,
    outputs,
    perceptron,
    task_of,
    unit_length,
)


def clicks() -> Task:
    """Which of many offers are clicked, by what four tables in bfloat16 say of them.

    Most rows are rare, and so are clicks. A row is kept in eight bits, which lose what
    is added when it is small beside what is there.
    """
    rng, width, numbers = np.random.default_rng(4604), 6, 4
    sizes = (800, 300, 100, 40)
    shares = [1 / np.arange(3, size + 3) for size in sizes]
    rows = [
        rng.choice(size, size=EXAMPLES, p=share / share.sum())
        for size, share in zip(sizes, shares, strict=True)
    ]
    dense_x = rng.normal(size=(EXAMPLES, numbers)).astype(np.float32)
    tastes = np.stack(
        [rng.normal(size=(size, 6))[row] for size, row in zip(sizes, rows, strict=True)]
    )
    offsets = sum(taste[:, 0] for taste in tastes)
    together = (tastes[0] * tastes[1]).sum(1) + (tastes[1] * tastes[2]).sum(1)
    moved = np.tanh(dense_x @ rng.normal(size=(numbers, 6))) * tastes[3]
    odds = 0.8 * offsets + 0.3 * together + 0.6 * moved.sum(1) - 4.0
    chance = (1 / (1 + np.exp(-odds))).astype(np.float32)
    is_clicked = (rng.random(EXAMPLES) < chance).astype(np.float32)
    rows = np.stack(rows, axis=1).astype(np.int32)
    base = float(is_clicked[:TRAIN].mean())
    parts = len(sizes) + 1
    pairs = np.triu_indices(parts, 1)

    def init(key):
        keys = jax.random.split(key, len(sizes) + 2)
        return {
            "tables": [
                (0.3 * jax.random.normal(one, (size, width))).astype(jnp.bfloat16)
                for one, size in zip(keys, sizes, strict=False)
            ],
            "below": perceptron(keys[-2], (numbers, 16, width)),
            "above": perceptron(keys[-1], (len(pairs[0]) + parts * width, 48, 1)),
        }

    def predict(params, rows, x):
        met = [table[row] for table, row in zip(params["tables"], rows.T, strict=True)]
        met = [one.astype(jnp.float32) for one in met]
        both = jnp.stack([*met, outputs(params["below"], x, jax.nn.relu)], axis=1)
        fit = jnp.einsum("bid,bjd->bij", both, both)[:, pairs[0], pairs[1]]
        fit = fit / np.sqrt(width)
        joined = jnp.concatenate([fit, both.reshape(len(x), -1)], axis=1)
        return outputs(params["above"], joined, jax.nn.relu)[:, 0]

    def misfit(logits, chance):
        return jnp.mean(jax.nn.softplus(logits) - chance * logits)

    def loss(params, batch):
        *seen, is_clicked = batch
        return misfit(predict(params, *seen), is_clicked)

    def score(params, batch):
        """What is known beyond the share of clicks, of what could be."""
        *seen, chance = batch
        known, ignorant = (
            misfit(logits, chance)
            for logits in (
                jnp.log(chance) - jnp.log1p(-chance),
                jnp.full(chance.shape, np.log(base / (1 - base)), jnp.float32),
            )
        )
        wrong = misfit(predict(params, *seen), chance)
        return 100 * (ignorant - wrong) / (ignorant - known)

    return Task(
        name="clicks on rare offers",
        rate=0.2,
        rates=(0.0125, 0.025, 0.05, 0.1, 0.2, 0.4),
        adamw_rate=0.004,
        init=init,
        loss=loss,
        score=score,
        **cut(train=(rows, dense_x, is_clicked), test=(rows, dense_x, chance)),
    )


def few_bits() -> Task:
    """A network of weights and activations of two bits each, whose steps are learned.

    Rounding passes gradients on as if it were not there, and none where it cuts. One
    number is the step of a layer, and most of the layer's output hangs on it.
    """
    rng, width, classes = np.random.default_rng(4605), 24, 6
    x = rng.normal(size=(EXAMPLES, width)).astype(np.float32)
    hidden = np.tanh(x @ rng.normal(size=(width, 32)) * 1.2 / np.sqrt(width))
    logits = hidden @ rng.normal(size=(32, classes))
    labels = logits.argmax(1).astype(np.int32)
    is_wrong = rng.random(EXAMPLES) < 0.1
    seen = np.where(is_wrong, rng.integers(classes, size=EXAMPLES), labels)
    sizes = (width, 48, 48, 48, classes)

    def init(key):
        layers = perceptron(key, sizes)
        for depth, layer in enumerate(layers):
            layer["weight_step"] = jnp.mean(jnp.abs(layer["kernel"]))
            # Inputs are as they are.
            if depth:
                layer["step"] = jnp.array(0.5)
        return layers

    def rounded(x, step, count, least, most):
        """To whole steps, of which there are a few."""
        # What so many share would move too far at once.
        slow = step / np.sqrt(count * most)
        step = jnp.abs(slow + jax.lax.stop_gradient(step - slow)) + 1e-6
        x = jnp.clip(x / step, least, most)
        return (x + jax.lax.stop_gradient(jnp.round(x) - x)) * step

    def predict(params, x):
        for depth, layer in enumerate(params):
            kernel = layer["kernel"]
            kernel = rounded(kernel, layer["weight_step"], kernel.size, -2, 1)
            if depth:
                x = rounded(x, layer["step"], x.shape[1], 0, 3)
            x = apply({"kernel": kernel, "bias": layer["bias"]}, x)
        return x

    return task_of(
        name="weights of two bits",
        rate=0.04,
        rates=(0.0025, 0.005, 0.01, 0.02, 0.04, 0.08),
        adamw_rate=0.004,
        init=init,
        losses=classifier(predict),
        examples=(x, seen.astype(np.int32), labels),
    )


def views() -> Task:
    """Two views of one thing, each to be predicted from the other, without negatives.

    What is told has no gradient, and the loss, which is below zero, is as small as can
    be where all things look the same. Only a norm of the batch is against it.
    """
    rng, latent, light, width, told = np.random.default_rng(4606), 4, 12, 24, 10
    z = rng.normal(size=(EXAMPLES, latent))
    mixed = rng.normal(size=(latent + light, 40)), rng.normal(size=(40, width))

    def seen():
        own = z + 0.3 * rng.normal(size=z.shape)
        # Light is another in each view, and there is more of it.
        both = np.concatenate([own, 1.5 * rng.normal(size=(EXAMPLES, light))], axis=1)
        hidden = np.tanh(both @ mixed[0] / np.sqrt(latent + light))
        return (hidden @ mixed[1] / np.sqrt(40)).astype(np.float32)

    one, other, z = seen(), seen(), z.astype(np.float32)

    def init(key):
        keys = jax.random.split(key, 3)
        return {
            "encoder": [dense(keys[0], width, 48), dense(keys[1], 48, told, 1.0)],
            "predictor": perceptron(keys[2], (told, 16, told)),
        }

    def normed(x):
        x = x - x.mean(0, keepdims=True)
        return x / jnp.sqrt(jnp.mean(x**2, axis=0, keepdims=True) + 1e-3)

    def encode(params, x):
        first, second = params["encoder"]
        return normed(apply(second, jax.nn.relu(normed(apply(first, x)))))

    def apart(params, code, other):
        """Minus the cosine of what is thought of the other view and what it is."""
        guess = unit_length(outputs(params["predictor"], code, jax.nn.relu))
        other = unit_length(other)
        return -jnp.mean(jnp.sum(guess * jax.lax.stop_gradient(other), axis=1))

    def loss(params, batch):
        one, other = (encode(params, x) for x in batch)
        return (apart(params, one, other) + apart(params, other, one)) / 2

    def score(params, batch):
        """How much of the thing itself a linear map of its code finds."""
        x, z = batch
        code = encode(params, x)
        half = len(x) // 2
        gram = code[:half].T @ code[:half] + 0.01 * half * jnp.eye(told)
        found = code[half:] @ jnp.linalg.solve(gram, code[:half].T @ z[:half])
        return explained(found, z[half:])

    return Task(
        name="one view told by another",
        rate=0.1,
        rates=(0.0125, 0.025, 0.05, 0.1, 0.2),
        adamw_rate=0.004,
        init=init,
        loss=loss,
        score=score,
        **cut(train=(one, other), test=(one, z)),
        mixes_examples=True,
    )
