"""Combined losses: of two parts, or of classes with unequal weights."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.unseen.task import (
    EXAMPLES,
    Task,
    accuracy,
    apply,
    cross_entropy,
    cut,
    dense,
    explained,
    outputs,
    perceptron,
    task_of,
    teacher,
)


def poisson_equation() -> Task:
    """Poisson's equation: a network's Laplacian in a square, its values on the edge."""
    rng = np.random.default_rng(9003)
    inside = rng.uniform(-1, 1, (EXAMPLES, 2))
    boundary = rng.uniform(-1, 1, (EXAMPLES, 2))
    side = rng.integers(2, size=EXAMPLES)
    boundary[np.arange(EXAMPLES), side] = np.sign(rng.normal(size=EXAMPLES))

    def sines(points):
        return np.sin(np.pi * points[:, 0]), np.sin(np.pi * points[:, 1])

    def solution(points):
        first, second = sines(points)
        # What is added has no Laplacian: only the boundary tells of it.
        return first * second + 0.5 * (points[:, 0] ** 2 - points[:, 1] ** 2)

    first, second = sines(inside)
    source = -2 * np.pi**2 * first * second
    arrays = (inside, source, boundary, solution(boundary), solution(inside))
    inside, source, boundary, held, true = (x.astype(np.float32) for x in arrays)

    def field(params, points):
        return outputs(params, 2 * points, jnp.tanh)[:, 0]

    def laplacian(params, points):
        total = 0.0
        for axis in range(2):
            along = jnp.zeros_like(points).at[:, axis].set(1.0)

            def slope(points, along=along):
                return jax.jvp(lambda x: field(params, x), (points,), (along,))[1]

            total = total + jax.jvp(slope, (points,), (along,))[1]
        return total

    def loss(params, batch):
        inside, source, boundary, held = batch
        equation = jnp.mean((laplacian(params, inside) - source) ** 2)
        return 0.01 * equation + jnp.mean((field(params, boundary) - held) ** 2)

    return Task(
        name="Poisson's equation",
        rate=0.04,
        rates=(0.0025, 0.005, 0.01, 0.02, 0.04, 0.08),
        adamw_rate=0.016,
        init=lambda key: perceptron(key, (2, 32, 32, 32, 1), gain=1.0),
        loss=loss,
        score=lambda params, batch: explained(field(params, batch[0]), batch[1]),
        **cut(train=(inside, source, boundary, held), test=(inside, true)),
    )


def two_losses() -> Task:
    """A value and a class from one trunk; their losses start near 100 and near 1."""
    rng, width, classes = np.random.default_rng(9008), 24, 5
    x = rng.normal(size=(EXAMPLES, width))
    hidden = np.tanh(x @ rng.normal(size=(width, 32)) * 1.2 / np.sqrt(width))
    value = (hidden @ rng.normal(size=(32, 1)))[:, 0]
    value = 10 * value / value.std()
    logits = hidden @ rng.normal(size=(32, classes))
    drawn = (logits + 0.5 * rng.gumbel(size=logits.shape)).argmax(1).astype(np.int32)
    likeliest = logits.argmax(1).astype(np.int32)
    noisy = (value + 5 * rng.normal(size=EXAMPLES)).astype(np.float32)
    x, value = x.astype(np.float32), value.astype(np.float32)

    def init(key):
        keys = jax.random.split(key, 4)
        return {
            "first": dense(keys[0], width, 64),
            "second": dense(keys[1], 64, 64),
            "value": dense(keys[2], 64, 1, 1.0),
            "class": dense(keys[3], 64, classes, 1.0),
        }

    def predict(params, x):
        x = jax.nn.relu(apply(params["first"], x))
        x = jax.nn.relu(apply(params["second"], x))
        return apply(params["value"], x)[:, 0], apply(params["class"], x)

    def loss(params, batch):
        x, noisy, drawn = batch
        value, logits = predict(params, x)
        return jnp.mean((value - noisy) ** 2) + cross_entropy(logits, drawn)

    def score(params, batch):
        x, true, likeliest = batch
        value, logits = predict(params, x)
        # Of the classes, how far above chance.
        chance = 1 / classes
        right = jnp.mean(logits.argmax(-1) == likeliest)
        told = 100 * (right - chance) / (1 - chance)
        return (explained(value, true) + told) / 2

    return Task(
        name="two losses of unequal size",
        rate=0.0008,
        rates=(0.0001, 0.0002, 0.0004, 0.0008, 0.0016),
        adamw_rate=0.008,
        muon_rate=0.008,
        init=init,
        loss=loss,
        score=score,
        **cut(train=(x, noisy, drawn), test=(x, value, likeliest)),
    )


def imbalanced() -> Task:
    """Two classes, of which one is fifty times as rare and weighs fifty times as much.

    The score is the share of those found less the share of false alarms.
    """
    rng, width, weight = np.random.default_rng(9004), 20, 50
    x = rng.normal(size=(EXAMPLES, width))
    hidden = np.tanh(x @ rng.normal(size=(width, 24)) * 1.3 / np.sqrt(width))
    height = (hidden @ rng.normal(size=(24, 1)))[:, 0]
    height /= height.std()
    noisy = height + 0.2 * rng.normal(size=EXAMPLES)

    def is_rare(height):
        return (height > np.quantile(height, weight / (weight + 1))).astype(np.float32)

    def logit(params, x):
        return outputs(params, x, jax.nn.relu)[:, 0]

    def loss(params, batch):
        x, rare = batch
        found = logit(params, x)
        entropy = jnp.logaddexp(0.0, found) - rare * found
        return jnp.mean(entropy * jnp.where(rare > 0, float(weight), 1.0))

    def score(params, batch):
        x, rare = batch
        found = logit(params, x) > 0
        common = 1 - rare
        alarms = jnp.sum(found * common) / common.sum()
        return 100 * (jnp.sum(found * rare) / rare.sum() - alarms)

    return task_of(
        name="one positive to fifty",
        rate=0.0025,
        rates=(0.00125, 0.0025, 0.005, 0.01, 0.02, 0.04),
        adamw_rate=0.008,
        init=lambda key: perceptron(key, (width, 64, 64, 1)),
        losses=(loss, score),
        examples=(x.astype(np.float32), is_rare(noisy), is_rare(height)),
    )


def survival() -> Task:
    """Who in a batch dies first: Cox's likelihood, with most deaths not observed.

    It knows risks beside each other only, so that the last offset has no gradient.
    """
    rng, width = np.random.default_rng(8205), 16
    x = rng.normal(size=(EXAMPLES, width))
    hidden = np.tanh(x @ rng.normal(size=(width, 20)) * 1.2 / np.sqrt(width))
    risk = hidden @ rng.normal(size=20)
    risk = 1.2 * risk / risk.std()
    death = rng.exponential(size=EXAMPLES) * np.exp(-risk)
    leaving = 0.5 * rng.exponential(size=EXAMPLES)
    time, died = np.minimum(death, leaving), (death < leaving).astype(np.float32)
    x, time, risk = (z.astype(np.float32) for z in (x, time, risk))

    def predict(params, x):
        return outputs(params, x, jax.nn.relu)[:, 0]

    def loss(params, batch):
        x, time, died = batch
        found = predict(params, x)
        is_there = time[None] >= time[:, None]
        among = jnp.where(is_there, found[None], -jnp.inf)
        surprise = jax.nn.logsumexp(among, axis=1) - found
        return jnp.sum(died * surprise) / jnp.maximum(died.sum(), 1)

    def score(params, batch):
        """The square of the correlation with the true risk."""
        found, true = predict(params, batch[0]), batch[1]
        return 100 * jnp.corrcoef(found, true)[0, 1] ** 2

    return Task(
        name="who dies first",
        rate=0.02,
        rates=(0.00125, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08),
        adamw_rate=0.008,
        muon_rate=0.008,
        init=lambda key: perceptron(key, (width, 64, 64, 1)),
        loss=loss,
        score=score,
        **cut(train=(x, time, died), test=(x, risk)),
        mixes_examples=True,
    )


def distilled() -> Task:
    """A teacher's softened answers, on blends of two inputs, beside their labels.

    At a temperature of 4, with its square before the divergence; a fifth of the labels
    is wrong. The score is how often the student agrees with the teacher on inputs that
    are not blended.
    """
    rng, width, classes, temperature = np.random.default_rng(0), 20, 10, 4.0
    x = rng.normal(size=(2, EXAMPLES, width))
    share = rng.beta(0.4, 0.4, size=(EXAMPLES, 1))
    blend = share * x[0] + (1 - share) * x[1]
    logits = teacher(rng, (width, 48, classes), np.concatenate([x[0], x[1], blend]))
    logits = 5 * (logits - logits.mean(0)) / logits.std()
    first, second, soft = np.split(logits, 3)
    labels = np.stack([first.argmax(1), second.argmax(1)], 1)
    is_wrong = rng.random(labels.shape) < 0.2
    seen = np.where(is_wrong, rng.integers(classes, size=labels.shape), labels)
    plain, blend, soft = (z.astype(np.float32) for z in (x[0], blend, soft))
    share = share[:, 0].astype(np.float32)

    def predict(params, x):
        return outputs(params, x, jax.nn.relu)

    def loss(params, batch):
        x, soft, seen, share = batch
        logits = predict(params, x)
        log_p = jax.nn.log_softmax(logits / temperature)
        log_q = jax.nn.log_softmax(soft / temperature)
        apart = jnp.sum(jnp.exp(log_q) * (log_q - log_p), -1).mean()
        hard = jnp.take_along_axis(jax.nn.log_softmax(logits), seen, axis=1)
        labelled = -jnp.mean(share * hard[:, 0] + (1 - share) * hard[:, 1])
        return 0.9 * temperature**2 * apart + 0.1 * labelled

    return Task(
        name="a student on blends, by a teacher's softened answers",
        rate=0.0125,
        rates=(0.00625, 0.0125, 0.025, 0.05, 0.1, 0.2),
        adamw_rate=0.008,
        init=lambda key: perceptron(key, (width, 32, 32, classes)),
        loss=loss,
        score=lambda params, batch: accuracy(predict(params, batch[0]), batch[1]),
        **cut(
            train=(blend, soft, seen.astype(np.int32), share),
            test=(plain, labels[:, 0]),
        ),
    )
