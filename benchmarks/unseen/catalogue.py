"""The tasks by name."""

import functools
from collections.abc import Callable

from benchmarks.unseen import (
    classes,
    combined,
    dynamics,
    found,
    generative,
    rare,
    regression,
    sequences,
    unlabelled,
)
from benchmarks.unseen.task import Task

TASKS: dict[str, Callable[[], Task]] = {
    "deep_regression": regression.deep_regression,
    "words": found.words,
    "autoencoder": found.autoencoder,
    "rare_heads": rare.rare_heads,
    "adapters": rare.adapters,
    "heavy_tails": regression.heavy_tails,
    "convnet": found.convnet,
    "batch_norm": classes.batch_norm,
    "residual_norm": classes.residual_norm,
    "experts": rare.experts,
    "experts_apart": functools.partial(rare.experts, apart=True),
    "factorisation": rare.factorisation,
    "recurrent": sequences.recurrent,
    "modules": found.modules,
    "attention": sequences.attention,
    "residual_plain": classes.residual_plain,
    "density": unlabelled.density,
    "badly_scaled": regression.badly_scaled,
    "patches": found.patches,
    "variational": found.variational,
    "contrastive": unlabelled.contrastive,
    "counts": regression.counts,
    "coordinates": regression.coordinates,
    "point_sets": classes.point_sets,
    "quantiles": regression.quantiles,
    "rollouts": dynamics.rollouts,
    "graphs": classes.graphs,
    "bandit": unlabelled.bandit,
    "denoising": generative.denoising,
    "values": unlabelled.values,
    "poisson_equation": combined.poisson_equation,
    "imbalanced": combined.imbalanced,
    "flow": generative.flow,
    "linear_recurrence": dynamics.linear_recurrence,
    "parity": classes.parity,
    "two_losses": combined.two_losses,
    "sensing": regression.sensing,
    "recall": sequences.recall,
    "reinforce": unlabelled.reinforce,
    "kelvin": dynamics.kelvin,
    "mixture": generative.mixture,
    "hashing": unlabelled.hashing,
    "survival": combined.survival,
    "alignment": sequences.alignment,
    "spikes": sequences.spikes,
    "steady_state": regression.steady_state,
    "adaptation": regression.adaptation,
    "two_players": generative.two_players,
}
# The tasks of three independent testers are the last ones.
_NAMES = tuple(TASKS)
OF_TESTERS = _NAMES[_NAMES.index("denoising") :]
