"""Tasks whose data are made: teachers, noise, and networks to learn them."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.unseen.task import (
    Task,
    apply,
    classifier,
    cross_entropy,
    dense,
    explained,
    outputs,
    perceptron,
)

EXAMPLES, TRAIN = 60_000, 50_000


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
    rates = 0.04, (0.01, 0.02, 0.04, 0.08), 0.008, 0.004
    return _regression("deep regression", rates, x, y, noise)


def heavy_tails() -> Task:
    """Label noise of Student's t with 2.1 degrees of freedom: rare, huge gradients."""
    rng = np.random.default_rng(41)
    inner, outer = rng.normal(size=(24, 32)) * 1.3, rng.normal(size=(32, 1))
    x = rng.normal(size=(EXAMPLES, 24)).astype(np.float32)
    y = (np.tanh(x @ inner / np.sqrt(24)) @ outer)[:, 0]
    noise = 0.5 * rng.standard_t(2.1, size=EXAMPLES)
    sizes = (24, 64, 64, 1)
    rates = 0.02, (0.005, 0.01, 0.02, 0.04), 0.016, 0.004
    return _regression("heavy-tailed noise", rates, x, y, noise, sizes)


def _regression(
    name: str,
    rates: tuple[float, tuple[float, ...], float, float],
    x: np.ndarray,
    y: np.ndarray,
    noise: np.ndarray,
    sizes: tuple[int, ...] = (32, 64, 64, 64, 64, 64, 1),
) -> Task:
    y = (y / y.std()).astype(np.float32)
    noisy = (y + noise).astype(np.float32)

    def predict(params, x):
        return outputs(params, x, jax.nn.relu)[:, 0]

    return Task(
        name,
        *rates,
        init=lambda key: perceptron(key, sizes),
        loss=lambda params, batch: (
            jnp.mean((predict(params, batch[0]) - batch[1]) ** 2) / 2
        ),
        score=lambda params, batch: explained(predict(params, batch[0]), batch[1]),
        train=(x[:TRAIN], noisy[:TRAIN]),
        test=(x[TRAIN:], y[TRAIN:]),
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
        "rarely active heads",
        0.0125,
        (0.00625, 0.0125, 0.025, 0.05),
        0.002,
        0.004,
        init,
        lambda params, b: cross_entropy(predict(params, b[0], b[1]), b[2]),
        score,
        (x[:TRAIN], head[:TRAIN], labels[:TRAIN]),
        (x[TRAIN:], head[TRAIN:], best[TRAIN:]),
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

    return Task(
        "adapters and full layers",
        0.02,
        (0.005, 0.01, 0.02, 0.05),
        0.008,
        0.008,
        init,
        *classifier(predict),
        (x[:TRAIN], labels[:TRAIN]),
        (x[TRAIN:], best[TRAIN:]),
    )


def batch_norm() -> Task:
    """A perceptron with a norm over each microbatch, on clusters that overlap."""
    rng = np.random.default_rng(51)
    centres = rng.normal(size=(40, 24))
    of_class = rng.integers(10, size=40)
    cluster = rng.integers(40, size=EXAMPLES)
    x = (centres[cluster] + 1.5 * rng.normal(size=(EXAMPLES, 24))).astype(np.float32)
    labels = of_class[cluster].astype(np.int32)

    def init(key):
        first, second, out = jax.random.split(key, 3)
        return {
            "first": _with_scale(dense(first, 24, 64)),
            "second": _with_scale(dense(second, 64, 64)),
            "out": dense(out, 64, 10, 1.0),
        }

    def predict(params, x):
        for layer in (params["first"], params["second"]):
            x = x @ layer["kernel"]
            x = (x - x.mean(0, keepdims=True)) / (x.std(0, keepdims=True) + 1e-5)
            x = jax.nn.relu(x * layer["scale"][None] + layer["bias"][None])
        return apply(params["out"], x)

    return Task(
        "batch norm",
        0.05,
        (0.0125, 0.025, 0.05, 0.1),
        0.008,
        None,
        init,
        *classifier(predict),
        (x[:TRAIN], labels[:TRAIN]),
        (x[TRAIN:], labels[TRAIN:]),
    )


def _with_scale(layer: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {**layer, "scale": jnp.ones_like(layer["bias"])}
