"""Tasks with layers, experts or rows of an embedding that few examples reach."""

from collections.abc import Callable
from typing import Any

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
    explained,
    outputs,
    perceptron,
    task_of,
)


def rare_heads() -> Task:
    """Eight heads on one trunk; each is used half as often as the one before it."""
    rng, heads = np.random.default_rng(21), 8
    trunk = rng.normal(size=(24, 32)) * 1.8 / np.sqrt(24)
    readouts = rng.normal(size=(heads, 32, 4))
    x = rng.normal(size=(EXAMPLES, 24)).astype(np.float32)
    share = 0.5 ** np.arange(heads)
    head = rng.choice(heads, size=EXAMPLES, p=share / share.sum()).astype(np.int32)
    logits = np.einsum("nd,ndc->nc", np.tanh(x @ trunk), readouts[head])
    labels = (logits + 0.3 * rng.gumbel(size=logits.shape)).argmax(-1).astype(np.int32)
    best = logits.argmax(-1).astype(np.int32)

    def init(key):
        first, second, *others = jax.random.split(key, 2 + heads)
        own = {f"head{i}": dense(k, 64, 4, 1.0) for i, k in enumerate(others)}
        return {"first": dense(first, 24, 64), "second": dense(second, 64, 64), **own}

    def predict(params, x, head):
        for layer in ("first", "second"):
            x = jax.nn.relu(apply(params[layer], x))
        every = [apply(params[f"head{i}"], x) for i in range(heads)]
        return jnp.take_along_axis(jnp.stack(every, 1), head[:, None, None], 1)[:, 0]

    def score(params, batch):
        """The mean over heads, so that the rare ones count."""
        x, head, labels = batch
        is_right = predict(params, x, head).argmax(-1) == labels
        own = jax.nn.one_hot(head, heads)
        return 100 * jnp.mean(is_right @ own / jnp.maximum(own.sum(0), 1))

    return Task(
        name="rarely active heads",
        rate=0.0125,
        rates=(0.00625, 0.0125, 0.025, 0.05),
        adamw_rate=0.002,
        muon_rate=0.004,
        init=init,
        loss=lambda params, b: cross_entropy(predict(params, b[0], b[1]), b[2]),
        score=score,
        **cut(train=(x, head, labels), test=(x, head, best)),
    )


def adapters() -> Task:
    """A low-rank adapter of a frozen layer beside layers that are trained in full."""
    rng = np.random.default_rng(31)
    inner = (rng.normal(size=(32, 48)) * 1.5 / np.sqrt(32)).astype(np.float32)
    middle = (rng.normal(size=(48, 48)) / np.sqrt(48)).astype(np.float32)
    outer = rng.normal(size=(48, 8))
    change = rng.normal(size=(48, 4)) @ rng.normal(size=(4, 48)) * 0.75 / np.sqrt(48)
    x = rng.normal(size=(EXAMPLES, 32)).astype(np.float32)
    logits = np.tanh(np.tanh(x @ inner) @ (middle + change) * 1.5) @ outer
    noisy = logits + 0.5 * rng.gumbel(size=logits.shape)
    labels, best = (z.argmax(-1).astype(np.int32) for z in (noisy, logits))

    def init(key):
        down, full, out = jax.random.split(key, 3)
        return {
            "down": jax.random.normal(down, (48, 4)) / np.sqrt(48),
            "up": jnp.zeros((4, 48)),
            "full": dense(full, 48, 48, 1.0),
            "out": dense(out, 48, 8, 1.0),
        }

    def predict(params, x):
        x = jnp.tanh(x @ inner)
        adapted = x @ middle + x @ params["down"] @ params["up"]
        x = jnp.tanh(1.5 * adapted)
        return apply(params["out"], x + jnp.tanh(apply(params["full"], x)))

    return task_of(
        name="adapters and full layers",
        rate=0.02,
        rates=(0.005, 0.01, 0.02, 0.05),
        adamw_rate=0.008,
        muon_rate=0.008,
        init=init,
        losses=classifier(predict),
        examples=(x, labels, best),
    )


def experts() -> Task:
    """A gate sends each example to one of six experts, of which some are rare."""
    return _experts("rare experts", jnp.asarray)


def experts_apart() -> Task:
    """The rare experts again, each with arrays of its own in place of slices of two."""
    return _experts("rare experts, apart", list)


def _experts(name: str, kept: Callable[[jax.Array], Any]) -> Task:
    """Experts whose arrays are kept in one, or in a list."""
    rng, count = np.random.default_rng(1003), 6
    centres = rng.normal(size=(count, 16))
    share = np.array([0.5, 0.25, 0.12, 0.07, 0.04, 0.02])
    group = rng.choice(count, size=EXAMPLES, p=share)
    x = (1.2 * centres[group] + 0.8 * rng.normal(size=(EXAMPLES, 16))).astype("float32")
    readouts = rng.normal(size=(count, 16, 6))
    logits = np.einsum("nd,ndc->nc", x, readouts[group])
    noisy = logits + rng.gumbel(size=logits.shape)
    labels, best = (z.argmax(-1).astype(np.int32) for z in (noisy, logits))

    def init(key):
        gate, up, down = jax.random.split(key, 3)
        return {
            "gate": dense(gate, 16, count, 1.0),
            "up": kept(jax.random.normal(up, (count, 16, 32)) / 4),
            "down": kept(jax.random.normal(down, (count, 32, 6)) / 6),
        }

    def predict(params, x):
        gate = jax.nn.softmax(apply(params["gate"], x))
        chosen = gate * jax.nn.one_hot(gate.argmax(-1), count)
        up, down = (jnp.asarray(params[name]) for name in ("up", "down"))
        hidden = jax.nn.gelu(jnp.einsum("nd,edh->neh", x, up))
        outputs = jnp.einsum("neh,ehc->nec", hidden, down)
        return jnp.einsum("nec,ne->nc", outputs, chosen)

    return task_of(
        name=name,
        rate=0.02,
        rates=(0.01, 0.02, 0.05, 0.1),
        adamw_rate=0.004,
        init=init,
        losses=classifier(predict),
        examples=(x, labels, best),
    )


def factorisation() -> Task:
    """Ratings of items by users, most of them rare: a product of embeddings."""
    rng, users, items = np.random.default_rng(1002), 800, 400
    user = np.minimum(rng.zipf(1.3, size=EXAMPLES) - 1, users - 1).astype(np.int32)
    item = np.minimum(rng.zipf(1.3, size=EXAMPLES) - 1, items - 1).astype(np.int32)
    tastes, traits = rng.normal(size=(users, 5)), rng.normal(size=(items, 5))
    true = ((tastes[user] * traits[item]).sum(1) / np.sqrt(5)).astype(np.float32)
    noisy = (true + 0.5 * rng.normal(size=EXAMPLES)).astype(np.float32)

    def init(key):
        of_users, of_items = jax.random.split(key)
        return {
            "users": 0.3 * jax.random.normal(of_users, (users, 8)),
            "items": 0.3 * jax.random.normal(of_items, (items, 8)),
            "user_bias": jnp.zeros(users),
            "item_bias": jnp.zeros(items),
        }

    def predict(params, batch):
        user, item, _ = batch
        product = (params["users"][user] * params["items"][item]).sum(-1)
        return product + params["user_bias"][user] + params["item_bias"][item]

    return Task(
        name="ratings with embeddings",
        rate=0.2,
        rates=(0.05, 0.1, 0.2, 0.4),
        adamw_rate=0.016,
        init=init,
        loss=lambda params, batch: (
            jnp.mean((predict(params, batch) - batch[2]) ** 2) / 2
        ),
        score=lambda params, batch: explained(predict(params, batch), batch[2]),
        **cut(train=(user, item, noisy), test=(user, item, true)),
    )


def sampled_softmax() -> Task:
    """The next of 500 items, by the mean of the last five, against eight drawn ones.

    Some items are a hundred times as frequent as others. Negatives are drawn by
    frequency, which is taken out of their logits. The score is how often the next item
    is among the first twenty.
    """
    rng, items, taste, width, negatives = np.random.default_rng(3), 500, 6, 16, 8
    frequency = 1 / np.arange(1, items + 1) ** 0.7
    frequency /= frequency.sum()
    latent = rng.normal(size=(items, taste))
    users = rng.normal(size=(EXAMPLES, taste))
    chances = np.log(frequency) + 1.2 * users @ latent.T
    draws = [(chances + rng.gumbel(size=chances.shape)).argmax(1) for _ in range(6)]
    found = np.stack(draws, 1).astype(np.int32)
    drawn = rng.choice(items, size=(EXAMPLES, negatives), p=frequency).astype(np.int32)
    log_frequency = jnp.asarray(np.log(frequency), jnp.float32)

    def init(key):
        keys = jax.random.split(key, 3)
        return {
            "history": jax.random.normal(keys[0], (items, width)),
            "tower": perceptron(keys[1], (width, 32, width)),
            "items": 0.25 * jax.random.normal(keys[2], (items, width)),
            "offsets": jnp.zeros(items),
        }

    def user(params, history):
        return outputs(params["tower"], params["history"][history].mean(1), jax.nn.relu)

    def loss(params, batch):
        found, drawn = batch
        following = found[:, 5:]
        rivals = jnp.concatenate([following, drawn], 1)
        known = user(params, found[:, :5])
        towards = jnp.einsum("bw,bkw->bk", known, params["items"][rivals])
        logits = towards + params["offsets"][rivals] - log_frequency[rivals]
        # A negative that is the next item itself.
        is_same = jnp.pad(drawn == following, ((0, 0), (1, 0)))
        logits = jnp.where(is_same, -1e9, logits)
        return cross_entropy(logits, jnp.zeros(len(found), jnp.int32))

    def score(params, batch):
        found = batch[0]
        logits = user(params, found[:, :5]) @ params["items"].T
        logits = logits + params["offsets"][None]
        own = jnp.take_along_axis(logits, found[:, 5:], axis=1)
        # What is not a number counts as above.
        return 100 * jnp.mean(jnp.sum(~(logits <= own), 1) < 20)

    return Task(
        name="the next item, against drawn negatives",
        rate=0.1,
        rates=(0.05, 0.1, 0.2),
        adamw_rate=0.016,
        init=init,
        loss=loss,
        score=score,
        **cut(train=(found, drawn), test=(found, drawn), tests=4000),
    )
