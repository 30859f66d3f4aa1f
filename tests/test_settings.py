"""Settings that processes share: what their digests tell apart.

That processes compare them is tested with real ones, in gather/test_processes.py.
"""

import argparse
import dataclasses
import enum
import functools
import itertools
import re
import threading

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


def mapped_loss(mapped):
    return lambda x: mapped(x)


def unbound_closure():
    """A function that closes over a name which it has no value for yet."""

    def closure():
        return later

    kept = closure
    if not kept:
        later = 1
    return kept


class Kind(enum.Enum):
    ONE = enum.auto()
    OTHER = enum.auto()


class Schedule:
    def __init__(self, rate):
        self._rate = rate

    def __call__(self, step):
        return self._rate * step


@jax.custom_jvp
def identity(x):
    return x


class Model:
    def loss(self, x):
        return x + 1

    def other(self, x):
        return x + 2


def rate_of(rate):
    return lambda step: rate * step


def lena(batch_scale=8, layers=optax_lena.per_parameter, **options):
    return optax_lena.lena(0.1, batch_scale, layers=layers, **options)


def mesh(*names):
    devices = np.array(jax.devices()[:1]).reshape((1,) * len(names))
    return jax.sharding.Mesh(devices, names)


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
    "default of a keyword": (lambda *, x=1: x, lambda *, x=2: x),
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
    "jitted function": (jax.jit(lambda x: x + 1), jax.jit(lambda x: x + 2)),
    "wrapped function": (
        functools.cache(lambda x: x + 1),
        functools.cache(lambda x: x + 2),
    ),
    "namespace": (argparse.Namespace(rate=1), argparse.Namespace(rate=2)),
    "partition": (jax.P("data"), jax.P("model")),
    "mesh": (mesh("data"), mesh("model")),
    "sharding": (
        jax.sharding.NamedSharding(mesh("a", "b"), jax.P("a")),
        jax.sharding.NamedSharding(mesh("a", "b"), jax.P("b")),
    ),
    "set": ({"a", "b"}, {"a", "c"}),
    "member of an enum": (Kind.ONE, Kind.OTHER),
    "callable object": (Schedule(0.1), Schedule(0.2)),
    "names in code": (lambda x: jnp.sin(x), lambda x: jnp.cos(x)),
    "builtin": (min, max),
    "builtin method": ("a".join, "b".join),
    "range": (range(2), range(3)),
    "pattern": (re.compile("a" * 300), re.compile("a" * 300 + "b")),
    "array of objects": (np.array([{}, "a"]), np.array([{}, "b"])),
    "module": (np, jnp),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_differs_has_another_digest(what):
    one, other = DIFFERENT[what]
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(one) == fingerprint(one)


ORDERS = itertools.cycle(["ab", "ba"])  # of the keys of one dictionary


@pytest.mark.parametrize(
    "make",
    [
        lambda: lena(16, warmup_steps=5),
        lambda: optax.chain(optax.clip(1.0), optax_lena.lena_adamw(rate_of(0.1), 4)),
        lambda: optax_lena.value_and_grad(rate_of, 4, layers=optax_lena.stacked("a")),
        lambda: {"params": {"w": jnp.ones(3)}, "key": jax.random.key(3)},
        lambda: dict.fromkeys(next(ORDERS)),
        lambda: Recipe(0.1),
        lambda: jax.jit(rate_of(0.1)),
        lambda: [optax.adamw(optax.cosine_decay_schedule(0.1, 10)), identity, jnp.add],
        lambda: optax.inject_hyperparams(optax_lena.lena)(0.1, batch_scale=4),
        lambda: optax_lena.lena_muon(0.1, options={"ns_steps": 3}),
        lambda: optax_lena.accumulate(optax_lena.lena_amplified(rate_of(0.1)), 4),
        lambda: [argparse.Namespace(a={"b", "c"}), Schedule(0.1), Kind.ONE, jax.P("a")],
        lambda: [mesh("a"), jax.sharding.NamedSharding(mesh("a"), jax.P("a"))],
        lambda: [np.array([Schedule(1), "a"], object), re.compile("a"), len, np],
        lambda: mapped_loss(jax.vmap(rate_of)),
        lambda: unbound_closure(),
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


def test_a_setting_that_says_nothing_about_itself_is_an_error_that_names_it(
    monkeypatch,
):
    """Its digest is gathered first: else the other processes would wait for it."""
    others_have(monkeypatch, same, same)
    message = "`lock` must be made of functions.*got <unlocked _thread.lock"
    with pytest.raises(ValueError, match=message):
        optax_lena.assert_same_on_processes(lock=[threading.Lock()], seed=0)
