"""Regressions on generated functions, with noise, scale and shape of every kind."""

from statistics import NormalDist
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.unseen.task import (
    EXAMPLES,
    Task,
    apply,
    cut,
    dense,
    explained,
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


def badly_scaled() -> Task:
    """Inputs of which some are ten times as large as others, and a robust loss."""
    rng = np.random.default_rng(9)
    scales = np.array([1, 3, 0.1, 1, 10, 1, 0.3, 1, 1, 1], np.float32)
    x = rng.normal(size=(EXAMPLES, 10)).astype(np.float32) * scales
    y = np.log1p(np.abs(x[:, 0] * x[:, 1])) + np.sin(10 * x[:, 2]) + 0.1 * x[:, 4]
    y += 0.5 * rng.normal(size=EXAMPLES)
    y = (y / y.std()).astype(np.float32)

    def predict(params, x):
        return outputs(params, x, jax.nn.silu)[:, 0]

    def loss(params, batch):
        return jnp.mean(optax.huber_loss(predict(params, batch[0]), batch[1]))

    def score(params, batch):
        return explained(predict(params, batch[0]), batch[1])

    return task_of(
        name="inputs of unequal size",
        rate=0.02,
        rates=(0.005, 0.01, 0.02, 0.05),
        adamw_rate=0.016,
        init=lambda seed: perceptron(seed, (10, 64, 64, 1)),
        losses=(loss, score),
        examples=(x, y, y),
    )


def counts() -> Task:
    """Poisson regression on a teacher's logarithm: errors grow as its exponential."""
    rng, width = np.random.default_rng(2201), 16
    x = rng.normal(size=(EXAMPLES, width)).astype(np.float32)
    hidden = np.tanh(x @ rng.normal(size=(width, 12)) / 4)
    log_mean = (hidden @ rng.normal(size=(12, 1)) / 2).astype(np.float32)
    seen = rng.poisson(np.exp(log_mean)).astype(np.float32)

    def predict(params, batch):
        return outputs(params, batch[0], jax.nn.relu)

    def loss(params, batch):
        predicted = predict(params, batch)
        return jnp.mean(jnp.exp(predicted) - batch[1] * predicted)

    def score(params, batch):
        return explained(predict(params, batch), batch[1])

    return task_of(
        name="Poisson counts",
        rate=0.01,
        rates=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1),
        adamw_rate=0.008,
        init=lambda seed: perceptron(seed, (width, 64, 64, 1)),
        losses=(loss, score),
        examples=(x, seen, log_mean),
    )


def coordinates() -> Task:
    """A picture, as a function of two coordinates, in a network of sines."""
    rng = np.random.default_rng(2202)
    x = rng.uniform(-1, 1, size=(EXAMPLES, 2)).astype(np.float32)
    waves = rng.normal(size=(2, 24)) * 8
    heights = rng.normal(size=(24, 1)) / np.sqrt(12)
    true = (np.sin(x @ waves + rng.uniform(0, 6, size=24)) @ heights).astype(np.float32)
    noisy = (true + rng.normal(size=true.shape)).astype(np.float32)

    def predict(params, batch):
        return outputs(params, 10 * batch[0], jnp.sin)

    return task_of(
        name="coordinates and sines",
        rate=0.005,
        rates=(0.002, 0.005, 0.01, 0.02, 0.05),
        adamw_rate=0.002,
        init=lambda seed: perceptron(seed, (2, 64, 64, 64, 1)),
        losses=(
            lambda params, batch: jnp.mean((predict(params, batch) - batch[1]) ** 2),
            lambda params, batch: explained(predict(params, batch), batch[1]),
        ),
        examples=(x, noisy, true),
    )


def quantiles() -> Task:
    """Five quantiles of what is seen, by the pinball loss, which has kinks."""
    rng, levels = np.random.default_rng(2301), (0.1, 0.3, 0.5, 0.7, 0.9)
    x = rng.normal(size=(EXAMPLES, 20)).astype(np.float32)
    middle = np.tanh(x @ rng.normal(size=(20, 12)) / 4) @ rng.normal(size=(12, 1))
    width = np.log1p(np.exp(x @ rng.normal(size=(20, 1)) / 4))
    seen = (middle + width * rng.normal(size=width.shape)).astype(np.float32)
    normal = np.array([NormalDist().inv_cdf(level) for level in levels])
    true = (middle + width * normal).astype(np.float32)

    def predict(params, batch):
        return outputs(params, batch[0], jax.nn.silu)

    def loss(params, batch):
        above = batch[1] - predict(params, batch)
        level = jnp.array([levels])
        return jnp.mean(jnp.maximum(level * above, (level - 1) * above))

    return task_of(
        name="quantiles",
        rate=0.1,
        rates=(0.01, 0.02, 0.05, 0.1, 0.2, 0.4),
        adamw_rate=0.008,
        init=lambda seed: perceptron(seed, (20, 64, 64, 5)),
        losses=(
            loss,
            lambda params, batch: explained(predict(params, batch), batch[1]),
        ),
        examples=(x, seen, true),
    )


def sensing() -> Task:
    """A matrix of rank four, from products with two vectors, as three small factors.

    A deep linear network that starts near its saddle at zero: one plateau for each of
    the four unequal directions, and a gradient that grows at the end of each.
    """
    rng, width, rank = np.random.default_rng(7101), 20, 4
    left, _ = np.linalg.qr(rng.normal(size=(width, rank)))
    right, _ = np.linalg.qr(rng.normal(size=(width, rank)))
    matrix = (left * np.array([2.0, 1.4, 1.0, 0.7])) @ right.T
    a, b = rng.normal(size=(2, EXAMPLES, width))
    true = np.einsum("ni,ij,nj->n", a, matrix, b)
    noisy = true + 2.0 * true.std() * rng.normal(size=EXAMPLES)
    a, b, true, noisy = (z.astype(np.float32) for z in (a, b, true, noisy))

    def init(key):
        keys = jax.random.split(key, 3)
        size = 0.12 / np.sqrt(width) * 2
        return [size * jax.random.normal(one, (width, width)) for one in keys]

    def predict(params, a, b):
        for factor in params:
            a = a @ factor
        return jnp.sum(a * b, axis=1)

    return Task(
        name="matrix sensing by three small factors",
        rate=0.0003125,
        rates=(
            0.00004,
            0.00008,
            0.00015625,
            0.0003125,
            0.000625,
            0.00125,
            0.0025,
            0.005,
        ),
        adamw_rate=0.001,
        init=init,
        loss=lambda p, batch: jnp.mean((predict(p, *batch[:2]) - batch[2]) ** 2) / 2,
        score=lambda p, batch: explained(predict(p, *batch[:2]), batch[2]),
        **cut(train=(a, b, noisy), test=(a, b, true)),
    )


def steady_state() -> Task:
    """Where a recurrent network comes to rest: a layer that is a fixed point.

    The nearer the weights are to where nothing comes to rest, the longer the gradient.
    """
    rng, width, inner = np.random.default_rng(8203), 12, 40
    x = rng.normal(size=(EXAMPLES, width)).astype(np.float32)
    mixed = rng.normal(size=(24, 24))
    mixed = mixed + mixed.T
    mixed = 0.98 * mixed / np.abs(np.linalg.eigvalsh(mixed)).max()
    pushed = x @ rng.normal(size=(width, 24)) / np.sqrt(width)
    state = np.tanh(pushed)
    for _ in range(200):
        state = np.tanh(state @ mixed + pushed)
    true = state @ rng.normal(size=(24, 4))
    true = (true / true.std(0)).astype(np.float32)
    noisy = (true + 1.0 * rng.normal(size=true.shape)).astype(np.float32)

    def init(key):
        given, again, out = jax.random.split(key, 3)
        return {
            "given": dense(given, width, inner, 0.5),
            "again": 0.5 * jax.random.normal(again, (inner, inner)) / np.sqrt(inner),
            "out": dense(out, inner, 4, 1.0),
        }

    def predict(params, x):
        given = apply(params["given"], x)

        def step(state, _):
            return jnp.tanh(state @ params["again"] + given), None

        # The gradient of the last steps is the first terms of the fixed point's own.
        found, _ = jax.lax.scan(step, jnp.zeros_like(given), length=20)
        found = jax.lax.stop_gradient(found)
        found, _ = jax.lax.scan(step, found, length=10)
        return apply(params["out"], found)

    return task_of(
        name="states of rest",
        rate=0.01,
        rates=(0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16),
        adamw_rate=0.004,
        muon_rate=0.008,
        init=init,
        losses=(
            lambda params, batch: jnp.mean((predict(params, batch[0]) - batch[1]) ** 2),
            lambda params, batch: explained(predict(params, batch[0]), batch[1]),
        ),
        examples=(x, noisy, true),
    )


def adaptation() -> Task:
    """Waves of which each shows five points, learned so that one step fits them.

    An example is a task. The inner step's rates are learned beside the weights, so the
    gradient has second derivatives in it, and tasks differ more than their points.
    """
    rng, points = np.random.default_rng(8204), 10
    height = rng.uniform(0.1, 3, size=(EXAMPLES, 1))
    phase = rng.uniform(0, np.pi, size=(EXAMPLES, 1))
    x = rng.uniform(-1, 1, size=(EXAMPLES, points))
    true = height * np.sin(4 * x + phase)
    noisy = true + 0.3 * rng.normal(size=x.shape)
    x, true, noisy = (z.astype(np.float32) for z in (x, true, noisy))

    def init(key):
        layers = perceptron(key, (1, 32, 32, 1))
        return {"layers": layers, "rates": jax.tree.map(lambda _: 0.05, layers)}

    def predict(params, x, seen):
        """Of the last five points, after a step on the first five."""

        def error(layers):
            found = outputs(layers, x[:5, None], jnp.tanh)[:, 0]
            return jnp.mean((found - seen) ** 2)

        def stepped(weights, rate, slope):
            return weights - rate * slope

        slopes = jax.grad(error)(params["layers"])
        layers = jax.tree.map(stepped, params["layers"], params["rates"], slopes)
        return outputs(layers, x[5:, None], jnp.tanh)[:, 0]

    def found(params, batch):
        return jax.vmap(predict, (None, 0, 0))(params, batch[0], batch[1][:, :5])

    return Task(
        name="waves from five points, by one step",
        rate=0.0025,
        rates=(0.000625, 0.00125, 0.0025, 0.005, 0.01, 0.02, 0.04),
        adamw_rate=0.008,
        init=init,
        loss=lambda p, batch: jnp.mean((found(p, batch) - batch[1][:, 5:]) ** 2),
        score=lambda p, batch: explained(found(p, batch), batch[2][:, 5:]),
        **cut(train=(x, noisy), test=(x, noisy, true)),
    )


def thin() -> Task:
    """Fourteen blocks of width twelve, each behind a gate that starts at zero.

    At first the network is linear in its inputs, and only gates have a gradient. What
    is learned is where a chaotic map takes a point in four steps.
    """
    rng, width, depth = np.random.default_rng(6306), 12, 14
    angle, speed = rng.uniform(0, 2 * np.pi, size=(2, EXAMPLES))
    x = np.stack([np.sin(angle), np.cos(angle), np.sin(speed), np.cos(speed)], axis=1)
    for _ in range(4):
        speed = speed + 0.7 * np.sin(angle)
        angle = angle + speed
    true = np.stack([np.sin(angle), np.cos(angle), np.sin(speed), np.cos(speed)], 1)
    noisy = true + 0.5 * rng.normal(size=true.shape)
    x, true, noisy = (z.astype(np.float32) for z in (x, true, noisy))

    def init(key):
        first, last, *others = jax.random.split(key, depth + 2)
        blocks = [{**dense(one, width, width), "gate": jnp.zeros(())} for one in others]
        ends = {"in": dense(first, 4, width, 1.0), "out": dense(last, width, 4, 1.0)}
        return {**ends, "blocks": blocks}

    def predict(params, x):
        x = apply(params["in"], x)
        for block in params["blocks"]:
            x = x + block["gate"] * jax.nn.relu(apply(block, x))
        return apply(params["out"], x)

    return task_of(
        name="fourteen thin blocks behind gates",
        rate=0.08,
        rates=(0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16),
        adamw_rate=0.016,
        init=init,
        losses=(
            lambda params, batch: jnp.mean((predict(params, batch[0]) - batch[1]) ** 2),
            lambda params, batch: explained(predict(params, batch[0]), batch[1]),
        ),
        examples=(x, noisy, true),
    )
