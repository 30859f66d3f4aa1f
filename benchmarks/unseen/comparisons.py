"""Learning from comparisons: with another class, with unlabelled data, with noise."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.unseen.task import (
    EXAMPLES,
    TRAIN,
    Task,
    cut,
    explained,
    outputs,
    perceptron,
    unit_length,
)


def triplets() -> Task:
    """Which two of three are of one kind, by a hinge loss that is soon zero for most.

    Places on a sphere, which start close together: where all are the same the loss is
    the margin, and nothing has a gradient. Kinds of the test set are others.
    """
    rng, kinds, latent, width, margin = np.random.default_rng(5401), 240, 5, 24, 0.4
    known = kinds - 40
    centres = rng.normal(size=(kinds, latent))
    # Of the training set first; what another kind is taken from are its own neighbours,
    # for those far away teach nothing.
    negative, own = np.zeros((2, EXAMPLES), int)
    for rows, first, last in (
        (slice(TRAIN), 0, known),
        (slice(TRAIN, None), known, kinds),
    ):
        group = centres[first:last]
        far = np.linalg.norm(group[:, None] - group, axis=-1)
        neighbours = far.argsort(1)[:, 1:7]
        count = len(own[rows])
        chosen = rng.integers(len(group), size=count)
        own[rows] = first + chosen
        negative[rows] = first + neighbours[chosen, rng.integers(6, size=count)]
    maps = rng.normal(size=(2 * latent, 32)), rng.normal(size=(32, width))

    def seen(kind):
        place = centres[kind] + 0.35 * rng.normal(size=(EXAMPLES, latent))
        # As much again says nothing of the kind.
        light = 1.5 * rng.normal(size=(EXAMPLES, latent))
        hidden = np.tanh(np.concatenate([place, light], 1) @ maps[0] / np.sqrt(latent))
        return (hidden @ maps[1] / np.sqrt(32)).astype(np.float32)

    arrays = seen(own), seen(own), seen(negative)

    def apart(params, batch):
        """Squared distances to the one of the same kind and to the other one."""
        found = [outputs(params, x, jax.nn.relu) for x in batch]
        anchor, same, other = map(unit_length, found)
        return jnp.sum((anchor - same) ** 2, 1), jnp.sum((anchor - other) ** 2, 1)

    def loss(params, batch):
        near, far = apart(params, batch)
        return jnp.mean(jax.nn.relu(near - far + margin))

    def score(params, batch):
        """The share of triplets that are told apart, above chance."""
        near, far = apart(params, batch)
        return 200 * jnp.mean(near < far) - 100

    return Task(
        name="two of three of one kind",
        rate=0.025,
        rates=(0.0125, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8),
        adamw_rate=0.004,
        init=lambda key: perceptron(key, (width, 64, 64, 8)),
        loss=loss,
        score=score,
        **cut(train=arrays, test=arrays),
    )


def positives() -> Task:
    """Some examples of one class are labelled, none of the other; the rest are not.

    The risk of the other class is a difference of two, which a batch may find below
    zero; it is then undone instead of followed. So the loss's gradient has kinks and
    turns its sign, and examples of a batch meet.
    """
    rng, width, known = np.random.default_rng(5402), 16, 1000
    maps = rng.normal(size=(width, 24)) * 1.3 / np.sqrt(width), rng.normal(size=24)

    def drawn(count):
        x = rng.normal(size=(count, width))
        height = np.tanh(x @ maps[0]) @ maps[1] + 0.5 * rng.normal(size=count)
        return x.astype(np.float32), height

    x, height = drawn(EXAMPLES)
    level = np.quantile(height, 0.6)
    prior = 0.4
    others, found = drawn(8 * known)
    labelled = others[found > level][:known]
    same = labelled[rng.integers(known, size=EXAMPLES)]
    is_own = (height > level).astype(np.float32)

    def predict(params, x):
        return outputs(params, x, jax.nn.relu)[:, 0]

    def loss(params, batch):
        known, any_x = (predict(params, x) for x in batch)
        missed = prior * jnp.mean(jax.nn.softplus(-known))
        alarm = jnp.mean(jax.nn.softplus(any_x))
        alarm = alarm - prior * jnp.mean(jax.nn.softplus(known))
        return missed + jnp.where(alarm < 0, -alarm, alarm)

    def score(params, batch):
        """The share of those found less the share of false alarms."""
        x, is_own = batch
        is_found = predict(params, x) > 0
        alarms = jnp.sum(is_found * (1 - is_own)) / jnp.sum(1 - is_own)
        return 100 * (jnp.sum(is_found * is_own) / jnp.sum(is_own) - alarms)

    return Task(
        name="positives and unlabelled ones",
        rate=0.16,
        rates=(0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64),
        adamw_rate=0.0005,
        init=lambda key: perceptron(key, (width, 64, 64, 1)),
        loss=loss,
        score=score,
        **cut(train=(same, x), test=(x, is_own)),
        mixes_examples=True,
    )


def energy() -> Task:
    """An energy, told from five draws of noise per point; its constant is learned too.

    A density without its integral: at first it is hundreds of times too high
    everywhere, and one number that all examples share has to come down.
    """
    rng, width, parts, draws = np.random.default_rng(5403), 4, 7, 5
    centres = 1.6 * rng.normal(size=(parts, width))
    stretches = 0.3 * rng.normal(size=(parts, width, width)) + 0.7 * np.eye(width)
    chosen = rng.integers(parts, size=EXAMPLES)
    x = rng.normal(size=(EXAMPLES, 1, width)) @ stretches[chosen].swapaxes(1, 2)
    x = x[:, 0] + centres[chosen]
    # Noise of the points' own mean and spread.
    mean, root = x.mean(0), np.linalg.cholesky(np.cov(x.T))
    noise = rng.normal(size=(EXAMPLES, draws, width)) @ root.T + mean

    def log_normal(x, mean, root):
        at = np.linalg.solve(root, (x - mean).reshape(-1, width).T)
        _, log_volume = np.linalg.slogdet(root)
        found = -0.5 * (at**2).sum(0) - log_volume - width / 2 * np.log(2 * np.pi)
        return found.reshape(x.shape[:-1])

    def log_true(x):
        each = [log_normal(x, *part) for part in zip(centres, stretches, strict=True)]
        return np.logaddexp.reduce(each) - np.log(parts)

    known = log_normal(x, mean, root), log_normal(noise, mean, root)
    arrays = [a.astype(np.float32) for a in (x, noise, *known)]
    true = np.maximum(log_true(x), -12).astype(np.float32)

    def init(key):
        return {"net": perceptron(key, (width, 64, 64, 1)), "constant": jnp.zeros(())}

    def log_density(params, x):
        return outputs(params["net"], x, jax.nn.silu)[..., 0] + params["constant"]

    def loss(params, batch):
        x, noise, of_x, of_noise = batch
        odds = log_density(params, x) - of_x - np.log(draws)
        of_others = log_density(params, noise) - of_noise - np.log(draws)
        wrong = jax.nn.softplus(-odds) + jnp.sum(jax.nn.softplus(of_others), axis=1)
        return jnp.mean(wrong)

    return Task(
        name="energy beside noise",
        rate=0.02,
        rates=(0.00125, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08),
        adamw_rate=0.008,
        init=init,
        loss=loss,
        score=lambda params, batch: explained(log_density(params, batch[0]), batch[1]),
        **cut(train=arrays, test=(arrays[0], true)),
    )
