"""Answers of many parts: digits of a sum, places in a signal, steps of a walk."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.unseen.task import (
    EXAMPLES,
    Task,
    apply,
    cross_entropy,
    cut,
    dense,
    neighbours,
    outputs,
    perceptron,
    unit_norm,
)


def addition() -> Task:
    """Sums of two numbers, digit by digit, by a gated block without offsets.

    The last digit first, so that what is carried comes from the place before. Digits
    that need no carry are learned early, the others long after.
    """
    rng, base, places, width = np.random.default_rng(5404), 6, 3, 24
    first, second = rng.integers(base**places, size=(2, EXAMPLES))

    def digits(number, count):
        return np.stack([number // base**place % base for place in range(count)], 1)

    answer = digits(first + second, places + 1)
    # Two digits of each place at once, a sign for "equals", and the answer so far.
    equals, none = np.full((EXAMPLES, 1), base), np.full((EXAMPLES, places + 1), base)
    x = np.concatenate([digits(first, places), equals, answer[:, :-1]], 1)
    beside = np.concatenate([digits(second, places), none], 1)
    x = np.stack([x, beside], 2).astype(np.int32)
    answer, length = answer.astype(np.int32), x.shape[1]

    def init(key):
        keys = jax.random.split(key, 8)
        # Kernels alone, as is usual beside norms that only scale.
        return {
            "tables": jax.random.normal(keys[0], (2, base + 1, width)),
            "place": jax.random.normal(keys[1], (length, width)),
            "qkv": dense(keys[2], width, 3 * width, 1.0)["kernel"],
            "o": dense(keys[3], width, width, 1.0)["kernel"],
            "up": dense(keys[4], width, 2 * width, 1.0)["kernel"],
            "gate": dense(keys[5], width, 2 * width, 1.0)["kernel"],
            "down": dense(keys[6], 2 * width, width, 1.0)["kernel"],
            "norms": [jnp.ones(width) for _ in range(3)],
            "out": dense(keys[7], width, base, 1.0)["kernel"],
        }

    def normed(scale, x):
        size = jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-5)
        return x / size * scale[None, None]

    def attend(params, x):
        qkv = normed(params["norms"][0], x) @ params["qkv"]
        heads = qkv.reshape(len(x), length, 3, 2, width // 2)
        query, key, value = heads[:, :, 0], heads[:, :, 1], heads[:, :, 2]
        fit = jnp.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(width // 2)
        fit = jnp.where(np.tri(length, dtype=bool)[None, None], fit, -1e9)
        found = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(fit), value)
        return found.reshape(x.shape) @ params["o"]

    def predict(params, x):
        first, second = params["tables"]
        x = first[x[..., 0]] + second[x[..., 1]] + params["place"][None]
        # What is at no place of the answer is only attended to.
        x = (x + attend(params, x))[:, places:]
        own = normed(params["norms"][1], x)
        gated = jax.nn.silu(own @ params["gate"]) * (own @ params["up"])
        return normed(params["norms"][2], x + gated @ params["down"]) @ params["out"]

    def loss(params, batch):
        x, answer = batch
        logits = predict(params, x)
        return cross_entropy(logits.reshape(-1, base), answer.reshape(-1))

    def score(params, batch):
        """The share of sums of which every digit is right."""
        x, answer = batch
        is_right = predict(params, x).argmax(-1) == answer
        return 100 * jnp.mean(jnp.all(is_right, axis=1))

    return Task(
        name="sums, digit by digit",
        rate=0.05,
        rates=(0.0125, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8),
        # The grid's edge: from 0.002 on all is level, and at 0.064 nothing is learned.
        adamw_rate=0.032,
        init=init,
        loss=loss,
        score=score,
        **cut(train=(x, answer), test=(x, answer), tests=4000),
    )


def segmentation() -> Task:
    """Where in a noisy signal a burst is, beside steps, by the overlap of each signal.

    Two scales with a bridge between them, and a norm for each signal. Bursts are short:
    to say that there is none anywhere is a place of little gradient, and in a third
    of the signals it is right.
    """
    rng, length, levels = np.random.default_rng(5405), 24, 2
    at = np.arange(length)

    def placed():
        return at - rng.uniform(3, length - 4, size=(EXAMPLES, 1))

    from_centre = placed()
    is_there = rng.random((EXAMPLES, 1)) < 2 / 3
    reach = rng.uniform(1.5, 4.0, size=(EXAMPLES, 1))
    burst = (np.abs(from_centre) < reach) & is_there
    wave = np.cos(rng.uniform(1.6, 2.4, size=(EXAMPLES, 1)) * from_centre)
    signal = 0.6 * rng.normal(size=(EXAMPLES, length)) + 1.6 * burst * wave
    for _ in range(2):
        height = rng.normal(size=(EXAMPLES, 1))
        signal += height * (placed() > 0)
    x, truth = signal.astype(np.float32), burst.astype(np.float32)

    def init(key):
        sizes = {
            "first": (5, 8),
            "second": (3 * 8, 8),
            "below": (3 * 8, 12),
            "joined": (20, 12),
        }
        keys = jax.random.split(key, len(sizes) + 1)
        layers = {
            name: {"layer": dense(one, *size), "norm": unit_norm(size[1])}
            for one, (name, size) in zip(keys, sizes.items(), strict=False)
        }
        return {**layers, "out": dense(keys[-1], 12, 1, 1.0)}

    def layer(part, x):
        x = apply(part["layer"], x)
        # Of one signal and one channel.
        x = x - x.mean(1, keepdims=True)
        x = x / jnp.sqrt(jnp.mean(x**2, axis=1, keepdims=True) + 1e-3)
        scale, offset = (part["norm"][name][None, None] for name in ("scale", "offset"))
        return jax.nn.relu(x * scale + offset)

    def predict(params, x):
        x = layer(params["first"], neighbours(x[..., None], 5))
        bridge = layer(params["second"], neighbours(x, 3))
        x = bridge.reshape(len(x), length // levels, levels, -1).max(2)
        x = layer(params["below"], neighbours(x, 3))
        x = jnp.concatenate([bridge, jnp.repeat(x, levels, axis=1)], axis=-1)
        return apply(params["out"], layer(params["joined"], x))[..., 0]

    def loss(params, batch):
        x, truth = batch
        found = jax.nn.sigmoid(predict(params, x))
        both = jnp.sum(found * truth, axis=1)
        size = jnp.sum(found, axis=1) + jnp.sum(truth, axis=1)
        return 1 - jnp.mean((2 * both + 1) / (size + 1))

    def score(params, batch):
        """Twice the places found and right, over those found and those there."""
        x, truth = batch
        is_found = predict(params, x) > 0
        return 200 * jnp.sum(is_found * truth) / (jnp.sum(is_found) + jnp.sum(truth))

    return Task(
        name="bursts in a signal",
        rate=0.2,
        rates=(0.0125, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8),
        adamw_rate=0.004,
        init=init,
        loss=loss,
        score=score,
        **cut(train=(x, truth), test=(x, truth)),
    )


def actor_critic() -> Task:
    """A walk to a key and then a door, by the network's own estimate of its value.

    What it does is drawn from its own policy, so what it sees moves with it, and so do
    the targets; nothing is won before the key is found. The loss is no error.
    """
    rng, side, steps, width, moves = np.random.default_rng(5406), 4, 8, 48, 4
    cells, discount = side**2, 0.9
    start, key_at, door = rng.random((EXAMPLES, cells)).argsort(1)[:, :3].T
    draws = rng.gumbel(size=(EXAMPLES, steps, moves)).astype(np.float32)
    places = np.stack([start, key_at, door], axis=1).astype(np.int32)

    def far(one, other):
        return np.abs(one // side - other // side) + np.abs(one % side - other % side)

    to_key = far(start, key_at)
    best = discount ** (to_key - 1) + 2 * discount ** (to_key + far(key_at, door) - 1)
    # Some doors are too far away to be reached in time.
    late = to_key + far(key_at, door) > steps
    best = np.where(late, discount ** (to_key - 1), best).astype(np.float32)
    rows, columns = np.divmod(np.arange(cells), side)
    after = [
        side * np.clip(rows + down, 0, side - 1) + np.clip(columns + right, 0, side - 1)
        for down, right in ((1, 0), (-1, 0), (0, 1), (0, -1))
    ]
    after = jnp.asarray(np.stack(after, axis=1))

    def init(key):
        trunk, policy, value = jax.random.split(key, 3)
        return {
            "trunk": perceptron(trunk, (3 * cells + 2, width, width)),
            # A policy that starts almost even, as is usual.
            "policy": dense(policy, width, moves, 0.01),
            "value": dense(value, width, 1, 1.0),
        }

    def predict(params, seen):
        hidden = jnp.tanh(outputs(params["trunk"], seen, jnp.tanh))
        log_p = jax.nn.log_softmax(apply(params["policy"], hidden))
        return log_p, apply(params["value"], hidden)[..., 0]

    def walk(params, places, draws):
        """Of every step: what is seen, what was done, the reward, whether it counts."""
        at, key_at, door = places[:, 0], places[:, 1], places[:, 2]
        has_key = is_done = jnp.zeros(len(places), bool)
        found = []
        for step in range(steps):
            seen = [jax.nn.one_hot(x, cells) for x in (at, key_at, door)]
            left = jnp.full(at.shape, 1 - step / steps)
            seen = jnp.concatenate([*seen, jnp.stack([has_key, left], 1)], axis=1)
            done = (predict(params, seen)[0] + draws[:, step]).argmax(1)
            at = after[at, done]
            gets, wins = ~has_key & (at == key_at), has_key & (at == door) & ~is_done
            found.append((seen, done, gets + 2.0 * wins, ~is_done))
            has_key, is_done = has_key | gets, is_done | wins
        return [jnp.stack(one) for one in zip(*found, strict=True)]

    def loss(params, batch):
        # Nothing has a gradient through what was done.
        seen, done, reward, counts = walk(jax.lax.stop_gradient(params), *batch)
        log_p, value = predict(params, seen)
        own = jnp.take_along_axis(log_p, done[..., None], axis=2)[..., 0]
        # Half of what follows is as it came out, half as it was thought to be.
        target, later, following = [], 0.0, 0.0
        for step in reversed(range(steps)):
            later = reward[step] + discount * (later + following) / 2
            following = value[step]
            target.append(later)
        target = jax.lax.stop_gradient(jnp.stack(target[::-1]))
        surprise = target - value
        entropy = -jnp.sum(jnp.exp(log_p) * log_p, axis=2)
        policy = -own * jax.lax.stop_gradient(surprise) - 0.02 * entropy
        return jnp.mean(jnp.sum(counts * (policy + 0.5 * surprise**2), axis=0))

    def score(params, batch):
        """What is won by the likeliest steps, as a share of the most."""
        places, most = batch
        none = jnp.zeros((len(places), steps, moves))
        reward = walk(params, places, none)[2]
        won = jnp.sum(discount ** jnp.arange(steps) @ reward)
        # At most all of it, whatever sums are rounded to.
        return jnp.minimum(100 * won / jnp.sum(most), 100)

    return Task(
        name="walks to a key and a door",
        rate=0.02,
        rates=(0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16),
        # The grid's edge: from 0.004 on all is level, and 0.064 is worse.
        adamw_rate=0.032,
        init=init,
        loss=loss,
        score=score,
        **cut(train=(places, draws), test=(places, best)),
    )
