"""Tasks that came once the momentum counted examples: no rule was chosen on them."""

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

from benchmarks.unseen.task import (
    EXAMPLES,
    TRAIN,
    Task,
    apply,
    classifier,
    dense,
    explained,
    layer_norm,
    outputs,
    perceptron,
    unit_norm,
)

# Of the digits, which are 1,797.
_TRAIN_DIGITS = 1400


def patches() -> Task:
    """Handwritten digits as sixteen patches, in two blocks of attention."""
    x, labels = _digits(2101)
    x = x.reshape(-1, 4, 2, 4, 2).transpose(0, 1, 3, 2, 4).reshape(-1, 16, 4)
    width, heads = 32, 4

    def block(seed):
        keys = jax.random.split(seed, 4)
        return {
            "norms": [unit_norm(width), unit_norm(width)],
            "qkv": dense(keys[0], width, 3 * width, 1.0),
            "o": dense(keys[1], width, width, 0.3),
            "up": dense(keys[2], width, 2 * width),
            "down": dense(keys[3], 2 * width, width, 0.3),
        }

    def init(seed):
        keys = jax.random.split(seed, 5)
        return {
            "in": dense(keys[0], 4, width, 1.0),
            "places": 0.1 * jax.random.normal(keys[1], (16, width)),
            "blocks": [block(key) for key in keys[2:4]],
            "norm": unit_norm(width),
            "out": dense(keys[4], width, 10, 1.0),
        }

    def attend(params, x):
        qkv = apply(params["qkv"], layer_norm(params["norms"][0], x))
        q, k, v = (
            part.reshape(*part.shape[:2], heads, -1) for part in jnp.split(qkv, 3, -1)
        )
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(width / heads)
        found = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)
        return x + apply(params["o"], found.reshape(x.shape))

    def predict(params, x):
        x = apply(params["in"], x) + params["places"][None]
        for one in params["blocks"]:
            x = attend(one, x)
            hidden = apply(one["up"], layer_norm(one["norms"][1], x))
            x = x + apply(one["down"], jax.nn.gelu(hidden))
        return apply(params["out"], layer_norm(params["norm"], x).mean(1))

    loss, score = classifier(predict)
    return Task(
        name="patches and attention",
        rate=0.01,
        rates=(0.005, 0.01, 0.02, 0.05),
        init=init,
        loss=loss,
        score=score,
        train=(x[:_TRAIN_DIGITS], labels[:_TRAIN_DIGITS]),
        test=(x[_TRAIN_DIGITS:], labels[_TRAIN_DIGITS:]),
    )


def variational() -> Task:
    """A variational autoencoder of digits; what it draws is part of the examples."""
    x, _ = _digits(2102)
    drawn = np.random.default_rng(2103).normal(size=(len(x), 8)).astype(np.float32)

    def init(seed):
        encoder, decoder = jax.random.split(seed)
        return {
            "encoder": perceptron(encoder, (64, 64, 16)),
            "decoder": perceptron(decoder, (8, 64, 64)),
        }

    def parts(params, x, drawn):
        found = outputs(params["encoder"], x - 0.3, jax.nn.relu)
        mean, log_deviation = jnp.split(found, 2, 1)
        log_deviation = jnp.clip(log_deviation, -4, 4)
        code = mean + jnp.exp(log_deviation) * drawn
        return mean, log_deviation, outputs(params["decoder"], code, jax.nn.relu)

    def loss(params, batch):
        mean, log_deviation, rebuilt = parts(params, *batch)
        error = jnp.sum((rebuilt - batch[0]) ** 2, 1) / 0.2
        surprise = mean**2 + jnp.exp(2 * log_deviation) - 2 * log_deviation - 1
        return jnp.mean(error) + jnp.mean(jnp.sum(surprise, 1)) / 2

    def score(params, batch):
        x, drawn = batch
        return explained(parts(params, x, jnp.zeros_like(drawn))[2], x)

    return Task(
        name="variational autoencoder",
        rate=0.0005,
        rates=(0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01),
        init=init,
        loss=loss,
        score=score,
        train=(x[:_TRAIN_DIGITS], drawn[:_TRAIN_DIGITS]),
        test=(x[_TRAIN_DIGITS:], drawn[_TRAIN_DIGITS:]),
    )


def contrastive() -> Task:
    """Two views of one latent point, to be told from those of fifteen others."""
    rng, latent, width, crowd = np.random.default_rng(2104), 6, 24, 64
    z = rng.normal(size=(EXAMPLES, latent))
    views = [
        np.sin(z @ rng.normal(size=(latent, width)))
        + 0.5 * rng.normal(size=(EXAMPLES, width))
        for _ in range(2)
    ]
    one, other = (view.astype(np.float32) for view in views)

    def init(seed):
        seeds = jax.random.split(seed)
        return [perceptron(key, (width, 64, 64, 16)) for key in seeds]

    def likeness(params, batch):
        found = [
            outputs(layers, x, jax.nn.relu)
            for layers, x in zip(params, batch, strict=True)
        ]
        a, b = (x / jnp.sqrt(1e-6 + jnp.sum(x**2, -1, keepdims=True)) for x in found)
        return a @ b.T / 0.2

    def loss(params, batch):
        scores = likeness(params, batch)
        own = jnp.diagonal(scores)
        rows, columns = (jax.nn.logsumexp(scores, axis) for axis in (0, 1))
        return jnp.mean((rows + columns) / 2 - own)

    def score(params, batch):
        count = len(batch[0]) // crowd
        crowds = [x[: count * crowd].reshape(count, crowd, width) for x in batch]
        found = jax.vmap(lambda *views: likeness(params, views).argmax(1))(*crowds)
        return 100 * jnp.mean(found == jnp.arange(crowd)[None])

    return Task(
        name="contrastive pairs",
        rate=0.05,
        rates=(0.01, 0.02, 0.05, 0.1, 0.2),
        init=init,
        loss=loss,
        score=score,
        train=(one[:TRAIN], other[:TRAIN]),
        test=(one[TRAIN:], other[TRAIN:]),
        mixes_examples=True,
    )


def _digits(seed: int) -> tuple[np.ndarray, np.ndarray]:
    x, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(x))
    return (x[order] / 16).astype(np.float32), labels[order].astype(np.int32)
