"""Recipes of Muon for matrices and AdamW for all else, at one rate."""

import functools
import math
from typing import Any

import optax

import optax_lena
from benchmarks.methods.base import MUON_OPTIONS
from benchmarks.methods.muon import memories
from benchmarks.unseen.adamw import GRID, WEIGHT_DECAY, at_rate
from benchmarks.unseen.family import Family, Method

_DECAY: dict[str, Any] = {
    "weight_decay": WEIGHT_DECAY,
    "adam_weight_decay": WEIGHT_DECAY,
}

_muon = functools.partial(optax.contrib.muon, **MUON_OPTIONS, **_DECAY)
_lena_muon = functools.partial(optax_lena.lena_muon, options=MUON_OPTIONS, **_DECAY)


def _by_updates(
    schedule: optax.Schedule, batch_scale: int
) -> optax.GradientTransformation:
    del batch_scale
    return _muon(schedule)


def _by_examples(
    schedule: optax.Schedule, batch_scale: int
) -> optax.GradientTransformation:
    return _muon(schedule, **memories(0.95, batch_scale))


MUON = Family(
    label="Muon (decay 0.01)",
    records="unseen_muon",
    rate=lambda task: task.muon_rate,
    grid=lambda task: GRID,
    base=_muon,
    methods={
        "constant": Method(
            "rate as it is", at_rate(lambda scale: 1.0, _by_updates), False
        ),
        "square_root": Method(
            "square-root scaling", at_rate(math.sqrt, _by_updates), False
        ),
        "linear": Method("linear scaling", at_rate(float, _by_updates), False),
        "square_root_memories": Method(
            "square-root scaling, memories by examples",
            at_rate(math.sqrt, _by_examples),
            False,
        ),
        "lena_muon_model": Method(
            "LENA + Muon, one layer: the model",
            functools.partial(_lena_muon, layers=optax_lena.whole_model),
        ),
        "lena_muon": Method("LENA + Muon", _lena_muon),
    },
    recommended="lena_muon",
    own=("lena_muon", "lena_muon_model"),
    pairs={"LENA + Muon": ("lena_muon", "lena_muon_model")},
)
