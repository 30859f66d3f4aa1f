"""Tasks without labels: a density, contrasts, policies, values and codes."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.unseen.task import (
    EXAMPLES,
    Task,
    cut,
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
        **cut(train=(one, other), test=(one, other)),
        mixes_examples=True,
    )


def bandit() -> Task:
    """A policy from random actions and their rewards; the loss is not an error."""
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
        **cut(train=(x, done, reward), test=(x, worth.astype(np.float32))),
    )


def values() -> Task:
    """The values of states, from single steps: the target moves with the network."""
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
        **cut(train=(state, following, reward), test=(state, worth)),
    )


def reinforce() -> Task:
    """Policy gradients of what the policy itself does, five actions to a reward.

    The loss is a surrogate: its value tells nothing, its gradient is mostly variance.
    What actions are drawn with is part of the examples, so that runs can be repeated.
    """
    rng, width, moves, actions = np.random.default_rng(7103), 8, 5, 4
    x = rng.normal(size=(EXAMPLES, width)).astype(np.float32)
    drawn = rng.gumbel(size=(EXAMPLES, moves, actions)).astype(np.float32)
    wish = rng.normal(size=(width, 2)) * 1.2 / np.sqrt(width)
    goal = (2.5 * np.tanh(x @ wish)).astype(np.float32)
    ways = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]], np.float32)

    def init(key):
        policy, value = jax.random.split(key)
        return {
            "policy": perceptron(policy, (width + 3, 48, 48, actions)),
            "value": perceptron(value, (width, 48, 1)),
        }

    def episode(params, x, goal, drawn):
        """The logarithm of the chance of what was done, its reward, and entropy."""
        place, log_chance, entropy = jnp.zeros_like(goal), 0.0, 0.0
        for move in range(moves):
            time = jnp.full((len(x), 1), move / moves)
            read = jnp.concatenate([x, place, time], axis=1)
            log_p = jax.nn.log_softmax(outputs(params["policy"], read, jnp.tanh))
            done = jax.nn.one_hot((log_p + drawn[:, move]).argmax(-1), actions)
            done = jax.lax.stop_gradient(done)
            log_chance = log_chance + jnp.sum(log_p * done, axis=1)
            entropy = entropy - jnp.sum(jnp.exp(log_p) * log_p, axis=1)
            place = place + done @ ways
        reward = jnp.exp(-jnp.sum((place - goal) ** 2, axis=1) / 2)
        return log_chance, reward, entropy

    def loss(params, batch):
        x, goal, drawn = batch
        log_chance, reward, entropy = episode(params, x, goal, drawn)
        value = outputs(params["value"], x, jnp.tanh)[:, 0]
        advantage = jax.lax.stop_gradient(reward - value)
        surrogate = -log_chance * advantage - 0.002 * entropy
        return jnp.mean(surrogate + (value - reward) ** 2 / 2)

    def score(params, batch):
        return 100 * jnp.mean(episode(params, *batch)[1])

    arrays = (x, goal, drawn)
    return Task(
        name="policy gradients of five moves",
        rate=0.04,
        rates=(0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32),
        adamw_rate=0.008,
        muon_rate=0.008,
        init=init,
        loss=loss,
        score=score,
        **cut(train=arrays, test=arrays),
    )


def hashing() -> Task:
    """Sign codes, by straight-through gradients: two of a kind nearer than a third.

    A hinge on triplets: ever fewer of them have a gradient at all, and it is not that
    of the loss. Weights are normalised, so their length is free.
    """
    rng, width, kinds, bits = np.random.default_rng(7106), 24, 30, 16
    inner = rng.normal(size=(10, width)) / np.sqrt(10)
    outer = rng.normal(size=(width, width)) / np.sqrt(width)
    centres = rng.normal(size=(kinds, 10))

    def drawn(kind):
        z = centres[kind] + 0.35 * rng.normal(size=(len(kind), 10))
        x = np.sin(2 * z @ inner) @ outer + 0.2 * rng.normal(size=(len(kind), width))
        return x.astype(np.float32)

    kind = rng.integers(kinds, size=EXAMPLES)
    other = (kind + rng.integers(1, kinds, size=EXAMPLES)) % kinds
    triplets = (drawn(kind), drawn(kind), drawn(other))

    def init(key):
        layers = perceptron(key, (width, 64, 64, bits))
        return [{**x, "scale": jnp.ones_like(x["bias"])} for x in layers]

    def code(params, x):
        for i, layer in enumerate(params):
            kernel = layer["kernel"]
            kernel = kernel / jnp.sqrt(1e-8 + jnp.sum(kernel**2, 0, keepdims=True))
            gain = 1.4 if i + 1 < len(params) else 1.0
            x = gain * (x @ kernel) * layer["scale"][None] + layer["bias"][None]
            x = jax.nn.relu(x) if i + 1 < len(params) else jnp.tanh(x)
        return x + jax.lax.stop_gradient(jnp.sign(x) - x)

    def gap(params, batch):
        """How much nearer, as a share of the bits."""
        one, same, other = (code(params, x) for x in batch)
        return jnp.mean(one * (same - other), axis=1) / 2

    def score(params, batch):
        found = gap(params, batch)
        right = jnp.mean((found > 0) + 0.5 * (found == 0))
        return 200 * right - 100

    return Task(
        name="hashing by triplets",
        rate=0.4,
        rates=(0.0125, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8),
        adamw_rate=0.004,
        muon_rate=0.004,
        init=init,
        loss=lambda p, batch: jnp.mean(jax.nn.relu(0.25 - gap(p, batch))),
        score=score,
        **cut(train=triplets, test=triplets),
    )
