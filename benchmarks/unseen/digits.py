"""Handwritten digits, which come with scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

from benchmarks.unseen.task import (
    TRAIN_DIGITS,
    Params,
    Task,
    apply,
    classifier,
    cut,
    dense,
    explained,
    layer_norm,
    outputs,
    perceptron,
    unit_norm,
)


def convnet() -> Task:
    """Digits as images, by convolutions without any norm."""
    images, labels = map(np.asarray, load_digits(return_X_y=True))
    order = np.random.default_rng(7).permutation(len(labels))
    x = (images.astype(np.float32) / 16).reshape(-1, 8, 8, 1)[order]
    y = labels.astype(np.int32)[order]

    def init(key):
        first, second, third, out = jax.random.split(key, 4)
        return {
            "first": dense(first, 9, 16),
            "second": dense(second, 9 * 16, 32),
            "third": dense(third, 9 * 32, 32),
            "out": dense(out, 4 * 32, 10, 1.0),
        }

    def predict(params, x):
        x = _convolved(params["first"], x)
        x = _halved(_convolved(params["second"], x))
        x = _halved(_convolved(params["third"], x))
        return apply(params["out"], x.reshape(len(x), -1))

    loss, score = classifier(predict)
    return Task(
        name="convolutions without a norm",
        rate=0.05,
        rates=(0.0125, 0.025, 0.05, 0.1),
        adamw_rate=0.004,
        init=init,
        loss=loss,
        score=score,
        **cut(train=(x, y), test=(x, y), count=1300),
    )


def _convolved(layer: Params, x: jax.Array) -> jax.Array:
    """A layer on every pixel and its eight neighbours."""
    batch, height, width, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifts = [(i, j) for i in range(3) for j in range(3)]
    own = [padded[:, i : i + height, j : j + width] for i, j in shifts]
    patches = jnp.concatenate(own, axis=-1).reshape(batch * height * width, -1)
    return jax.nn.relu(apply(layer, patches)).reshape(batch, height, width, -1)


def _halved(x: jax.Array) -> jax.Array:
    """Means over squares of two by two pixels."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))


def autoencoder() -> Task:
    """Digits through a bottleneck of ten, in a network of six layers."""
    x = load_digits(return_X_y=True)[0].astype(np.float32) / 16
    x = (x - x.mean(0))[np.random.default_rng(3).permutation(len(x))]

    def predict(params, x):
        return outputs(params, x, jnp.tanh)

    return Task(
        name="autoencoder",
        rate=0.035,
        rates=(0.0125, 0.025, 0.035, 0.05),
        adamw_rate=0.004,
        muon_rate=0.008,
        init=lambda key: perceptron(key, (64, 48, 24, 10, 24, 48, 64)),
        loss=lambda params, batch: (
            jnp.mean(jnp.sum((predict(params, batch[0]) - batch[0]) ** 2, axis=1)) / 2
        ),
        score=lambda params, batch: explained(predict(params, batch[0]), batch[0]),
        **cut(train=(x,), test=(x,), count=TRAIN_DIGITS),
    )


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
        adamw_rate=0.004,
        init=init,
        loss=loss,
        score=score,
        **cut(train=(x, labels), test=(x, labels), count=TRAIN_DIGITS),
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
        adamw_rate=0.004,
        init=init,
        loss=loss,
        score=score,
        **cut(train=(x, drawn), test=(x, drawn), count=TRAIN_DIGITS),
    )


def _digits(seed: int) -> tuple[np.ndarray, np.ndarray]:
    x, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(x))
    return (x[order] / 16).astype(np.float32), labels[order].astype(np.int32)
