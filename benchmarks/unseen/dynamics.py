"""Systems that move in time: followed, continued, and driven."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.unseen.task import (
    EXAMPLES,
    Task,
    classifier,
    cut,
    explained,
    outputs,
    perceptron,
    task_of,
)


def rollouts() -> Task:
    """Two coupled pendulums, eight steps ahead through the network's own steps."""
    rng, steps = np.random.default_rng(2302), 8
    state = rng.normal(size=(EXAMPLES, 4)) * 1.2
    path = []
    for moment in range(steps * 10):
        angle, speed = state[:, :2], state[:, 2:]
        pull = -np.sin(angle) - 0.5 * (angle - angle[:, ::-1]) - 0.1 * speed
        state = np.concatenate([angle + 0.04 * speed, speed + 0.04 * pull], axis=1)
        if moment % 10 == 0:
            path.append(state)
    x, true = path[0].astype(np.float32), np.stack(path[1:], 1).astype(np.float32)
    noisy = (true + 0.3 * rng.normal(size=true.shape)).astype(np.float32)

    def predict(params, x):
        def step(state, _):
            state = state + outputs(params, state, jnp.tanh)
            return state, state

        return jnp.swapaxes(jax.lax.scan(step, x, length=steps - 1)[1], 0, 1)

    return task_of(
        name="rollouts of pendulums",
        rate=0.005,
        rates=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1),
        adamw_rate=0.016,
        init=lambda seed: perceptron(seed, (4, 48, 48, 4)),
        losses=(
            lambda params, batch: jnp.mean((predict(params, batch[0]) - batch[1]) ** 2),
            lambda params, batch: explained(predict(params, batch[0]), batch[1]),
        ),
        examples=(x, noisy, true),
    )


def linear_recurrence() -> Task:
    """The frequency of a wave in noise, by damped rotations over a hundred steps."""
    rng, length, classes, states = np.random.default_rng(9006), 100, 8, 24
    labels = rng.integers(classes, size=EXAMPLES).astype(np.int32)
    frequency = np.linspace(0.1, 0.8, classes)[labels][:, None]
    phase = rng.uniform(0, 2 * np.pi, (EXAMPLES, 1))
    wave = np.sin(frequency * np.arange(length)[None] + phase)
    x = (wave + 1.5 * rng.normal(size=wave.shape)).astype(np.float32)
    # How long ago each input was, when the state is read.
    ages = np.arange(length - 1, -1, -1, dtype=np.float32)[:, None]

    def init(key):
        keys = jax.random.split(key, 4)
        decay = jax.random.uniform(keys[0], (states,), minval=0.02, maxval=0.2)
        return {
            "log_decay": jnp.log(decay),
            "angle": jax.random.uniform(keys[1], (states,), minval=0.0, maxval=1.0),
            "input": jax.random.normal(keys[2], (2, states)),
            "readout": perceptron(keys[3], (2 * states, 48, classes)),
        }

    def predict(params, x):
        # A linear recurrence is a sum over its inputs: no loop is needed.
        decay = jnp.exp(params["log_decay"])[None]
        size = jnp.exp(-decay * ages)
        angle = params["angle"][None] * ages
        # States of equal variance, however long they remember.
        norm = jnp.sqrt(1 - jnp.exp(-2 * decay))
        real = x @ (size * jnp.cos(angle) * norm)
        imaginary = x @ (size * jnp.sin(angle) * norm)
        a, b = params["input"][:1], params["input"][1:]
        turned = [real * a - imaginary * b, real * b + imaginary * a]
        return outputs(params["readout"], jnp.concatenate(turned, 1), jax.nn.relu)

    return task_of(
        name="linear recurrence",
        rate=0.00125,
        rates=(0.000625, 0.00125, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08),
        adamw_rate=0.008,
        muon_rate=0.016,
        init=init,
        losses=classifier(predict),
        examples=(x, labels, labels),
    )


def kelvin() -> Task:
    """Temperatures of a cooling body in kelvin, through an integrator, not normalised.

    An equation of known form, with a network for what is not known of it, and an offset
    of three hundred: the squared gradient falls by orders of magnitude at the start.
    """
    rng, width, steps = np.random.default_rng(7104), 6, 6
    x = rng.normal(size=(EXAMPLES, width)).astype(np.float32)
    mixed = np.tanh(x @ rng.normal(size=(width, 12)) / np.sqrt(width) * 1.5)
    target = 300 + 12 * mixed @ rng.normal(size=12) / np.sqrt(12)
    pace = np.exp(0.6 * mixed @ rng.normal(size=12) / np.sqrt(12) - 0.5)
    start = 320 + 8 * rng.normal(size=EXAMPLES)
    path, heat = [], start
    for moment in range(steps * 10):
        heat = heat + 0.05 * pace * (target - heat) * (1 + 0.1 * np.sin(heat / 4))
        if moment % 10 == 9:
            path.append(heat)
    true = np.stack(path, 1).astype(np.float32)
    noisy = (true + 2.0 * rng.normal(size=true.shape)).astype(np.float32)
    x = np.concatenate([x, start[:, None].astype(np.float32)], axis=1)

    def init(key):
        keys = jax.random.split(key, 2)
        return {
            "ends": perceptron(keys[0], (width, 32, 2)),
            "rest": perceptron(keys[1], (width + 1, 32, 1)),
            "offset": jnp.zeros(()),
            "log_pace": jnp.zeros(()),
        }

    def predict(params, batch):
        known, heat = batch[0][:, :width], batch[0][:, width]
        found = outputs(params["ends"], known, jax.nn.silu)
        target = 30 * params["offset"] + 10 * found[:, 0]
        pace = jax.nn.softplus(params["log_pace"] + found[:, 1])
        path = []
        for _ in range(steps):
            for _ in range(2):
                read = jnp.concatenate([known, heat[:, None] / 100 - 3], axis=1)
                rest = outputs(params["rest"], read, jax.nn.silu)[:, 0]
                heat = heat + 0.25 * (pace * (target - heat) + rest)
            path.append(heat)
        return jnp.stack(path, 1)

    def loss(params, batch):
        return jnp.mean((predict(params, batch) - batch[1]) ** 2) / 2

    return task_of(
        name="kelvin through an integrator",
        rate=0.004096,
        rates=tuple(16e-6 * 2.0**i for i in range(10)),
        muon_rate=0.016,
        init=init,
        losses=(loss, lambda p, batch: explained(predict(p, batch), batch[1])),
        examples=(x, noisy, true),
    )


def compartments() -> Task:
    """How much of a drug is in the blood, by two compartments: a curved valley.

    Logarithms of a volume and of three rates, each with effects of four properties of a
    patient. Noise is in proportion to what is measured; the score is of logarithms.
    """
    rng = np.random.default_rng(7)
    patient = rng.normal(size=(EXAMPLES, 4))
    hours = np.exp(rng.uniform(np.log(0.1), np.log(48), size=EXAMPLES))
    dose = rng.uniform(0.5, 2.0, size=EXAMPLES)
    truth = {
        "typical": np.log([0.5, 0.3, 1.0, 0.15]),
        "effects": 0.2 * rng.normal(size=(4, 4)),
    }

    def predict(params, patient, hours, dose):
        logs = params["typical"][None] + patient @ params["effects"]
        volume, out, away, back = jnp.moveaxis(jnp.exp(logs), -1, 0)
        total = out + away + back
        root = jnp.sqrt(total**2 - 4 * out * back)
        fast, slow = (total + root) / 2, 2 * out * back / (total + root)
        share = (fast - back) / root
        decays = share * jnp.exp(-fast * hours) + (1 - share) * jnp.exp(-slow * hours)
        return dose / volume * decays

    true = np.asarray(predict(truth, patient, hours, dose))
    noisy = true * np.exp(0.3 * rng.standard_normal(EXAMPLES) - 0.045)
    noisy += 0.02 * rng.standard_normal(EXAMPLES)
    known = [z.astype(np.float32) for z in (patient, hours, dose)]

    def init(key):
        one, other = jax.random.split(key)
        start = jnp.log(jnp.array([1.0, 1.0, 0.5, 0.5]))
        return {
            "typical": start + 0.05 * jax.random.normal(one, (4,)),
            "effects": 0.05 * jax.random.normal(other, (4, 4)),
        }

    def loss(params, batch):
        return jnp.mean((predict(params, *batch[:3]) - batch[3]) ** 2)

    def score(params, batch):
        own = jnp.log(predict(params, *batch[:3]) + 1e-2)
        return explained(own, jnp.log(batch[3] + 1e-2))

    return Task(
        name="a drug in two compartments",
        rate=0.00625,
        rates=(0.0015625, 0.003125, 0.00625, 0.0125),
        adamw_rate=0.016,
        init=init,
        loss=loss,
        score=score,
        **cut(train=(*known, noisy.astype(np.float32)), test=(*known, true)),
    )
