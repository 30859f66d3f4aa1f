"""Tasks that came once a spike cut below the base rate: no rule was chosen on them."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.unseen.task import (
    EXAMPLES,
    Task,
    classifier,
    explained,
    outputs,
    perceptron,
    task_of,
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
        init=lambda seed: perceptron(seed, (2, 64, 64, 64, 1)),
        losses=(
            lambda params, batch: jnp.mean((predict(params, batch) - batch[1]) ** 2),
            lambda params, batch: explained(predict(params, batch), batch[1]),
        ),
        examples=(x, noisy, true),
    )


def point_sets() -> Task:
    """Outlines as sets of points: the largest of what a network makes of each."""
    rng, points = np.random.default_rng(2203), 24
    labels = rng.integers(8, size=EXAMPLES).astype(np.int32)
    lobes, depth = 2 + labels // 2, 0.2 + 0.3 * (labels % 2)
    angles = rng.uniform(0, 2 * np.pi, size=(EXAMPLES, points))
    radius = 1 + depth[:, None] * np.cos(lobes[:, None] * angles)
    turned = angles + rng.uniform(0, 2 * np.pi, size=(EXAMPLES, 1))
    x = np.stack([radius * np.cos(turned), radius * np.sin(turned)], -1)
    x = (x + 0.12 * rng.normal(size=x.shape)).astype(np.float32)

    def init(seed):
        of_points, of_sets = jax.random.split(seed)
        return {
            "points": perceptron(of_points, (2, 64, 64)),
            "sets": perceptron(of_sets, (64, 64, 8)),
        }

    def predict(params, x):
        largest = outputs(params["points"], x, jax.nn.relu).max(1)
        return outputs(params["sets"], largest, jax.nn.relu)

    return task_of(
        name="sets of points",
        rate=0.05,
        rates=(0.01, 0.02, 0.05, 0.1, 0.2),
        init=init,
        losses=classifier(predict),
        examples=(x, labels, labels),
    )
