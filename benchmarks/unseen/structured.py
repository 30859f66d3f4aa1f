"""What is asked for has a structure: an order, boxes in an image, or grades."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.unseen.task import (
    EXAMPLES,
    Task,
    apply,
    cut,
    dense,
    outputs,
    perceptron,
    task_of,
    teacher,
)


def ranking() -> Task:
    """Lists of eight, to be ordered by pairs that weigh what exchanging them is worth.

    The weights are those of the present order, so the loss jumps where it changes, and
    it can be smallest where all scores are equal. Grades are noisy.
    """
    rng, count, width = np.random.default_rng(6303), 8, 12
    query = rng.normal(size=(EXAMPLES, 1, 4))
    items = rng.normal(size=(EXAMPLES, count, width - 4))
    x = np.concatenate([np.broadcast_to(query, (EXAMPLES, count, 4)), items], axis=2)
    hidden = np.tanh(x @ rng.normal(size=(width, 24)) * 1.2 / np.sqrt(width))
    worth = hidden @ rng.normal(size=24)
    worth = worth / worth.std()
    noisy = worth + 0.7 * rng.normal(size=worth.shape)

    def graded(worth):
        return np.digitize(worth, [0.0, 0.8, 1.6]).astype(np.float32)

    x, seen, true = x.astype(np.float32), graded(noisy), graded(worth)

    def predict(params, x):
        return outputs(params, x, jax.nn.relu)[..., 0]

    def discount(found):
        """Of every item's place in the order of what is found."""
        ahead = found[:, None] - found[:, :, None]
        # Of two that are level each is half ahead, and so is an item of itself.
        place = jnp.sum(jnp.sign(ahead), axis=2) / 2 + (count - 1) / 2
        return 1 / jnp.log2(2.0 + place)

    def ideal(grade):
        gains = -np.sort(1 - 2**grade, axis=1)
        best = gains @ (1 / np.log2(2.0 + np.arange(count)))
        return np.maximum(best, 1).astype(np.float32)

    def loss(params, batch):
        x, grade, best = batch
        found, gains = predict(params, x), 2**grade - 1
        kept = discount(jax.lax.stop_gradient(found))
        more, nearer = (z[:, :, None] - z[:, None] for z in (gains, kept))
        worth = jnp.abs(more * nearer) / best[:, None, None]
        is_better = grade[:, :, None] > grade[:, None]
        surprise = jax.nn.softplus(found[:, None] - found[:, :, None])
        return jnp.mean(jnp.sum(jnp.where(is_better, worth * surprise, 0.0), (1, 2)))

    def score(params, batch):
        """The discounted gain, as a share of the best; zero in the order given."""
        x, grade, best = batch
        gains = 2**grade - 1
        any_order = jnp.arange(count, 0.0, -1.0)[None] + jnp.zeros_like(grade)
        got, chance = (
            jnp.sum(jnp.sum(gains * discount(one), axis=1) / best)
            for one in (predict(params, x), any_order)
        )
        most = jnp.sum(gains.max(1) > 0)
        return 100 * (got - chance) / (most - chance)

    return Task(
        name="lists to be ordered",
        rate=0.05,
        rates=(0.0125, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6),
        # Of both: twice and four times as much is level, to the grid's edge.
        adamw_rate=0.008,
        muon_rate=0.008,
        init=lambda key: perceptron(key, (width, 32, 32, 1)),
        loss=loss,
        score=score,
        **cut(train=(x, seen, ideal(seen)), test=(x, true, ideal(true))),
    )


def boxes() -> Task:
    """Where objects are in a noisy image, how large, and of which of three kinds.

    Four losses: whether something is in a cell, by a loss that discounts what is
    certain, since most cells are empty; and kind, centre and size, where something is.
    """
    rng, side, cells, kinds = np.random.default_rng(6304), 12, 4, 3
    stride, count = side // cells, 12_000
    image = 0.5 * rng.normal(size=(count, side, side))
    truth = np.zeros((count, cells, cells, 6), np.float32)
    rows, columns = np.mgrid[:side, :side][:, None]
    for _ in range(3):
        is_there = rng.random(count) < 0.5
        kind = rng.integers(kinds, size=count)
        size = rng.uniform(2.0, 5.0, size=(2, count))
        centre = rng.uniform(1.5, side - 1.5, size=(2, count))
        cell = (centre / stride).astype(int)
        each = np.arange(count)
        is_there &= truth[each, cell[0], cell[1], 0] == 0
        down, right = (
            np.abs(axis + 0.5 - middle[:, None, None]) / (extent[:, None, None] / 2)
            for axis, middle, extent in zip((rows, columns), centre, size, strict=True)
        )
        is_in = (down < 1) & (right < 1)
        # Filled, a frame, or a cross.
        shapes = [is_in, is_in & (np.maximum(down, right) > 0.5)]
        shapes.append(is_in & (np.minimum(down, right) < 0.4))
        drawn = np.stack(shapes, 1)[each, kind]
        image += 1.5 * drawn * is_there[:, None, None]
        found = np.stack([np.ones(count), kind, *(centre / stride - cell), *size], 1)
        found[:, 4:] = np.log(found[:, 4:] / stride)
        at = each[is_there], cell[0][is_there], cell[1][is_there]
        truth[at] = found[is_there]
    x = image.astype(np.float32)
    truth = truth.reshape(count, cells * cells, 6)

    def init(key):
        keys = jax.random.split(key, 4)
        head = dense(keys[3], 20, 5 + kinds, 1.0)
        # Nothing is anywhere, at first.
        head["bias"] = head["bias"].at[0].set(-2.0)
        return {
            "first": dense(keys[0], 25, 12),
            "second": dense(keys[1], 9 * 12, 20),
            "third": dense(keys[2], 20, 20),
            "out": head,
        }

    def near(x, size, step):
        """Every `step`th place's square of neighbours, as its channels."""
        edge = size // 2
        padded = jnp.pad(x, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
        span = x.shape[1]
        start = step // 2
        own = [
            padded[:, i + start : i + span : step, j + start : j + span : step]
            for i in range(size)
            for j in range(size)
        ]
        return jnp.concatenate(own, axis=-1)

    def predict(params, x):
        x = jax.nn.relu(apply(params["first"], near(x[..., None], 5, stride)))
        x = jax.nn.relu(apply(params["second"], near(x, 3, 1)))
        x = x + jax.nn.relu(apply(params["third"], x))
        found = apply(params["out"], x)
        return found.reshape(len(x), cells * cells, 5 + kinds)

    def loss(params, batch):
        x, truth = batch
        found, is_there = predict(params, x), truth[..., 0]
        sign = 2 * is_there - 1
        wrong = jax.nn.sigmoid(-sign * found[..., 0])
        there = wrong**2 * jax.nn.softplus(-sign * found[..., 0])
        log_p = jax.nn.log_softmax(found[..., 5:])
        own = jax.nn.one_hot(truth[..., 1].astype(int), kinds)
        far = jnp.abs(found[..., 1:5] - truth[..., 2:])
        far = jnp.sum(jnp.where(far < 0.1, 5 * far**2, far - 0.05), axis=-1)
        where = is_there * (far - jnp.sum(own * log_p, axis=-1))
        return jnp.mean(jnp.sum(2 * there + where, axis=1))

    def corners(box):
        middle, extent = box[..., :2], jnp.exp(jnp.clip(box[..., 2:], -4, 4))
        return middle - extent / 2, middle + extent / 2

    def score(params, batch):
        """Boxes found and right, as a share of those found and those there."""
        x, truth = batch
        found, is_there = predict(params, x), truth[..., 0] > 0
        (low, high), (least, most) = corners(found[..., 1:5]), corners(truth[..., 2:])
        both = jnp.maximum(jnp.minimum(high, most) - jnp.maximum(low, least), 0)
        shared = jnp.prod(both, -1)
        areas = jnp.prod(high - low, -1) + jnp.prod(most - least, -1)
        is_near = shared / (areas - shared) > 0.5
        is_kind = found[..., 5:].argmax(-1) == truth[..., 1]
        is_found = found[..., 0] > 0
        right = jnp.sum(is_found & is_there & is_near & is_kind)
        return 200 * right / (jnp.sum(is_found) + jnp.sum(is_there))

    return Task(
        name="boxes in an image",
        rate=0.02,
        rates=(0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16),
        adamw_rate=0.008,
        init=init,
        loss=loss,
        score=score,
        **cut(train=(x, truth), test=(x, truth), count=10_000),
    )


def ordinal() -> Task:
    """Six grades, of unequal shares, by one number and five thresholds in their order.

    A threshold but the first is what it is above the one before. The score is Cohen's
    kappa with quadratic weights.
    """
    rng, width, grades = np.random.default_rng(4), 16, 6
    x = rng.normal(size=(EXAMPLES, width))
    height = teacher(rng, (width, 24, 1), x)[:, 0]
    height = (height - height.mean()) / height.std()
    edges = np.array([-2.0, -0.8, -0.3, 0.2, 1.8])
    true = np.searchsorted(edges, height).astype(np.int32)
    noisy = height + rng.logistic(size=EXAMPLES) * 0.25
    seen = np.searchsorted(edges, noisy).astype(np.int32)

    def init(key):
        return {
            "network": perceptron(key, (width, 32, 32, 1)),
            "first": jnp.full(1, -1.0),
            "above": jnp.zeros(grades - 2),
        }

    def thresholds(params):
        above = jnp.cumsum(jax.nn.softplus(params["above"]) + 1e-3)
        return jnp.concatenate([params["first"], params["first"] + above])

    def predict(params, x):
        return outputs(params["network"], x, jax.nn.relu)[:, 0]

    def loss(params, batch):
        x, seen = batch
        height, edges = predict(params, x), thresholds(params)
        upper = edges[jnp.minimum(seen, grades - 2)]
        lower = edges[jnp.maximum(seen - 1, 0)]
        is_inside = (seen > 0) & (seen < grades - 1)
        gap = jnp.where(is_inside, upper - lower, 1.0)
        log_p = jnp.where(seen < grades - 1, jax.nn.log_sigmoid(upper - height), 0.0)
        log_p += jnp.where(seen > 0, jax.nn.log_sigmoid(height - lower), 0.0)
        log_p += jnp.where(is_inside, jnp.log1p(-jnp.exp(-gap)), 0.0)
        return -jnp.mean(log_p)

    def score(params, batch):
        x, true = batch
        own = jnp.sum(predict(params, x)[:, None] > thresholds(params)[None], 1)
        observed = jnp.mean((own - true) ** 2.0)
        spread = jnp.var(own.astype(jnp.float32)) + jnp.var(true.astype(jnp.float32))
        by_chance = spread + (jnp.mean(own) - jnp.mean(true)) ** 2
        return 100 * (1 - observed / by_chance)

    return task_of(
        name="six grades in their order",
        rate=0.025,
        rates=(0.0125, 0.025, 0.05, 0.1),
        adamw_rate=0.008,
        init=init,
        losses=(loss, score),
        examples=(x.astype(np.float32), seen, true),
    )
