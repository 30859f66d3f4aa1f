"""Tasks whose data are made: regressions, and classes behind a norm."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.unseen.task import (
    EXAMPLES,
    Task,
    apply,
    classifier,
    dense,
    explained,
    layer_norm,
    outputs,
    perceptron,
    task_of,
)


def deep_regression() -> Task:
    """A six-layer ReLU network on the noisy outputs of a teacher."""
    rng = np.random.default_rng(11)
    teacher = [
        rng.normal(size=shape) * scale
        for shape, scale in (
            ((32, 64), 1.5 / np.sqrt(32)),
            ((64, 64), 1.5 / 8),
            ((64, 1), 1 / 8),
        )
    ]
    x = rng.normal(size=(EXAMPLES, 32)).astype(np.float32)
    y = (np.tanh(np.tanh(x @ teacher[0]) @ teacher[1]) @ teacher[2])[:, 0]
    noise = 0.5 * rng.normal(size=EXAMPLES)
    return _regression(
        x,
        y,
        noise,
        sizes=(32, 64, 64, 64, 64, 64, 1),
        name="deep regression",
        rate=0.04,
        rates=(0.01, 0.02, 0.04, 0.08),
        adamw_rate=0.008,
        muon_rate=0.004,
    )


def heavy_tails() -> Task:
    """Label noise of Student's t with 2.1 degrees of freedom: rare, huge gradients."""
    rng = np.random.default_rng(41)
    inner, outer = rng.normal(size=(24, 32)) * 1.3, rng.normal(size=(32, 1))
    x = rng.normal(size=(EXAMPLES, 24)).astype(np.float32)
    y = (np.tanh(x @ inner / np.sqrt(24)) @ outer)[:, 0]
    noise = 0.5 * rng.standard_t(2.1, size=EXAMPLES)
    return _regression(
        x,
        y,
        noise,
        sizes=(24, 64, 64, 1),
        name="heavy-tailed noise",
        rate=0.02,
        rates=(0.005, 0.01, 0.02, 0.04),
        adamw_rate=0.016,
        muon_rate=0.004,
    )


def _regression(
    x: np.ndarray,
    y: np.ndarray,
    noise: np.ndarray,
    *,
    sizes: tuple[int, ...],
    **options: Any,
) -> Task:
    y = (y / y.std()).astype(np.float32)
    noisy = (y + noise).astype(np.float32)

    def predict(params, x):
        return outputs(params, x, jax.nn.relu)[:, 0]

    return task_of(
        **options,
        init=lambda key: perceptron(key, sizes),
        losses=(
            lambda params, batch: (
                jnp.mean((predict(params, batch[0]) - batch[1]) ** 2) / 2
            ),
            lambda params, batch: explained(predict(params, batch[0]), batch[1]),
        ),
        examples=(x, noisy, y),
    )


def batch_norm() -> Task:
    """A perceptron with a norm over each microbatch, on clusters that overlap."""
    rng = np.random.default_rng(51)
    centres = rng.normal(size=(40, 24))
    of_class = rng.integers(10, size=40)
    cluster = rng.integers(40, size=EXAMPLES)
    x = (centres[cluster] + 1.5 * rng.normal(size=(EXAMPLES, 24))).astype(np.float32)
    labels = of_class[cluster].astype(np.int32)

    def init(key):
        first, second, out = jax.random.split(key, 3)
        return {
            "first": _with_scale(dense(first, 24, 64)),
            "second": _with_scale(dense(second, 64, 64)),
            "out": dense(out, 64, 10, 1.0),
        }

    def predict(params, x):
        for layer in (params["first"], params["second"]):
            x = x @ layer["kernel"]
            x = (x - x.mean(0, keepdims=True)) / (x.std(0, keepdims=True) + 1e-5)
            x = jax.nn.relu(x * layer["scale"][None] + layer["bias"][None])
        return apply(params["out"], x)

    return task_of(
        name="batch norm",
        rate=0.05,
        rates=(0.0125, 0.025, 0.05, 0.1),
        adamw_rate=0.008,
        init=init,
        losses=classifier(predict),
        examples=(x, labels, labels),
        mixes_examples=True,
    )


def _with_scale(layer: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {**layer, "scale": jnp.ones_like(layer["bias"])}


def recurrent() -> Task:
    """A gated recurrent network that counts a symbol, with wrong labels."""
    rng, length, width = np.random.default_rng(1001), 8, 24
    x = rng.integers(0, 4, size=(EXAMPLES, length)).astype(np.int32)
    labels = np.minimum((x == 1).sum(1), 4).astype(np.int32)
    is_wrong = rng.random(EXAMPLES) < 0.1
    wrong = rng.integers(5, size=EXAMPLES)
    seen = np.where(is_wrong, wrong, labels).astype(np.int32)

    def init(key):
        table, inner, again, out = jax.random.split(key, 4)
        return {
            "embedding": 0.5 * jax.random.normal(table, (4, 8)),
            "inner": dense(inner, 8, 3 * width, 1.0),
            "again": dense(again, width, 3 * width, 1.0),
            "out": dense(out, width, 5, 1.0),
        }

    def predict(params, x):
        symbols = params["embedding"][x]
        hidden = jnp.zeros((len(x), width))
        for position in range(length):
            new = jnp.split(apply(params["inner"], symbols[:, position]), 3, axis=1)
            old = jnp.split(apply(params["again"], hidden), 3, axis=1)
            keep = jax.nn.sigmoid(new[0] + old[0])
            reset = jax.nn.sigmoid(new[1] + old[1])
            hidden = keep * hidden + (1 - keep) * jnp.tanh(new[2] + reset * old[2])
        return apply(params["out"], hidden)

    return task_of(
        name="recurrent network",
        rate=0.1,
        rates=(0.05, 0.1, 0.2, 0.4),
        init=init,
        losses=classifier(predict),
        examples=(x, seen, labels),
    )


def residual_norm() -> Task:
    """Four residual blocks behind a layer norm each, on clusters with wrong labels."""
    rng, width = np.random.default_rng(1004), 48
    centres = rng.normal(size=(60, 20))
    cluster = rng.integers(60, size=EXAMPLES)
    of_class = rng.integers(8, size=60)
    x = (centres[cluster] + 1.1 * rng.normal(size=(EXAMPLES, 20))).astype(np.float32)
    labels = of_class[cluster].astype(np.int32)
    is_wrong = rng.random(EXAMPLES) < 0.2
    wrong = rng.integers(8, size=EXAMPLES)
    seen = np.where(is_wrong, wrong, labels).astype(np.int32)

    def init(key):
        first, out, *others = jax.random.split(key, 10)
        pairs = zip(others[::2], others[1::2], strict=True)
        blocks = [
            {
                "scale": jnp.ones(width),
                "offset": jnp.zeros(width),
                "up": dense(up, width, 96),
                "down": dense(down, 96, width, 0.1),
            }
            for up, down in pairs
        ]
        ends = {"in": dense(first, 20, width, 1.0), "out": dense(out, width, 8, 1.0)}
        return {**ends, "blocks": blocks}

    def predict(params, x):
        x = apply(params["in"], x)
        for block in params["blocks"]:
            hidden = jax.nn.gelu(apply(block["up"], layer_norm(block, x)))
            x = x + apply(block["down"], hidden)
        return apply(params["out"], x)

    return task_of(
        name="residual blocks with layer norm",
        rate=0.05,
        rates=(0.01, 0.02, 0.05, 0.1),
        adamw_rate=0.008,
        init=init,
        losses=classifier(predict),
        examples=(x, seen, labels),
    )
