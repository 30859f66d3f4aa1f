"""Runs in two stages: an input that comes late, and data that become others."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.unseen.run import BASE_BATCH, BASE_STEPS
from benchmarks.unseen.task import (
    Task,
    accuracy,
    apply,
    cross_entropy,
    cut,
    dense,
    explained,
    outputs,
    perceptron,
    teacher,
)

# What a run reads, and the test set behind it.
READ, EXAMPLES = BASE_BATCH * BASE_STEPS, BASE_BATCH * BASE_STEPS + 10_000


def late_modality() -> Task:
    """Classes from two inputs, of which the second comes after a tenth of the run.

    The four layers of its branch have a gradient of exactly zero until then.
    """
    rng, width, classes, late = np.random.default_rng(5), 12, 6, 0.1
    x = rng.normal(size=(EXAMPLES, 2, width)).astype(np.float32)
    logits = teacher(rng, (2 * width, 32, classes), x.reshape(EXAMPLES, -1))
    true = (logits - logits.mean(0)).argmax(1).astype(np.int32)
    is_wrong = rng.random(EXAMPLES) < 0.1
    wrong = rng.integers(classes, size=EXAMPLES)
    seen = np.where(is_wrong, wrong, true).astype(np.int32)
    is_there = (np.arange(EXAMPLES) >= late * READ).astype(np.float32)

    def init(key):
        keys = jax.random.split(key, 3)
        return {
            "first": dense(keys[0], width, 32),
            "second": perceptron(keys[1], (width, 24, 24, 24, 32)),
            "head": perceptron(keys[2], (32, 32, classes)),
        }

    def predict(params, batch):
        x, _, is_there = batch
        second = outputs(params["second"], x[:, 1], jax.nn.relu) * is_there[:, None]
        both = jax.nn.relu(apply(params["first"], x[:, 0]) + second)
        return outputs(params["head"], both, jax.nn.relu)

    return Task(
        name="classes from two inputs, one of them late",
        rate=0.0125,
        rates=(0.00625, 0.0125, 0.025, 0.05, 0.1),
        adamw_rate=0.004,
        init=init,
        loss=lambda params, batch: cross_entropy(predict(params, batch), batch[1]),
        score=lambda params, batch: accuracy(predict(params, batch), batch[1]),
        **cut(train=(x, seen, is_there), test=(x, true, is_there), count=READ),
        stages=(late,),
    )


def sim_to_real() -> Task:
    """A function of a simulation for half of the run, then of what it stands for.

    Then inputs are twice as wide and shifted, the function is another by a third, and
    noise is three times as large. Scored on the latter.
    """
    rng, width, change = np.random.default_rng(6), 12, 0.5
    is_real = np.arange(EXAMPLES) >= change * READ
    x = rng.normal(size=(EXAMPLES, width))
    shift = rng.normal(size=width)
    x = np.where(is_real[:, None], 2 * x + shift, x)
    simulated, other = (
        teacher(np.random.default_rng(seed), (width, 24, 1), x / 2)[:, 0]
        for seed in (60, 61)
    )
    true = simulated + np.where(is_real, 0.7 * other + 1, 0)
    true = true / true[is_real].std()
    noisy = true + np.where(is_real, 0.6, 0.2) * rng.standard_normal(EXAMPLES)
    x, noisy, true = (z.astype(np.float32) for z in (x, noisy, true))

    def predict(params, x):
        return outputs(params, x, jax.nn.relu)[:, 0]

    return Task(
        name="simulated, then real",
        rate=0.025,
        rates=(0.00625, 0.0125, 0.025, 0.05),
        adamw_rate=0.016,
        init=lambda key: perceptron(key, (width, 48, 48, 1)),
        loss=lambda params, batch: jnp.mean(
            (predict(params, batch[0]) - batch[1]) ** 2
        ),
        score=lambda params, batch: explained(predict(params, batch[0]), batch[1]),
        **cut(train=(x, noisy), test=(x, true), count=READ),
        stages=(change,),
    )
