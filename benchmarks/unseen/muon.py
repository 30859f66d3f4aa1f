"""Recipes of Muon for matrices and AdamW for all else, at one rate."""

import functools

import optax_lena
from benchmarks.methods.base import MUON_OPTIONS, muon
from benchmarks.methods.muon import memories
from benchmarks.unseen.adamw import GRID, WEIGHT_DECAY, scalings
from benchmarks.unseen.family import Family, Method, without_loss

_muon = functools.partial(muon, weight_decay=WEIGHT_DECAY, momentum=0.95)
_lena_muon = functools.partial(
    optax_lena.lena_muon,
    weight_decay=WEIGHT_DECAY,
    adam_weight_decay=WEIGHT_DECAY,
    options=MUON_OPTIONS,
)
_recommended = Method("LENA + Muon", _lena_muon)
_whole_model = Method(
    "LENA + Muon, one layer: the model",
    functools.partial(_lena_muon, layers=optax_lena.whole_model),
)

MUON = Family(
    label="Muon (decay 0.01)",
    records="unseen_muon",
    rate=lambda task: task.muon_rate,
    grid=lambda task: GRID,
    base=_muon,
    methods={
        **scalings(_muon, functools.partial(memories, 0.95)),
        "lena_muon_model": _whole_model,
        "lena_muon": _recommended,
        "lena_muon_without_loss": without_loss(_recommended),
    },
    recommended="lena_muon",
    own=(
        "lena_muon",
        "lena_muon_model",
        "lena_muon_without_loss",
    ),
    developed=(
        "deep_regression",
        "autoencoder",
        "rare_heads",
        "adapters",
        "heavy_tails",
        "linear_recurrence",
        "kelvin",
        "hashing",
        "survival",
        "two_players",
        "codebook",
    ),
    pairs={"LENA + Muon": ("lena_muon", "lena_muon_model")},
)
