"""The block of docs/batch_size.md on the branch test, the advice's measured check."""

from collections.abc import Iterator, Sequence

import numpy as np

import optax_lena
from benchmarks.branch import Branches
from benchmarks.pages import layout
from benchmarks.pages.outcomes import standard_error
from benchmarks.ramp.run import Run

AGREES = 2.0
PARENT = "constant_8"


def block(runs: Sequence[Branches], grown: Sequence[Run]) -> str:
    """A table of losses by S, whether both checks agree, and why not.

    Args:
      runs: of `python -m benchmarks.branch`, one per seed and workload.
      grown: of `python -m benchmarks.ramp`: the constant S = 8 is the run that the
        branches left.
    """
    parts: list[str] = []
    for workload in dict.fromkeys(run.workload for run in runs):
        own = [run for run in runs if run.workload == workload]
        parts += [_caption(own), _table(own), _verdict(own), *_reason(own, grown)]
    commits = ", ".join(sorted({run.environment["commit"] for run in runs}))
    by = "python -m benchmarks.branch TABLE"
    return layout.block([*parts, layout.recorded_on(runs[0].environment, commits, by)])


def _caption(runs: Sequence[Branches]) -> str:
    first = runs[0]
    return (
        f"{first.workload}: from a checkpoint after {first.checkpoint:,} base batches "
        f"at S = 8, {first.window:,} more at each S. Held-out loss at the end, and by "
        f"how much it is above that of S = {first.scales[0]}; mean ± standard error of "
        f"{len(runs)} seeds."
    )


def _losses(runs: Sequence[Branches]) -> np.ndarray:
    return np.array([run.losses for run in runs])


def _table(runs: Sequence[Branches]) -> str:
    losses = _losses(runs)
    above = losses - losses[:, :1]
    rows = [
        [
            f"{scale}",
            f"{losses[:, place].mean():.4f}",
            f"{above[:, place].mean():+.4f} ± {standard_error(above[:, place]):.4f}",
        ]
        for place, scale in enumerate(runs[0].scales)
    ]
    return layout.markdown([["S", "loss", "above S = 1"], *rows])


def found(runs: Sequence[Branches]) -> optax_lena.BranchTest:
    """The test over the mean of the seeds, with the tolerance fixed beforehand."""
    first, losses = runs[0], _losses(runs).mean(0).tolist()
    earlier = float(np.mean([run.earlier_loss for run in runs]))
    return optax_lena.BranchTest(
        dict(zip(first.scales, losses, strict=True)),
        {scale: first.window // scale for scale in first.scales},
        first.window,
        max(earlier - losses[0], 0.0),
    )


def _verdict(runs: Sequence[Branches]) -> str:
    test = found(runs)
    predicted = float(np.median([run.critical_scale for run in runs]))
    ratio = test.scale / predicted
    agree = 1 / AGREES <= ratio <= AGREES
    more = " or more" if test.is_bound else ""
    verdict = "agree" if agree else "do not agree"
    return (
        f"At S = 1 the loss falls by {test.tolerance:.4f} in the last sixth of the "
        f"window, which is what 20 % more examples are worth. The largest S that ends "
        f"within that of S = 1 is {test.scale:g}{more}; `advise` predicts "
        f"{predicted:.3g} from the log up to the checkpoint. The two {verdict} within "
        f"a factor of {AGREES:g} ({max(ratio, 1 / ratio):.1f})."
    )


def _reason(runs: Sequence[Branches], grown: Sequence[Run]) -> Iterator[str]:
    """The noise scale when each of the two looked."""
    test, first = found(runs), runs[0]
    own = [run for run in grown if (run.workload, run.way) == (first.workload, PARENT)]
    logs = [
        dict(zip(run.evaluated_at, run.noise_scale, strict=True))
        for run in own
        if run.split == first.split
    ]
    now, then = first.checkpoint, first.checkpoint + first.window
    if not logs or not {now, then} <= set(logs[0]):
        return
    per_scale = 1 / optax_lena.advise({"model/noise_scale": 1.0}).efficiency - 1
    so_far = float(np.median([run.critical_scale for run in runs])) / per_scale
    at_checkpoint, at_end = (np.mean([log[k] for log in logs]) for k in (now, then))
    yield (
        f"What each measures: the advice is the median over the log so far, b = "
        f"{so_far:.3g}. The noise scale was {at_checkpoint:.3g} at the checkpoint, and "
        f"{at_end:.3g} at the end of the window that the branches trained. Their "
        f"largest S, {test.scale:g}, is that of b = {test.scale / per_scale:.3g}."
    )
