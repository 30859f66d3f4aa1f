"""Settings that processes share: what their digests tell apart.

That processes compare them is tested with real ones, in gather/test_processes.py.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_lena
from optax_lena import _processes
from optax_lena._processes import fingerprint


@dataclasses.dataclass
class Recipe:
    rate: float


class Model:
    def loss(self, x):
        return x + 1

    def other(self, x):
        return x + 2


def rate_of(rate):
    return lambda step: rate * step


def lena(batch_scale=8, layers=optax_lena.per_parameter, **options):
    return optax_lena.lena(0.1, batch_scale, layers=layers, **options)


def cyclic(number):
    made = [number]
    made.append(made)
    return made


DIFFERENT = {
    "number": (1.0, 2.0),
    "type of a number": (1, 1.0),
    "string": ("a", "b"),
    "dtype": (np.dtype("float32"), np.dtype("float64")),
    "order": ([1, 2], [2, 1]),
    "length": ((1,), (1, 1)),
    "key of a dict": ({"a": 1}, {"b": 1}),
    "array": (jnp.arange(3.0), jnp.arange(3.0) + 1),
    "shape": (np.zeros((2, 3)), np.zeros((3, 2))),
    "random key": (jax.random.key(0), jax.random.key(1)),
    "dataclass": (Recipe(0.1), Recipe(0.2)),
    "class": (Recipe, Model),
    "partial": (functools.partial(min, 1), functools.partial(min, 2)),
    "what is closed over": (rate_of(0.1), rate_of(0.2)),
    "constant in code": (lambda x: x + 1, lambda x: x + 2),
    "default": (lambda x=1: x, lambda x=2: x),
    "method": (Model().loss, Model().other),
    "schedule": (optax.constant_schedule(0.1), optax.constant_schedule(0.2)),
    "batch scale": (lena(8), lena(16)),
    "warm-up": (lena(warmup_steps=1), lena(warmup_steps=2)),
    "layers": (lena(), lena(layers=optax_lena.whole_model)),
    "microbatches": (
        optax_lena.value_and_grad(rate_of, 4),
        optax_lena.value_and_grad(rate_of, 8),
    ),
    "state": (lena().init({"a": jnp.ones(2)}), lena().init({"b": jnp.ones(2)})),
    "cycle": (cyclic(1), cyclic(2)),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_differs_has_another_digest(what):
    one, other = DIFFERENT[what]
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(one) == fingerprint(one)


@pytest.mark.parametrize(
    "make",
    [
        lambda: lena(16, warmup_steps=5),
        lambda: optax.chain(optax.clip(1.0), optax_lena.lena_adamw(rate_of(0.1), 4)),
        lambda: optax_lena.value_and_grad(rate_of, 4, layers=optax_lena.stacked("a")),
        lambda: {"params": {"w": jnp.ones(3)}, "key": jax.random.key(3)},
        lambda: Recipe(0.1),
    ],
)
def test_what_is_made_alike_has_one_digest(make):
    assert fingerprint(make()) == fingerprint(make())


def others_have(monkeypatch, *changes):
    """As if there were three processes, of which the last two have other digests.

    Each change is of what one comparison gathers: which settings there are and the
    version of jax, then the settings by their names.
    """
    left = list(changes)

    def allgather(own):
        other = left.pop(0)(own)
        return np.stack([own, other, other])

    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(_processes.multihost_utils, "process_allgather", allgather)


def same(own):
    return own


def other_last(own):
    return np.append(own[:-1], own[-1:] + 1)


def test_equal_settings_pass(monkeypatch):
    others_have(monkeypatch, same, same)
    optax_lena.assert_same_on_processes(tx=lena(), seed=0)


@pytest.mark.parametrize(
    "changes, name", [((same, other_last), "tx"), ((other_last,), "jax")]
)
def test_the_error_names_the_setting_and_the_processes(monkeypatch, changes, name):
    others_have(monkeypatch, *changes)
    message = rf"`{name}` must be the same on all 3 processes, got another on \[1, 2\]"
    with pytest.raises(ValueError, match=message):
        optax_lena.assert_same_on_processes(tx=lena(), seed=0)
