"""Tasks without labels: what is drawn is described, told from others, or acted on."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.unseen.task import (
    EXAMPLES,
    TRAIN,
    Task,
    explained,
    outputs,
    perceptron,
    task_of,
)


def density() -> Task:
    """A mean and a variance, by their likelihood: a loss that falls below zero."""
    rng = np.random.default_rng(2003)
    x = rng.normal(size=(EXAMPLES, 8)).astype(np.float32)
    y = np.sin(x @ rng.normal(size=8)) + np.tanh(x @ rng.normal(size=8))
    spread = 0.02 + 0.4 * (x[:, 0] > 0)
    noisy = y + spread * rng.normal(size=EXAMPLES)

    def mean_and_log_spread(params, x):
        out = outputs(params, x, jnp.tanh)
        return out[:, 0], jnp.clip(out[:, 1], -5, 5)

    def loss(params, batch):
        mean, log_spread = mean_and_log_spread(params, batch[0])
        error = (batch[1] - mean) * jnp.exp(-log_spread)
        return jnp.mean(log_spread + error**2 / 2)

    def score(params, batch):
        return explained(mean_and_log_spread(params, batch[0])[0], batch[1])

    return task_of(
        name="mean and variance by their likelihood",
        rate=0.002,
        rates=(0.0005, 0.001, 0.002, 0.005),
        adamw_rate=0.016,
        init=lambda seed: perceptron(seed, (8, 64, 64, 2)),
        losses=(loss, score),
        examples=(x, noisy.astype(np.float32), y.astype(np.float32)),
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
        adamw_rate=0.004,
        init=init,
        loss=loss,
        score=score,
        train=(one[:TRAIN], other[:TRAIN]),
        test=(one[TRAIN:], other[TRAIN:]),
        mixes_examples=True,
    )


def bandit() -> Task:
    """A policy from what was done at random and rewarded; the loss is no error."""
    rng, actions = np.random.default_rng(2304), 6
    x = rng.normal(size=(EXAMPLES, 16)).astype(np.float32)
    hidden = np.tanh(x @ rng.normal(size=(16, 24)) / 4)
    worth = 1 / (1 + np.exp(-2 * hidden @ rng.normal(size=(24, actions)) / np.sqrt(6)))
    done = rng.integers(actions, size=EXAMPLES).astype(np.int32)
    was_rewarded = rng.random(EXAMPLES) < worth[np.arange(EXAMPLES), done]
    reward = was_rewarded.astype(np.float32)

    def chances(params, x):
        return jax.nn.softmax(outputs(params, x, jax.nn.relu))

    def loss(params, batch):
        x, done, reward = batch
        taken = jnp.take_along_axis(chances(params, x), done[:, None], axis=1)[:, 0]
        return -jnp.mean(reward * taken * actions)

    def score(params, batch):
        x, worth = batch
        got = jnp.sum(chances(params, x) * worth, axis=1).mean()
        least, most = worth.mean(), worth.max(1).mean()
        return 100 * (got - least) / (most - least)

    return Task(
        name="rewarded actions",
        rate=0.005,
        rates=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1),
        adamw_rate=0.0005,
        init=lambda seed: perceptron(seed, (16, 64, 64, actions)),
        loss=loss,
        score=score,
        train=(x[:TRAIN], done[:TRAIN], reward[:TRAIN]),
        test=(x[TRAIN:], worth[TRAIN:].astype(np.float32)),
    )


def values() -> Task:
    """What states are worth, from single steps: the target moves with the network."""
    rng, width, waves, discount = np.random.default_rng(9002), 8, 6, 0.95
    rotation, _ = np.linalg.qr(rng.normal(size=(width, width)))
    moves = 0.9 * rotation
    directions = rng.normal(size=(waves, width)) * 0.8
    heights = rng.normal(size=waves)
    phases = rng.uniform(0, 6, waves)
    state = rng.normal(size=(EXAMPLES, width))
    # States keep their distribution, a standard normal one.
    pushed = np.sqrt(1 - 0.81) * rng.normal(size=(EXAMPLES, width))
    following = state @ moves.T + pushed
    # Of all that is to come, what is expected: a wave of a normal variable is damped.
    worth, power = np.zeros(EXAMPLES), np.eye(width)
    for step in range(150):
        damping = np.exp(-0.5 * (directions**2).sum(1) * (1 - 0.81**step))
        seen = np.cos(state @ power.T @ directions.T + phases) * damping
        worth += discount**step * seen @ heights
        power = moves @ power
    reward = np.cos(state @ directions.T + phases) @ heights
    spread = worth.std()
    noise = 0.5 * reward.std() / spread * rng.normal(size=EXAMPLES)
    arrays = (state, following, reward / spread + noise, worth / spread)
    state, following, reward, worth = (x.astype(np.float32) for x in arrays)

    def value(params, state):
        return outputs(params, state, jax.nn.relu)[:, 0]

    def loss(params, batch):
        state, following, reward = batch
        target = jax.lax.stop_gradient(reward + discount * value(params, following))
        return jnp.mean((value(params, state) - target) ** 2) / 2

    return Task(
        name="values of states",
        rate=0.04,
        rates=(0.005, 0.01, 0.02, 0.04, 0.08),
        adamw_rate=0.004,
        init=lambda key: perceptron(key, (width, 64, 64, 1)),
        loss=loss,
        score=lambda params, batch: explained(value(params, batch[0]), batch[1]),
        train=(state[:TRAIN], following[:TRAIN], reward[:TRAIN]),
        test=(state[TRAIN:], worth[TRAIN:]),
    )
