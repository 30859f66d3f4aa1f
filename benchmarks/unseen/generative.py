"""Generative models: denoising, densities, an adversarial pair, and codes."""

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

from benchmarks.unseen.task import (
    EXAMPLES,
    TRAIN,
    TRAIN_DIGITS,
    Task,
    apply,
    cut,
    dense,
    explained,
    outputs,
    perceptron,
)


def denoising() -> Task:
    """The noise in a digit, from none to only noise; the network is told how much."""
    rng, width = np.random.default_rng(9001), 96
    digits = load_digits(return_X_y=True)[0]
    digits = digits[rng.permutation(len(digits))]
    known = digits[:TRAIN_DIGITS]
    digits = (digits - known.mean(0)) / known.std()
    # Each digit comes up with many noises; those of the test set are other digits.
    rows = np.concatenate(
        [
            rng.integers(TRAIN_DIGITS, size=TRAIN),
            rng.integers(TRAIN_DIGITS, len(digits), size=EXAMPLES - TRAIN),
        ]
    )
    time = rng.random((EXAMPLES, 1))
    noise = rng.normal(size=(EXAMPLES, 64))
    # Of variance one at any time.
    noisy = np.cos(np.pi * time / 2) * digits[rows] + np.sin(np.pi * time / 2) * noise
    arrays = [array.astype(np.float32) for array in (noisy, time, noise)]

    def init(key):
        keys = jax.random.split(key, 6)
        return {
            "in": dense(keys[0], 64, width),
            "mid": dense(keys[1], width, width),
            "out": dense(keys[2], width, 64, 1.0),
            "time": dense(keys[3], 8, 32),
            "film1": dense(keys[4], 32, 2 * width, 0.3),
            "film2": dense(keys[5], 32, 2 * width, 0.3),
        }

    def predict(params, x, time):
        angles = time * (np.pi / 2) * np.array([[1, 2, 4, 8]], np.float32)
        waves = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)
        moment = jax.nn.silu(apply(params["time"], waves))
        for layer, film in (("in", "film1"), ("mid", "film2")):
            scale, shift = jnp.split(apply(params[film], moment), 2, axis=1)
            x = jax.nn.silu(apply(params[layer], x) * (1 + scale) + shift)
        return apply(params["out"], x)

    def loss(params, batch):
        noisy, time, noise = batch
        return jnp.mean((predict(params, noisy, time) - noise) ** 2)

    def score(params, batch):
        noisy, time, noise = batch
        return explained(predict(params, noisy, time), noise)

    return Task(
        name="denoising of digits",
        rate=0.8,
        rates=(0.05, 0.1, 0.2, 0.4, 0.8, 1.6),
        adamw_rate=0.032,
        init=init,
        loss=loss,
        score=score,
        **cut(train=arrays, test=arrays),
    )


def flow() -> Task:
    """A density in six dimensions, by six affine couplings; the true one is known.

    The score is a hundred times the exponential of minus the divergence from it.
    """
    rng, width = np.random.default_rng(9005), 6
    half, log_of_normal = width // 2, width / 2 * np.log(2 * np.pi)
    x = rng.normal(size=(EXAMPLES, width))
    true = -0.5 * (x**2).sum(1) - log_of_normal
    for _ in range(2):
        kept, changed = x[:, :half], x[:, half:]
        log_scale = 0.8 * np.tanh(kept @ rng.normal(size=(half, half)))
        shift = 1.5 * np.sin(kept @ rng.normal(size=(half, half)))
        x = np.concatenate([changed * np.exp(log_scale) + shift, kept], axis=1)
        true -= log_scale.sum(1)
    rotation, _ = np.linalg.qr(rng.normal(size=(width, width)))
    x, true = (x @ rotation).astype(np.float32), true.astype(np.float32)
    orders = [rng.permutation(width) for _ in range(6)]

    def init(key):
        keys = jax.random.split(key, len(orders))
        nets = [perceptron(one, (half, 32, 32, 2 * half)) for one in keys]
        # Couplings start near the identity, as is usual.
        for *_, last in nets:
            last["kernel"] = 0.1 * last["kernel"]
        return nets

    def log_density(params, x):
        log_det = 0.0
        for net, order in zip(params, orders, strict=True):
            x = x[:, order]
            kept, changed = x[:, :half], x[:, half:]
            log_scale, shift = jnp.split(outputs(net, kept, jax.nn.relu), 2, axis=1)
            log_scale = 2 * jnp.tanh(log_scale / 2)
            x = jnp.concatenate([kept, changed * jnp.exp(log_scale) + shift], axis=1)
            log_det += log_scale.sum(1)
        return log_det - 0.5 * (x**2).sum(1) - log_of_normal

    def score(params, batch):
        x, true = batch
        return 100 * jnp.exp(jnp.mean(log_density(params, x) - true))

    return Task(
        name="coupling flow",
        rate=0.0025,
        rates=(0.00125, 0.0025, 0.005, 0.01, 0.02, 0.04),
        adamw_rate=0.004,
        init=init,
        loss=lambda params, batch: -jnp.mean(log_density(params, batch[0])),
        score=score,
        **cut(train=(x,), test=(x, true)),
    )


def mixture() -> Task:
    """A density of four components that depends on an input; the true one is known.

    The network's own six start narrow, and so with a likelihood of almost nothing. The
    score is a hundred times the exponential of minus the divergence from the true one.
    """
    rng, width, true_parts, parts = np.random.default_rng(7105), 4, 3, 6
    x = rng.normal(size=(EXAMPLES, width))
    hidden = np.tanh(x @ rng.normal(size=(width, 16)) / np.sqrt(width) / 2)
    logits = hidden @ rng.normal(size=(16, true_parts)) / 3
    means = np.stack([hidden @ rng.normal(size=(16, 2)) for _ in range(true_parts)], 1)
    means = means / 2
    spread = np.array([0.2, 0.3, 0.5])
    chosen = (logits + rng.gumbel(size=logits.shape)).argmax(1)
    rows = np.arange(EXAMPLES)
    y = means[rows, chosen] + spread[chosen, None] * rng.normal(size=(EXAMPLES, 2))

    def density(logits, means, log_spread, y):
        log_p = jax.nn.log_softmax(logits)
        error = jnp.sum((y[:, None] - means) ** 2, -1) * jnp.exp(-2 * log_spread)
        log_p = log_p - error / 2 - 2 * log_spread - np.log(2 * np.pi)
        return jax.nn.logsumexp(log_p, axis=1)

    wide = np.log(spread)[None] + np.zeros_like(logits)
    true = np.asarray(density(logits, means, wide, y), np.float32)
    x, y = x.astype(np.float32), y.astype(np.float32)

    def predict(params, x, y):
        found = outputs(params, x, jax.nn.gelu)
        logits, log_spread = found[:, :parts], found[:, parts : 2 * parts] - 2.0
        means = found[:, 2 * parts :].reshape(len(x), parts, 2)
        return density(logits, means, jnp.maximum(log_spread, -5), y)

    return Task(
        name="mixture density that starts narrow",
        rate=0.002,
        rates=(0.000125, 0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016),
        adamw_rate=0.004,
        init=lambda key: perceptron(key, (width, 64, 64, 4 * parts)),
        loss=lambda p, batch: -jnp.mean(predict(p, *batch)),
        score=lambda p, b: 100 * jnp.exp(jnp.mean(predict(p, *b[:2]) - b[2])),
        **cut(train=(x, y), test=(x, y, true)),
    )


def two_players() -> Task:
    """One network draws samples, another tells them from true ones; they share a loss.

    What the first one gains the second loses, so the loss has no minimum to fall to.
    The second pays for being steep at what is true, without which they would circle.
    """
    rng, width, drawn = np.random.default_rng(8206), 4, 6
    angle = rng.uniform(0, 2 * np.pi, size=EXAMPLES)
    ring = (
        np.stack([np.cos(angle), np.sin(angle)], 1) * (1.5 + (angle > np.pi))[:, None]
    )
    bent = np.stack([ring[:, 0] ** 2 - 1.5, ring.prod(1)], 1) / 2
    x = np.concatenate([ring, bent], 1) + 0.15 * rng.normal(size=(EXAMPLES, width))
    x = ((x - x.mean(0)) / x.std(0)).astype(np.float32)
    z = rng.normal(size=(EXAMPLES, drawn)).astype(np.float32)
    ways = rng.normal(size=(width, 24))
    ways = (ways / np.linalg.norm(ways, axis=0)).astype(np.float32)

    def init(key):
        maker, judge = jax.random.split(key)
        return {
            "maker": perceptron(maker, (drawn, 48, 48, width)),
            "judge": perceptron(judge, (width, 48, 48, 1)),
        }

    def made(params, z):
        return outputs(params["maker"], z, jax.nn.silu)

    def loss(params, batch):
        x, z = batch

        def judged(x):
            return outputs(params["judge"], x, jax.nn.silu)[:, 0]

        # The judge's gradient goes to the maker with its sign turned.
        fake = made(params, z)
        fake = 2 * jax.lax.stop_gradient(fake) - fake
        told = jax.nn.softplus(-judged(x)) + jax.nn.softplus(judged(fake))
        steep = jax.grad(lambda x: judged(x).sum())(x)
        return jnp.mean(told + 0.25 * jnp.sum(steep**2, axis=1))

    def score(params, batch):
        """A hundred less Wasserstein's distance along ways of every direction."""
        true, z = batch
        found = jnp.sort(made(params, z) @ ways, axis=0)
        missing = 1 - explained(found, true) / 100
        return 100 * (1 - jnp.sqrt(jnp.maximum(missing, 0)))

    return Task(
        name="two players",
        rate=0.04,
        rates=(0.0025, 0.005, 0.01, 0.02, 0.04, 0.08),
        adamw_rate=0.004,
        muon_rate=0.004,
        init=init,
        loss=loss,
        score=score,
        train=(x[:TRAIN], z[:TRAIN]),
        test=(np.sort(x[TRAIN:] @ ways, axis=0), z[TRAIN:]),
    )


def codebook() -> Task:
    """Digits as four words of a learned codebook of 32, by straight-through gradients.

    Three losses, of which each moves one part only: the network, the words that were
    chosen, and the codes towards them. Words that nobody chooses have no gradient.
    """
    rng, words, parts, width = np.random.default_rng(6305), 32, 4, 6
    digits = load_digits(return_X_y=True)[0]
    digits = digits[rng.permutation(len(digits))]
    known = digits[:TRAIN_DIGITS]
    x = ((digits - known.mean(0)) / known.std()).astype(np.float32)

    def init(key):
        encoder, decoder, book = jax.random.split(key, 3)
        return {
            "encoder": perceptron(encoder, (64, 48, parts * width)),
            "decoder": perceptron(decoder, (parts * width, 48, 64)),
            "book": 0.3 * jax.random.normal(book, (words, width)),
        }

    def coded(params, x):
        code = outputs(params["encoder"], x, jax.nn.relu).reshape(-1, parts, width)
        far = jnp.sum((code[:, :, None] - params["book"][None, None]) ** 2, axis=-1)
        return code, params["book"][far.argmin(-1)]

    def rebuilt(params, code):
        code = code.reshape(-1, parts * width)
        return outputs(params["decoder"], code, jax.nn.relu)

    def loss(params, batch):
        code, word = coded(params, batch[0])
        kept = code + jax.lax.stop_gradient(word - code)
        error = jnp.mean(jnp.sum((rebuilt(params, kept) - batch[0]) ** 2, axis=1))
        learned = jnp.sum((jax.lax.stop_gradient(code) - word) ** 2, axis=(1, 2))
        bound = jnp.sum((code - jax.lax.stop_gradient(word)) ** 2, axis=(1, 2))
        return error / 4 + jnp.mean(learned) + jnp.mean(bound) / 4

    def score(params, batch):
        return explained(rebuilt(params, coded(params, batch[0])[1]), batch[0])

    return Task(
        name="digits by a book of codes",
        rate=0.02,
        rates=(0.00125, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08),
        adamw_rate=0.016,
        muon_rate=0.016,
        init=init,
        loss=loss,
        score=score,
        **cut(train=(x,), test=(x,), count=TRAIN_DIGITS),
    )
