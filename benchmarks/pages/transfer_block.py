"""The block of a recipe of AdamW or Muon at another batch: what it keeps, and why.

Both measures are taken within the base run's examples: most of these runs end there.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.methods.adamw import ADAMW_ABLATIONS, ADAMW_METHODS
from benchmarks.methods.muon import MUON_METHODS
from benchmarks.methods.registry import METHODS
from benchmarks.pages import layout, validation_block
from benchmarks.pages.outcomes import Outcome, gap, gap_error, outcomes
from benchmarks.pages.result_block import (
    matrix,
    percent,
    scales_of,
    seeds,
    updates_text,
)
from benchmarks.pages.verdicts import Found, accuracy, speed
from benchmarks.records.record import Record, one_per_seed, target_accuracy
from benchmarks.tasks.recipe import TARGET_DROP


class Kind(NamedTuple):
    """Which methods are compared.

    Attributes:
      methods: in the order of the rows.
      loses: the method whose points against the base run are lost.
      wins: the one that wins a share of them back.
      ablations: methods that are compared on validation data.
    """

    methods: Sequence[str]
    loses: str
    wins: str
    ablations: Sequence[str]


ADAMW = Kind(
    (*ADAMW_METHODS, "lamb_tuned"),
    loses="adamw_square_root",
    wins="lena_adamw",
    ablations=tuple(ADAMW_ABLATIONS),
)
MUON = Kind(
    tuple(MUON_METHODS),
    loses="muon_square_root",
    wins="lena_muon",
    ablations=("muon_transferred_80", "muon_transferred", "muon_transferred_95"),
)
LEGEND = (
    "Bold: the best without re-tuning, and those level with it. Empty: not recorded. "
    "–: not within the base run's examples; (1/3): one of three seeds reaches the "
    "target, the others count with all updates."
)


def block(table: str, runs: Sequence[Record], kind: Kind) -> str:
    """The tables of both measures, what is won back, and what validation data said.

    Args:
      table: of `benchmarks.training.tables`.
      runs: of it, of both splits; those on validation data are an ablation's, or have
        tuned a rate.
      kind: which methods are compared.
    """
    tested = [_cut(one) for one in one_per_seed(r for r in runs if r.split == "test")]
    base = [one for one in tested if one.method == "base"]
    target = target_accuracy(base, TARGET_DROP)
    found = outcomes(tested, target)
    head = ["method", *(f"S = {scale}" for scale in scales_of(found))]
    table_of = functools.partial(matrix, found, head, methods=kind.methods)
    parts = [
        _caption(base[0], found["base", 1]),
        table_of(accuracy, lambda own: percent(own.accuracy)),
        f"Updates until {100 * target:.1f} %, half a point below the base run:",
        table_of(speed, functools.partial(updates_text, never="–")),
        LEGEND,
    ]
    if won_back := _won_back(found, kind):
        parts.append(layout.bullets(won_back))
    validated = [one for one in runs if one.split == "validation"]
    parts += validation_block.parts(validated, kind.ablations)
    commits = ", ".join(sorted({one.environment["commit"] for one in runs}))
    by = f"python -m benchmarks.train {table} METHOD S --seeds SEED --out FILE"
    parts.append(layout.recorded_on(base[0].environment, commits, by))
    return layout.block(parts)


def _cut(run: Record) -> Record:
    """The run until it has seen the base run's examples."""
    end = int(np.searchsorted(run.updates, run.base_updates)) + 1
    return dataclasses.replace(
        run,
        updates=run.updates[:end],
        train_loss=run.train_loss[:end],
        test_accuracy=run.test_accuracy[:end],
        layers={},
    )


def _caption(run: Record, base: Outcome) -> str:
    return (
        f"{run.workload}: test accuracy (%) after the base run's examples, mean ± "
        f"standard error. The base run, S = 1: {percent(base.accuracy)} "
        f"({seeds(base.seeds)}), rate {run.recipe['learning_rate']:g}."
    )


def _won_back(found: Found, kind: Kind) -> list[str]:
    """How far the recommended method is from the base run, at every S."""
    sentences, base = [], found["base", 1]
    for (method, scale), own in sorted(found.items(), key=lambda one: one[0][1]):
        if method != kind.wins:
            continue
        text = f"S = {scale}: {own.label} ends {_points(own, base)} the base run"
        if other := found.get((kind.loses, scale)):
            lost, left = (gap(x.accuracy, base.accuracy) for x in (other, own))
            text += f", {other.label} {_points(other, base)} it"
            if lost > left > 0:
                share = 100 * (1 - left / lost)
                text += f": {share:.0f} % of these points are won back"
        sentences.append(f"{text}.{_beside_the_best_tuned(found, own)}")
    return sentences


def _beside_the_best_tuned(found: Found, own: Outcome) -> str:
    """How far the best re-tuned method is from the recommended one, at its S."""
    scale = own.batch_scale
    tuned = [
        one
        for (method, at), one in found.items()
        if at == scale and METHODS[method].rates and one.seeds >= own.seeds
    ]
    if not tuned:
        return ""
    best = max(tuned, key=lambda one: one.accuracy.mean())
    error = 100 * gap_error(own.accuracy, best.accuracy)
    return (
        f" The best re-tuned method, {best.label}, ends {_points(best, own)} "
        f"{own.label}; the standard error of the difference is {error:.1f}."
    )


def _points(own: Outcome, base: Outcome) -> str:
    points = 100 * gap(own.accuracy, base.accuracy)
    return f"{abs(points):.1f} points {'below' if points >= 0 else 'above'}"
