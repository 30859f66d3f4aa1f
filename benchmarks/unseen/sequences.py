"""Generated sequences: read, attended to, and continued."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.unseen.task import (
    EXAMPLES,
    Task,
    apply,
    classifier,
    dense,
    layer_norm,
    neighbours,
    task_of,
    unit_norm,
)


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
        adamw_rate=0.032,
        init=init,
        losses=classifier(predict),
        examples=(x, seen, labels),
    )


def attention() -> Task:
    """The value beside a key, looked up by one block of attention."""
    rng, pairs, keys, values, width = np.random.default_rng(2001), 6, 12, 8, 32
    key = np.argsort(rng.random((EXAMPLES, keys)), axis=1)[:, :pairs]
    value = rng.integers(values, size=(EXAMPLES, pairs))
    asked = rng.integers(pairs, size=EXAMPLES)
    rows = np.arange(EXAMPLES)
    x = np.concatenate([key, value, key[rows, asked][:, None]], 1).astype(np.int32)
    labels = value[rows, asked].astype(np.int32)

    def init(seed):
        parts = jax.random.split(seed, 8)
        square = [dense(part, width, width, 1.0) for part in parts[:4]]
        return {
            "keys": jax.random.normal(parts[4], (keys, width)),
            "values": jax.random.normal(parts[5], (values, width)),
            "attention": dict(zip("qkvo", square, strict=True)),
            "norms": [unit_norm(width), unit_norm(width)],
            "up": dense(parts[6], width, 2 * width),
            "down": dense(parts[7], 2 * width, width, 0.1),
            "out": dense(jax.random.fold_in(seed, 8), width, values, 1.0),
        }

    def predict(params, x):
        key, value, asked = x[:, :pairs], x[:, pairs:-1], x[:, -1]
        seen = params["keys"][key] + params["values"][value]
        x = params["keys"][asked][:, None]
        normed = layer_norm(params["norms"][0], jnp.concatenate([x, seen], 1))
        weights = params["attention"]
        query = apply(weights["q"], normed[:, :1])
        found = jnp.einsum("bqd,bkd->bqk", query, apply(weights["k"], normed))
        found = jax.nn.softmax(found / np.sqrt(width)) @ apply(weights["v"], normed)
        x = (x + apply(weights["o"], found))[:, 0]
        hidden = jax.nn.gelu(apply(params["up"], layer_norm(params["norms"][1], x)))
        return apply(params["out"], x + apply(params["down"], hidden))

    return task_of(
        name="look-up by attention",
        rate=0.02,
        rates=(0.005, 0.01, 0.02, 0.05),
        adamw_rate=0.016,
        init=init,
        losses=classifier(predict),
        examples=(x, labels, labels),
    )


def recall() -> Task:
    """Two symbols, far apart in a sequence of noise, by a plain tanh network.

    The class depends on both: neither alone tells anything, so there is a plateau.
    """
    rng, length, width, symbols = np.random.default_rng(7102), 14, 32, 4
    first, second = rng.integers(symbols, size=(2, EXAMPLES))
    labels = ((first + second) % symbols).astype(np.int32)
    x = 0.5 * rng.normal(size=(EXAMPLES, length, symbols + 1))
    for place, symbol in ((0, first), (7, second)):
        x[:, place, :symbols] += 2 * np.eye(symbols)[symbol]
        x[:, place, symbols] += 2
    is_wrong = rng.random(EXAMPLES) < 0.05
    wrong = rng.integers(symbols, size=EXAMPLES)
    seen = np.where(is_wrong, wrong, labels).astype(np.int32)

    def init(key):
        inner, again, out = jax.random.split(key, 3)
        turn, _ = jnp.linalg.qr(jax.random.normal(again, (width, width)))
        return {
            "inner": dense(inner, symbols + 1, width, 0.5),
            "again": {"kernel": turn, "bias": jnp.zeros(width)},
            "out": dense(out, width, symbols, 1.0),
        }

    def predict(params, x):
        given = apply(params["inner"], x)

        def step(hidden, one):
            return jnp.tanh(one + apply(params["again"], hidden)), None

        start = jnp.zeros((len(x), width))
        hidden, _ = jax.lax.scan(step, start, jnp.swapaxes(given, 0, 1), unroll=7)
        return apply(params["out"], hidden)

    loss, right = classifier(predict)

    def score(params, batch):
        """Zero by chance."""
        return (symbols * right(params, batch) - 100) / (symbols - 1)

    return task_of(
        name="recall by a plain recurrent network",
        rate=0.005,
        rates=(0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16),
        adamw_rate=0.004,
        init=init,
        losses=(loss, score),
        examples=(x.astype(np.float32), seen, labels),
    )


def alignment() -> Task:
    """Three symbols from sixteen frames, without being told which frame is whose.

    The likelihood is a sum over all alignments. A network first says blank everywhere,
    and from there it learns what the symbols are.
    """
    rng, length, symbols, count, width = np.random.default_rng(8201), 16, 5, 3, 8
    said = rng.integers(symbols, size=(EXAMPLES, count))
    # A silence before each symbol and after the last, of one frame or more.
    lasting = rng.integers(2, 4, size=(EXAMPLES, count))
    left = length - lasting.sum(1) - count - 1
    cuts = np.sort(rng.integers(left[:, None] + 1, size=(EXAMPLES, count)), axis=1)
    starts = cuts + 1 + np.arange(count) + np.cumsum(lasting, 1) - lasting
    frame = np.arange(length)[None, None]
    is_said = (frame >= starts[..., None]) & (frame < (starts + lasting)[..., None])
    sounds = 1.2 * rng.normal(size=(symbols, width))
    heard = np.einsum("nct,ncw->ntw", is_said, sounds[said])
    x = (heard + rng.normal(size=heard.shape)).astype(np.float32)
    labels = said.astype(np.int32) + 1

    def init(key):
        first, second, out = jax.random.split(key, 3)
        return {
            "first": dense(first, 3 * width, 40),
            "second": dense(second, 3 * 40, 40),
            "out": dense(out, 40, symbols + 1, 1.0),
        }

    def predict(params, x):
        for layer in ("first", "second"):
            x = jax.nn.relu(apply(params[layer], neighbours(x, 3)))
        return jax.nn.log_softmax(apply(params["out"], x))

    def loss(params, batch):
        """Of blank, symbol, blank and so on; no blank is needed between two kinds."""
        x, labels = batch
        states = jnp.zeros((len(x), 2 * count + 1), jnp.int32).at[:, 1::2].set(labels)
        may_skip = jnp.zeros(states.shape, bool)
        may_skip = may_skip.at[:, 3::2].set(labels[:, 1:] != labels[:, :-1])
        log_p = jnp.take_along_axis(predict(params, x), states[:, None], axis=2)

        def behind(log_sum, by):
            return jnp.pad(log_sum, ((0, 0), (by, 0)), constant_values=-1e9)[:, :-by]

        def step(log_sum, log_p):
            skipped = jnp.where(may_skip, behind(log_sum, 2), -1e9)
            ways = jnp.stack([log_sum, behind(log_sum, 1), skipped])
            return jax.nn.logsumexp(ways, axis=0) + log_p, None

        start = jnp.full(states.shape, -1e9).at[:, :2].set(log_p[:, 0, :2])
        log_sum, _ = jax.lax.scan(step, start, jnp.swapaxes(log_p[:, 1:], 0, 1))
        return -jnp.mean(jax.nn.logsumexp(log_sum[:, -2:], axis=1))

    def score(params, batch):
        """The share of sequences that are right as a whole."""
        x, labels = batch
        best = predict(params, x).argmax(-1)
        before = jnp.pad(best, ((0, 0), (1, 0)))[:, :-1]
        is_new = (best != before) & (best > 0)
        order = jnp.argsort(~is_new, axis=1, stable=True)[:, :count]
        found = jnp.take_along_axis(best, order, axis=1)
        is_right = jnp.all(found == labels, axis=1) & (is_new.sum(1) == count)
        return 100 * jnp.mean(is_right)

    return task_of(
        name="symbols that are not aligned",
        rate=0.02,
        rates=(0.0025, 0.005, 0.01, 0.02, 0.04, 0.08),
        adamw_rate=0.016,
        muon_rate=0.008,
        init=init,
        losses=(loss, score),
        examples=(x, labels, labels),
    )


def spikes() -> Task:
    """Orders in which channels fire, by two layers of neurons that spike.

    A spike has no gradient: what is passed back is that of a smooth step, so it is not
    that of the loss, and neurons far from their threshold pass almost none.
    """
    rng, length, channels, width, classes = np.random.default_rng(8202), 12, 20, 40, 8
    labels = rng.integers(classes, size=EXAMPLES).astype(np.int32)
    peak = rng.uniform(1, length - 1, size=(classes, channels))[labels]
    moments = np.arange(length)[None, :, None]
    late = rng.normal(size=(EXAMPLES, 1))
    bump = np.exp(-(((moments - (peak + late)[:, None]) / 1.5) ** 2) / 2)
    chance = 0.08 + 0.35 * bump
    x = (rng.random(chance.shape) < chance).astype(np.float32)

    def init(key):
        first, second, out = jax.random.split(key, 3)
        return {
            "first": dense(first, channels, width, 4.0),
            "second": dense(second, width, width, 4.0),
            "out": dense(out, width, classes, 1.0),
            "log_leak": jnp.zeros(2),
        }

    def spike(height):
        smooth = height / (1 + 4 * jnp.abs(height))
        return smooth + jax.lax.stop_gradient((height > 0) - smooth)

    def predict(params, x):
        keep = jax.nn.sigmoid(params["log_leak"] + 1.5)

        def step(state, x):
            heights, read = [], state[-1]
            for i, layer in enumerate(("first", "second")):
                height = keep[i] * state[i] + apply(params[layer], x)
                x = spike(height - 1)
                heights.append(height - x)
            return (*heights, read + apply(params["out"], x)), None

        zeros = jnp.zeros((len(x), width))
        start = (zeros, zeros, jnp.zeros((len(x), classes)))
        return jax.lax.scan(step, start, jnp.swapaxes(x, 0, 1))[0][-1]

    return task_of(
        name="neurons that spike",
        rate=0.01,
        rates=(0.0025, 0.005, 0.01, 0.02, 0.04, 0.08),
        adamw_rate=0.008,
        muon_rate=0.008,
        init=init,
        losses=classifier(predict),
        examples=(x, labels, labels),
    )
