"""Classes of generated points, sets, graphs and signs; with and without norms."""

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
    outputs,
    perceptron,
    task_of,
    teacher,
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

    return task_of(
        name="batch norm",
        rate=0.05,
        rates=(0.0125, 0.025, 0.05, 0.1),
        adamw_rate=0.008,
        init=init,
        losses=classifier(predict),
        examples=(x, labels, labels),
        mixes_examples=True,
    )


def _with_scale(layer: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {**layer, "scale": jnp.ones_like(layer["bias"])}


def residual_norm() -> Task:
    """Four residual blocks behind a layer norm each, on clusters with wrong labels."""
    rng, width = np.random.default_rng(1004), 48
    centres = rng.normal(size=(60, 20))
    cluster = rng.integers(60, size=EXAMPLES)
    of_class = rng.integers(8, size=60)
    x = (centres[cluster] + 1.1 * rng.normal(size=(EXAMPLES, 20))).astype(np.float32)
    labels = of_class[cluster].astype(np.int32)
    is_wrong = rng.random(EXAMPLES) < 0.2
    wrong = rng.integers(8, size=EXAMPLES)
    seen = np.where(is_wrong, wrong, labels).astype(np.int32)

    def init(key):
        first, out, *others = jax.random.split(key, 10)
        pairs = zip(others[::2], others[1::2], strict=True)
        blocks = [
            {
                "scale": jnp.ones(width),
                "offset": jnp.zeros(width),
                "up": dense(up, width, 96),
                "down": dense(down, 96, width, 0.1),
            }
            for up, down in pairs
        ]
        ends = {"in": dense(first, 20, width, 1.0), "out": dense(out, width, 8, 1.0)}
        return {**ends, "blocks": blocks}

    def predict(params, x):
        x = apply(params["in"], x)
        for block in params["blocks"]:
            hidden = jax.nn.gelu(apply(block["up"], layer_norm(block, x)))
            x = x + apply(block["down"], hidden)
        return apply(params["out"], x)

    return task_of(
        name="residual blocks with layer norm",
        rate=0.05,
        rates=(0.01, 0.02, 0.05, 0.1),
        adamw_rate=0.008,
        init=init,
        losses=classifier(predict),
        examples=(x, seen, labels),
    )


def residual_plain() -> Task:
    """Six residual blocks without a norm, on a teacher's classes."""
    rng, width, classes = np.random.default_rng(2002), 40, 6
    x = rng.normal(size=(EXAMPLES, 16)).astype(np.float32)
    inner, outer = rng.normal(size=(16, 24)), rng.normal(size=(24, classes))
    scores = np.sin(x @ inner / 2) @ outer
    labels = (scores + rng.gumbel(size=scores.shape)).argmax(1).astype(np.int32)

    def init(seed):
        first, last, *others = jax.random.split(seed, 14)
        pairs = zip(others[::2], others[1::2], strict=True)
        return {
            "in": dense(first, 16, width, 1.0),
            "blocks": [
                {"up": dense(up, width, width), "down": dense(down, width, width, 0.3)}
                for up, down in pairs
            ],
            "out": dense(last, width, classes, 1.0),
        }

    def predict(params, x):
        x = apply(params["in"], x)
        for block in params["blocks"]:
            x = x + apply(block["down"], jax.nn.relu(apply(block["up"], x)))
        return apply(params["out"], x)

    return task_of(
        name="residual blocks without a norm",
        rate=0.02,
        rates=(0.005, 0.01, 0.02, 0.05),
        adamw_rate=0.004,
        init=init,
        losses=classifier(predict),
        examples=(x, labels, scores.argmax(1).astype(np.int32)),
    )


def point_sets() -> Task:
    """Outlines as sets of points: a maximum over points of a network's outputs."""
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
        adamw_rate=0.002,
        init=init,
        losses=classifier(predict),
        examples=(x, labels, labels),
    )


def graphs() -> Task:
    """Graphs of one to four communities, by messages between neighbours."""
    rng, nodes, width = np.random.default_rng(2303), 16, 32
    labels = rng.integers(4, size=EXAMPLES).astype(np.int32)
    home = rng.integers(1 + labels[:, None], size=(EXAMPLES, nodes))
    is_near = home[:, :, None] == home[:, None, :]
    drawn = rng.random(size=is_near.shape)
    # As many edges in all, whatever the number of communities.
    share = is_near.mean((1, 2), keepdims=True)
    edges = np.triu(drawn < np.where(is_near, 0.08 + 0.24 / share, 0.08).clip(0, 1), 1)
    x = (edges + edges.swapaxes(1, 2)).astype(np.float32)

    def init(seed):
        keys = jax.random.split(seed, 5)
        return {
            "in": dense(keys[0], 1, width),
            "own": [dense(key, width, width, 1.0) for key in keys[1:3]],
            "near": [dense(key, width, width, 1.0) for key in keys[3:5]],
            "out": perceptron(seed, (2 * width, 32, 4)),
        }

    def predict(params, x):
        degree = x.sum(-1, keepdims=True)
        h = jax.nn.relu(apply(params["in"], degree / 8))
        for own, near in zip(params["own"], params["near"], strict=True):
            heard = x @ apply(near, h) / jnp.sqrt(1 + degree)
            h = jax.nn.relu(apply(own, h) + heard)
        # Of the graph's squared adjacency, which counts common neighbours.
        common = jnp.tanh(x @ (x @ h) / nodes)
        read = jnp.concatenate([h.mean(1), common.mean(1)], axis=-1)
        return outputs(params["out"], read, jax.nn.relu)

    return task_of(
        name="graphs of communities",
        rate=0.02,
        rates=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1),
        adamw_rate=0.004,
        init=init,
        losses=classifier(predict),
        examples=(x, labels, labels),
    )


def parity() -> Task:
    """Whether three of sixteen signs multiply to one: a plateau, then all at once."""
    rng, bits = np.random.default_rng(9007), 16
    x = rng.choice([-1.0, 1.0], size=(EXAMPLES, bits))
    labels = (x[:, :3].prod(1) > 0).astype(np.int32)
    is_wrong = rng.random(EXAMPLES) < 0.1
    seen = np.where(is_wrong, 1 - labels, labels).astype(np.int32)

    def predict(params, x):
        return outputs(params, x, jnp.tanh)

    loss, right = classifier(predict)
    return task_of(
        name="parity of three signs",
        # The middle of those that tie, 0.0015625 to 0.1.
        rate=0.0125,
        rates=(0.00078125, 0.0015625, 0.003125, 0.00625, 0.0125, 0.025, 0.05, 0.1, 0.2),
        adamw_rate=0.032,
        init=lambda key: perceptron(key, (bits, 24, 24, 24, 24, 2), gain=1.0),
        # Zero by chance.
        losses=(loss, lambda params, batch: 2 * right(params, batch) - 100),
        examples=(x.astype(np.float32), seen, labels),
    )


def weight_norm() -> Task:
    """Directions and lengths of weights, on a teacher's classes with wrong labels.

    A column of a kernel is a vector over its norm, times a length. Vectors start short,
    so that their first gradients are large, and every step makes them longer.
    """
    rng, width, classes = np.random.default_rng(2), 16, 8
    sizes = (width, 32, 32, 32, classes)
    x = rng.normal(size=(EXAMPLES, width))
    logits = teacher(rng, (width, 40, classes), x)
    labels = (logits - logits.mean(0)).argmax(1).astype(np.int32)
    is_wrong = rng.random(EXAMPLES) < 0.2
    wrong = rng.integers(classes, size=EXAMPLES)
    seen = np.where(is_wrong, wrong, labels).astype(np.int32)

    def init(key):
        keys = jax.random.split(key, len(sizes) - 1)
        return [
            {
                "direction": 0.05 * jax.random.normal(one, (fan_in, fan_out)),
                "length": jnp.ones(fan_out),
                "bias": jnp.zeros(fan_out),
            }
            for one, fan_in, fan_out in zip(keys, sizes, sizes[1:], strict=False)
        ]

    def normed(layer, x):
        vectors = layer["direction"]
        kernel = vectors / jnp.sqrt(jnp.sum(vectors**2, 0, keepdims=True))
        return x @ kernel * layer["length"][None] + layer["bias"][None]

    def predict(params, x):
        for layer in params[:-1]:
            x = jax.nn.relu(normed(layer, x))
        return normed(params[-1], x)

    return task_of(
        name="directions and lengths, wrong labels",
        rate=0.05,
        rates=(0.025, 0.05, 0.1),
        adamw_rate=0.004,
        init=init,
        losses=classifier(predict),
        examples=(x.astype(np.float32), seen, labels),
    )
