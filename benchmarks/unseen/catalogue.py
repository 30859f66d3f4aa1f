"""The tasks by name."""

import functools
from collections.abc import Callable

from benchmarks.unseen import found, later, latest, made, newest, rare
from benchmarks.unseen.task import Task

TASKS: dict[str, Callable[[], Task]] = {
    "deep_regression": made.deep_regression,
    "words": found.words,
    "autoencoder": found.autoencoder,
    "rare_heads": rare.rare_heads,
    "adapters": rare.adapters,
    "heavy_tails": made.heavy_tails,
    "convnet": found.convnet,
    "batch_norm": made.batch_norm,
    "residual_norm": made.residual_norm,
    "experts": rare.experts,
    "experts_apart": functools.partial(rare.experts, apart=True),
    "factorisation": rare.factorisation,
    "recurrent": made.recurrent,
    "modules": found.modules,
    "attention": later.attention,
    "residual_plain": later.residual_plain,
    "density": later.density,
    "badly_scaled": later.badly_scaled,
    "patches": latest.patches,
    "variational": latest.variational,
    "contrastive": latest.contrastive,
    "counts": newest.counts,
    "coordinates": newest.coordinates,
    "point_sets": newest.point_sets,
}
