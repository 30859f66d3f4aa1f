"""Source text of Python's own library: its words, lines, gaps and bytes."""

import re
import sysconfig
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.unseen.task import (
    EXAMPLES,
    Task,
    apply,
    classifier,
    cross_entropy,
    cut,
    dense,
    layer_norm,
    unit_norm,
)

WORDS, CONTEXT, TESTED = 2000, 4, 8000


def words() -> Task:
    """The next word of Python's own source: most rows of the embedding are rare."""
    tokens = _tokens()
    known = [word for word, _ in Counter(tokens).most_common(WORDS - 1)]
    index = {word: number for number, word in enumerate(known, 1)}
    ids = np.array([index.get(token, 0) for token in tokens], np.int32)
    count = len(ids) - CONTEXT
    order = np.random.default_rng(5).permutation(count)
    x = np.stack([ids[i : i + count] for i in range(CONTEXT)], axis=1)[order]
    y = ids[CONTEXT:][order]
    first = min(count - TESTED, 200_000)

    def init(key):
        table, hidden, out = jax.random.split(key, 3)
        return {
            "embedding": 0.3 * jax.random.normal(table, (WORDS, 24)),
            "hidden": dense(hidden, 24 * CONTEXT, 64),
            "out": dense(out, 64, WORDS, 1.0),
        }

    def predict(params, x):
        x = params["embedding"][x].reshape(len(x), -1)
        return apply(params["out"], jnp.tanh(apply(params["hidden"], x)))

    loss, score = classifier(predict)
    return Task(
        name="words with an embedding",
        rate=0.1,
        rates=(0.05, 0.1, 0.2, 0.5),
        adamw_rate=0.008,
        init=init,
        loss=loss,
        score=score,
        train=(x[:first], y[:first]),
        test=(x[-TESTED:], y[-TESTED:]),
    )


def modules() -> Task:
    """Which of 40 modules a line of source text is from, by the mean of its words."""
    length, sizes = 16, {file.stat().st_size: file for file in _files()}
    files = [sizes[size] for size in sorted(sizes)[-40:]]
    lines = [
        (re.findall(r"[A-Za-z_]+|[^\sA-Za-z_]", line)[:length], number)
        for number, file in enumerate(files)
        for line in file.read_text(errors="ignore").splitlines()
    ]
    lines = [(words, number) for words, number in lines if len(words) > 2]
    count = Counter(word for words, _ in lines for word in words)
    index = {word: i for i, (word, _) in enumerate(count.most_common(WORDS - 1), 1)}
    x = np.zeros((len(lines), length), np.int32)
    for row, (words, _) in zip(x, lines, strict=True):
        row[: len(words)] = [index.get(word, 0) for word in words]
    y = np.array([number for _, number in lines], np.int32)
    order = np.random.default_rng(13).permutation(len(lines))
    x, y = x[order], y[order]

    def init(key):
        table, hidden, out = jax.random.split(key, 3)
        return {
            "embedding": 0.3 * jax.random.normal(table, (WORDS, 32)),
            "hidden": dense(hidden, 32, 64),
            "out": dense(out, 64, 40, 1.0),
        }

    def predict(params, x):
        mean = params["embedding"][x].mean(1)
        return apply(params["out"], jax.nn.relu(apply(params["hidden"], mean)))

    loss, score = classifier(predict)
    return Task(
        name="modules by their lines",
        rate=0.1,
        rates=(0.025, 0.05, 0.1, 0.2),
        adamw_rate=0.016,
        init=init,
        loss=loss,
        score=score,
        train=(x[:-4000], y[:-4000]),
        test=(x[-4000:], y[-4000:]),
    )


def gaps() -> Task:
    """The word in a gap, by attention to those around it; one table for both ends.

    The rows of the embedding are also what the outputs are compared with, so that
    words which are rare inputs are pushed away in every update.
    """
    rng, length, known, width = np.random.default_rng(6301), 6, 300, 16
    tokens = _tokens()
    common = [word for word, _ in Counter(tokens).most_common(known - 2)]
    index = {word: number for number, word in enumerate(common, 2)}
    ids = np.array([index.get(token, 1) for token in tokens], np.int32)
    starts = rng.permutation(len(ids) - length)[:EXAMPLES]
    x = ids[starts[:, None] + np.arange(length)]
    gap = rng.integers(length, size=EXAMPLES).astype(np.int32)
    rows = np.arange(EXAMPLES)
    labels = x[rows, gap].copy()
    x[rows, gap] = 0

    def init(key):
        keys = jax.random.split(key, 6)
        return {
            "embedding": 0.2 * jax.random.normal(keys[0], (known, width)),
            "bias": jnp.zeros(known),
            "places": 0.2 * jax.random.normal(keys[1], (length, width)),
            "norms": [unit_norm(width) for _ in range(3)],
            "qkv": dense(keys[2], width, 3 * width, 1.0),
            "o": dense(keys[3], width, width, 0.3),
            "up": dense(keys[4], width, 2 * width),
            "down": dense(keys[5], 2 * width, width, 0.3),
        }

    def predict(params, x, gap):
        x = params["embedding"][x] + params["places"][None]
        normed = layer_norm(params["norms"][0], x)
        heads = apply(params["qkv"], normed).reshape(len(x), length, 3, 2, width // 2)
        at_gap = jax.nn.one_hot(gap, length)
        query = jnp.einsum("bl,blhd->bhd", at_gap, heads[:, :, 0])
        found = jnp.einsum("bhd,blhd->bhl", query, heads[:, :, 1])
        weights = jax.nn.softmax(found / np.sqrt(width / 2))
        found = jnp.einsum("bhl,blhd->bhd", weights, heads[:, :, 2])
        x = jnp.einsum("bl,blw->bw", at_gap, x)
        x = x + apply(params["o"], found.reshape(len(x), width))
        hidden = apply(params["up"], layer_norm(params["norms"][1], x))
        x = x + apply(params["down"], jax.nn.gelu(hidden))
        x = layer_norm(params["norms"][2], x)
        return x @ params["embedding"].T + params["bias"][None]

    loss, right = classifier(lambda params, x: predict(params, *x))
    return Task(
        name="words in a gap",
        rate=0.025,
        rates=(0.0125, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8),
        adamw_rate=0.004,
        init=init,
        loss=lambda params, batch: loss(params, (batch[:2], batch[2])),
        score=lambda params, batch: right(params, (batch[:2], batch[2])),
        **cut(train=(x, gap, labels), test=(x, gap, labels)),
    )


def selective() -> Task:
    """The next byte, at every place, by a recurrence that chooses what it keeps.

    How long a state lasts, what enters it and what is read depend on the input, so the
    gradient goes through products of a dozen factors that the network sets itself.
    """
    rng, length, known = np.random.default_rng(6302), 12, 96
    width, states = 16, 4
    codes = np.frombuffer(_text().encode("ascii", "replace"), np.uint8).astype(np.int32)
    # Printable ones, and one for all that ends a line or is a tab.
    codes = np.where(codes < 32, 95, codes - 32)
    starts = rng.permutation(len(codes) - length)[:EXAMPLES]
    x = codes[starts[:, None] + np.arange(length + 1)]

    def init(key):
        keys = jax.random.split(key, 6)
        pace = np.log(np.expm1(np.geomspace(0.05, 1.0, width))).astype(np.float32)
        return {
            "embedding": 0.5 * jax.random.normal(keys[0], (known, width)),
            "in": dense(keys[1], width, 2 * width, 1.0),
            "pace": {**dense(keys[2], width, width, 0.1), "bias": jnp.asarray(pace)},
            "write": dense(keys[3], width, states, 1.0),
            "read": dense(keys[4], width, states, 1.0),
            "log_decay": jnp.zeros((width, states))
            + jnp.log(jnp.arange(1.0, states + 1))[None],
            "skip": jnp.ones(width),
            "norm": unit_norm(width),
            "out": dense(keys[5], width, known, 1.0),
        }

    def predict(params, x):
        embedded = params["embedding"][x]
        given, gate = jnp.split(apply(params["in"], embedded), 2, axis=-1)
        given = jax.nn.silu(given)
        pace = jax.nn.softplus(apply(params["pace"], given))
        write, read = (apply(params[name], given) for name in ("write", "read"))
        decay = jnp.exp(params["log_decay"])[None]

        def step(state, now):
            given, pace, write, read = now
            kept = jnp.exp(-pace[..., None] * decay)
            state = kept * state + (pace * given)[..., None] * write[:, None]
            return state, jnp.sum(state * read[:, None], axis=-1)

        along = [jnp.swapaxes(z, 0, 1) for z in (given, pace, write, read)]
        start = jnp.zeros((len(x), width, states))
        _, found = jax.lax.scan(step, start, tuple(along), unroll=4)
        found = jnp.swapaxes(found, 0, 1) + given * params["skip"][None, None]
        found = layer_norm(params["norm"], embedded + found * jax.nn.silu(gate))
        return apply(params["out"], found)

    def loss(params, batch):
        x, following = batch
        logits = predict(params, x).reshape(-1, known)
        return cross_entropy(logits, following.reshape(-1))

    def score(params, batch):
        """Of the second half, above what saying a space everywhere gets."""
        following = batch[1][:, length // 2 :]
        found = predict(params, batch[0])[:, length // 2 :].argmax(-1)
        right, spaces = jnp.mean(found == following), jnp.mean(following == 0)
        return 100 * (right - spaces) / (1 - spaces)

    arrays = (x[:, :-1].copy(), x[:, 1:].copy())
    return Task(
        name="bytes by a selective recurrence",
        rate=0.2,
        rates=(0.0125, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8),
        adamw_rate=0.016,
        init=init,
        loss=loss,
        score=score,
        **cut(train=arrays, test=arrays, tests=4000),
    )


def _files() -> list[Path]:
    return sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))


def _text() -> str:
    return "".join(file.read_text(errors="ignore") for file in _files()[:120])


def _tokens() -> list[str]:
    return re.findall(r"[A-Za-z_]+|\d+|[^\sA-Za-z_\d]", _text())
