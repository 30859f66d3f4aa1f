"""The bar: a row's recommended method beside the best of the others.

A row is a task at one S. It holds where no seed is lost and the mean is within a
standard error of the best, or within 1 % of the base run's score of it; differences are
paired by seeds. It hangs on its few seeds where it misses the bar, or holds it by less
than a standard error.
"""

import math
from collections.abc import Sequence
from statistics import mean, stdev
from typing import NamedTuple

from benchmarks.unseen.catalogue import TASKS
from benchmarks.unseen.family import Family
from benchmarks.unseen.run import Score

# Of the base run's score: as far behind the best as the recommended may be.
SHARE = 0.01

Scores = dict[tuple[str, str, int], list[float]]


class Verdict(NamedTuple):
    """What the bar says of one row.

    Attributes:
      task: a key of `TASKS`.
      batch_scale: S.
      rival: the best of the other methods that lose no seed; None if there is none.
      gained: the recommended method's scores less the rival's; empty without a rival.
      lost: how many seeds of the recommended method are lost.
      holds: whether the row holds the bar.
      hangs: whether more seeds might say otherwise.
    """

    task: str
    batch_scale: int
    rival: str | None
    gained: Sequence[float]
    lost: int
    holds: bool
    hangs: bool


def of_seeds(recorded: Sequence[Score], seeds: Sequence[int]) -> Scores:
    """Returns the scores by task, method and S, as far as all of the seeds have run."""
    scores: Scores = {}
    for one in recorded:
        if one.seed in seeds:
            key = one.task, one.method, one.batch_scale
            score = math.nan if one.score is None else one.score
            scores.setdefault(key, []).append(score)
    return {key: own for key, own in scores.items() if len(own) == len(seeds)}


def rows(family: Family, scores: Scores) -> list[tuple[str, int]]:
    """Returns the tasks and S at which the recommended method has run."""
    scales = sorted({scale for _, _, scale in scores})
    pairs = [(task, scale) for task in TASKS for scale in scales]
    return [(t, s) for t, s in pairs if (t, family.recommended, s) in scores]


def verdicts(family: Family, scores: Scores) -> list[Verdict]:
    """Returns what the bar says of every row."""
    return [_verdict(family, scores, *row) for row in rows(family, scores)]


def _verdict(family: Family, scores: Scores, task: str, scale: int) -> Verdict:
    base = middle(scores[task, "base", 1])
    own = scores[task, family.recommended, scale]
    whole = {
        method: found
        for method in family.rivals
        if (found := scores.get((task, method, scale))) and not lost(found, base)
    }
    rival = max(whole, key=lambda method: mean(whole[method]), default=None)
    if failed := lost(own, base):
        return Verdict(task, scale, rival, (), failed, holds=False, hangs=True)
    if rival is None:
        return Verdict(task, scale, None, (), 0, holds=True, hangs=False)
    gained = [a - b for a, b in zip(own, whole[rival], strict=True)]
    holds = is_level(gained, base)
    hangs = mean(gained) < error(gained) - _allowed(gained, base)
    return Verdict(task, scale, rival, gained, 0, holds, hangs)


def is_level(gained: Sequence[float], base: float) -> bool:
    """Whether differences are within the bar."""
    return mean(gained) >= -_allowed(gained, base)


def _allowed(gained: Sequence[float], base: float) -> float:
    return max(error(gained), SHARE * base)


def lost(values: Sequence[float], base: float) -> int:
    """Counts the scores that are not finite, or below half of the base run's."""
    return sum(not score > base / 2 for score in values)


def middle(values: Sequence[float]) -> float:
    """The median, where what is not finite is less than all else."""
    known = [x if math.isfinite(x) else -math.inf for x in values]
    return sorted(known)[len(values) // 2]


def error(values: Sequence[float]) -> float:
    """The standard error of the mean."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
