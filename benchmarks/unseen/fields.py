"""Fields over a space: energies with forces, a Gaussian process, a picture, curves."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.unseen.task import (
    EXAMPLES,
    TRAIN,
    Task,
    apply,
    cut,
    dense,
    explained,
    outputs,
    perceptron,
)


def forces() -> Task:
    """The energy of four atoms of two kinds, from it and its gradient at each atom.

    Nothing but distances is seen, so what is found turns with the atoms. Units are as
    they are measured: the loss starts at thousands, and atoms that come close have far
    more than their share of it. Its gradient has second derivatives in it.
    """
    rng, atoms, width, waves, unit = np.random.default_rng(4601), 4, 16, 8, 10.0
    kinds = np.array([0, 0, 1, 1])
    one, other = np.triu_indices(atoms, 1)
    x = 1.3 * rng.normal(size=(EXAMPLES, atoms, 3))

    def between(x):
        apart = x[:, one] - x[:, other]
        distance = np.linalg.norm(apart, axis=2)
        return distance, apart / distance[..., None]

    def at_atoms(along, way):
        """What each atom gets of what is along its pairs."""
        found = np.zeros((EXAMPLES, atoms, 3))
        for pair, (i, j) in enumerate(zip(one, other, strict=True)):
            found[:, i] += along[:, pair, None] * way[:, pair]
            found[:, j] -= along[:, pair, None] * way[:, pair]
        return found

    # None that are as good as in one place.
    for _ in range(40):
        distance, way = between(x)
        x += 0.3 * at_atoms(np.maximum(1.0 - distance, 0), way)
    distance, way = between(x)
    of_pair = kinds[one] + kinds[other]
    depth, best = np.array([1.0, 0.5, 0.8])[of_pair], np.array([1.2, 1.5, 1.8])[of_pair]
    fall = np.exp(-1.8 * (distance - best))
    energy = (depth * (fall**2 - 2 * fall)).sum(1)
    slope = depth * -3.6 * (fall**2 - fall)
    # Each neighbour binds an atom less than the one before it.
    crowd, near = np.full((EXAMPLES, atoms), 0.1), np.exp(1.5 - 1.5 * distance)
    for pair, ends in enumerate(zip(one, other, strict=True)):
        crowd[:, ends] += near[:, pair, None]
    energy -= 1.5 * np.sqrt(crowd).sum(1)
    slope += 1.5 * 0.75 * near * (crowd[:, one] ** -0.5 + crowd[:, other] ** -0.5)
    force = -unit * at_atoms(slope, way)
    energy = unit * (energy - energy[:TRAIN].mean())
    arrays = [a.astype(np.float32) for a in (x, energy, force)]
    centres = jnp.linspace(0.8, 4.0, waves)
    is_other = jnp.asarray(1 - np.eye(atoms), jnp.float32)

    def init(key):
        keys = jax.random.split(key, 6)
        return {
            "kind": jax.random.normal(keys[0], (2, width)),
            "filters": [dense(one, waves, width) for one in keys[1:3]],
            "updates": [dense(one, width, width, 1.0) for one in keys[3:5]],
            "energy": perceptron(keys[5], (width, width, 1)),
        }

    def total(params, x):
        """The energy of one molecule."""
        square = jnp.sum((x[:, None] - x[None]) ** 2, axis=2)
        # The root has a slope at an atom itself too, which counts for nothing.
        distance = jnp.sqrt(square + 1 - is_other)[..., None]
        seen = jnp.exp(-2 * (distance - centres[None, None]) ** 2)
        hidden = params["kind"][kinds]
        for passes, update in zip(params["filters"], params["updates"], strict=True):
            weight = jnp.tanh(apply(passes, seen)) * is_other[..., None]
            message = jnp.sum(weight * hidden[None], axis=1)
            hidden = hidden + jax.nn.silu(apply(update, message))
        return unit * jnp.sum(outputs(params["energy"], hidden, jax.nn.silu))

    def predict(params, x):
        """Energies and forces of many."""
        own = jax.vmap(jax.value_and_grad(total, argnums=1), in_axes=(None, 0))
        energy, slope = own(params, x)
        return energy, -slope

    def loss(params, batch):
        x, *true = batch
        energy, force = (a - b for a, b in zip(predict(params, x), true, strict=True))
        return jnp.mean(energy**2) / atoms + jnp.mean(jnp.sum(force**2, axis=2))

    def score(params, batch):
        """A hundred less the error of a force, in percent of a force."""
        x, _, true = batch
        error = jnp.mean(jnp.abs(predict(params, x)[1] - true))
        return 100 * (1 - error / jnp.mean(jnp.abs(true)))

    return Task(
        name="forces between atoms",
        rate=1e-5,
        rates=(2.5e-6, 5e-6, 1e-5, 2e-5, 4e-5, 8e-5),
        # The grid's edge: 0.064 is worse, and at 0.128 a seed is lost.
        adamw_rate=0.032,
        init=init,
        loss=loss,
        score=score,
        **cut(train=arrays, test=arrays, tests=3000),
    )


def inducing() -> Task:
    """A Gaussian process by thirty points that stand for all others, and their bound.

    The bound is that of all examples, so the loss is of tens of thousands. Places,
    heights, a covariance and logarithms of scales have little in common, and where two
    points meet the matrix that is factored has almost no inverse.
    """
    rng, width, points = np.random.default_rng(4602), 2, 30
    x = rng.uniform(-1, 1, size=(EXAMPLES, width))
    waves, phase = 5.0 * rng.normal(size=(width, 12)), rng.uniform(0, 6, size=12)
    true = np.sin(x @ waves + phase) @ rng.normal(size=12) / np.sqrt(6)
    noisy = true + 0.5 * rng.normal(size=EXAMPLES)
    x, true, noisy = (a.astype(np.float32) for a in (x, true, noisy))

    def init(key):
        return {
            "places": jax.random.uniform(key, (points, width), minval=-1),
            "mean": jnp.zeros(points),
            "root": jnp.eye(points),
            "log_lengths": jnp.zeros(width),
            "log_scale": jnp.zeros(()),
            "log_noise": jnp.zeros(()),
        }

    def covariance(params, one, other):
        lengths = jnp.exp(params["log_lengths"])[None]
        apart = (one / lengths)[:, None] - (other / lengths)[None]
        near = jnp.exp(-0.5 * jnp.sum(apart**2, axis=2))
        return jnp.exp(2 * params["log_scale"]) * near

    def projected(params, x):
        """What each point weighs for each x, as if points were independent."""
        among = covariance(params, params["places"], params["places"])
        root = jnp.linalg.cholesky(among + 1e-3 * jnp.eye(points))
        beside = covariance(params, params["places"], x)
        return jax.scipy.linalg.solve_triangular(root, beside, lower=True)

    def loss(params, batch):
        x, noisy = batch
        weights, root = projected(params, x), jnp.tril(params["root"])
        prior = jnp.exp(2 * params["log_scale"])
        spread = jnp.sum((root.T @ weights) ** 2, 0) - jnp.sum(weights**2, 0) + prior
        error = (noisy - params["mean"] @ weights) ** 2 + spread
        log_noise = params["log_noise"]
        misfit = 0.5 * error * jnp.exp(-2 * log_noise) + log_noise
        log_volume = jnp.sum(jnp.log(jnp.abs(jnp.diagonal(root)) + 1e-6))
        apart = 0.5 * (jnp.sum(root**2) + jnp.sum(params["mean"] ** 2) - points)
        return TRAIN * jnp.mean(misfit) + apart - log_volume

    def score(params, batch):
        x, true = batch
        return explained(params["mean"] @ projected(params, x), true)

    return Task(
        name="points of a Gaussian process",
        rate=5e-7,
        rates=(2.5e-7, 5e-7, 1e-6, 2e-6, 4e-6, 8e-6),
        # The grid's edge: from 0.008 on all is level, and 0.064 is worse.
        adamw_rate=0.032,
        init=init,
        loss=loss,
        score=score,
        **cut(train=(x, noisy), test=(x, true)),
    )


def splats() -> Task:
    """A picture of discs, by forty smooth spots that overlap.

    A spot has a gradient from where it is seen: not from pixels far away, nor from
    those before which others lie, so most are moved by a few examples. The loss has the
    units of a pixel's 256 levels, and errors are not squared.
    """
    rng, discs, spots = np.random.default_rng(4603), 14, 40
    x = rng.uniform(-1, 1, size=(EXAMPLES, 2))
    true = np.full((EXAMPLES, 3), 0.5)
    for _ in range(discs):
        centre, radius = rng.uniform(-1, 1, size=2), rng.uniform(0.15, 0.5)
        away = (x - centre) @ rng.normal(size=(2, 2))
        is_in = np.linalg.norm(away, axis=1) < radius
        true[is_in] = rng.uniform(size=3)
    noisy = true + 0.1 * rng.normal(size=true.shape)
    x, true, noisy = (a.astype(np.float32) for a in (x, true, noisy))

    def init(key):
        place, colour = jax.random.split(key)
        return {
            "places": jax.random.uniform(place, (spots, 2), minval=-1),
            "log_sharpness": jnp.full((spots, 2), 1.5),
            "angle": jnp.zeros(spots),
            "colour": jax.random.normal(colour, (spots, 3)),
            "opacity": jnp.full(spots, -1.0),
            "ground": jnp.zeros(3),
        }

    def predict(params, x):
        apart = x[:, None] - params["places"][None]
        cos, sin = jnp.cos(params["angle"])[None], jnp.sin(params["angle"])[None]
        along = cos * apart[..., 0] + sin * apart[..., 1]
        across = cos * apart[..., 1] - sin * apart[..., 0]
        turned = jnp.stack([along, across], axis=2)
        square = jnp.sum((turned * jnp.exp(params["log_sharpness"])[None]) ** 2, axis=2)
        hides = jax.nn.sigmoid(params["opacity"])[None] * jnp.exp(-0.5 * square)
        # What is left behind all that lie before it.
        left = jnp.cumprod(1 - hides, axis=1)
        before = jnp.concatenate([jnp.ones((len(x), 1)), left[:, :-1]], axis=1)
        seen = (hides * before) @ jax.nn.sigmoid(params["colour"])
        return seen + left[:, -1:] * jax.nn.sigmoid(params["ground"])[None]

    def loss(params, batch):
        x, noisy = batch
        return 255 * jnp.mean(jnp.abs(predict(params, x) - noisy))

    return Task(
        name="a picture of spots",
        rate=1e-3,
        rates=(2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3),
        adamw_rate=0.016,
        init=init,
        loss=loss,
        score=lambda params, batch: explained(predict(params, batch[0]), batch[1]),
        **cut(train=(x, noisy), test=(x, true)),
    )


def hypernetwork() -> Task:
    """Noisy curves, by a small network whose weights another network writes.

    The other network reads four numbers that say what curve it is. An example has eight
    points of one curve.
    """
    rng, points, width = np.random.default_rng(1), 8, 8
    sizes = (width, width, width, 1)
    kind = rng.uniform(-1, 1, size=(EXAMPLES, 4))
    x = rng.uniform(-1, 1, size=(EXAMPLES, points))
    high, fast, phase, bend = (kind[:, i : i + 1] for i in range(4))
    true = (1 + 0.5 * high) * np.sin((2.5 + 1.5 * fast) * x + 2 * phase) + bend * x**2
    noisy = true + 0.4 * rng.standard_normal(true.shape)
    kind, x, noisy, true = (a.astype(np.float32) for a in (kind, x, noisy, true))

    def predict(params, kind, x):
        written = outputs(params, kind, jax.nn.relu)
        parts = jnp.split(written, np.cumsum(sizes)[:-1], axis=-1)
        inner, offset, outer, last = (part[:, None, :] for part in parts)
        hidden = jnp.tanh(2 * inner * x[..., None] + offset)
        return jnp.sum(hidden * outer, -1) + last[..., 0]

    def loss(params, batch):
        return jnp.mean((predict(params, *batch[:2]) - batch[2]) ** 2)

    def score(params, batch):
        """The share of the variance of all points that is explained."""
        error = jnp.sum((predict(params, *batch[:2]) - batch[2]) ** 2)
        return 100 * (1 - error / jnp.sum((batch[2] - batch[2].mean()) ** 2))

    return Task(
        name="curves, by weights that a network writes",
        rate=0.025,
        rates=(0.0125, 0.025, 0.05, 0.1),
        adamw_rate=0.008,
        init=lambda key: perceptron(key, (4, 32, 32, sum(sizes))),
        loss=loss,
        score=score,
        **cut(train=(kind, x, noisy), test=(kind, x, true)),
    )
