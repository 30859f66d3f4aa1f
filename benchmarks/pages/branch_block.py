"""The block of docs/batch_size.md on the branch test, the advice's measured check."""

from collections.abc import Sequence

import numpy as np

import optax_lena
from benchmarks.branch import Branches
from benchmarks.pages import layout
from benchmarks.pages.outcomes import standard_error

AGREES = 2.0


def block(runs: Sequence[Branches]) -> str:
    """A table of losses by S, and whether both checks agree.

    Args:
      runs: of `python -m benchmarks.branch`, one per seed and workload.
    """
    parts: list[str] = []
    for workload in dict.fromkeys(run.workload for run in runs):
        own = [run for run in runs if run.workload == workload]
        parts += [_caption(own), _table(own), _verdict(own)]
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
    middle = int(np.argsort([run.critical_scale for run in runs])[len(runs) // 2])
    low, high = runs[middle].interval
    ratio = test.scale / predicted
    agree = 1 / AGREES <= ratio <= AGREES
    more = " or more" if test.is_bound else ""
    verdict = "agree" if agree else "do not agree"
    return (
        f"S = 1 loses {test.tolerance:.4f} in the last sixth of the window, which is "
        f"what 20 % more examples are worth. The largest S within that is "
        f"{test.scale:g}{more}; `advise` says {predicted:.3g} ({low:.3g} to "
        f"{high:.3g}) from the log up to the checkpoint. The two {verdict} within a "
        f"factor of {AGREES:g} ({max(ratio, 1 / ratio):.1f})."
    )
