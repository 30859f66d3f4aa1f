"""The block of the rows that few seeds cannot decide, judged again by others."""

from collections.abc import Sequence

from benchmarks.pages import layout
from benchmarks.pages.unseen_block import judged, name, of_tables, recorded_by
from benchmarks.unseen import bar
from benchmarks.unseen.__main__ import AGAIN_SEEDS, FAMILIES, SEEDS
from benchmarks.unseen.run import Score

MISSED, CLOSE = "missed", "holds by less than a standard error"


def block(recorded: Sequence[Score], recipe: str) -> str:
    """What the bar says by other seeds; empty until all of its rows have run.

    Args:
      recorded: runs of `python -m benchmarks.unseen`.
      recipe: a key of `FAMILIES`.
    """
    family, (first, again) = FAMILIES[recipe], _scores(recorded)
    verdicts = bar.verdicts(family, first)
    pairs = _pairs(verdicts, bar.verdicts(family, again))
    if not pairs:
        return ""
    columns = ["difference", "bar", "best of the others, six seeds", "difference"]
    rows = [["task", "S", *columns, "bar"]]
    for one, anew in pairs:
        before = judged(family, first, one)[1:]
        after = judged(family, again, anew)
        task = name(family, one.task)
        rows.append([task, str(one.batch_scale), *before, *after])
    said = []
    for kind, holds in ((MISSED, False), (CLOSE, True)):
        own = [anew.holds for one, anew in pairs if one.holds == holds]
        said.append(
            f"Of {len(own)} rows that the table has as *{kind}*, {sum(own)} hold the "
            "bar with six other seeds."
        )
    said.append(_counted(verdicts, pairs))
    ran = [one for one in recorded if one.seed in AGAIN_SEEDS]
    command = f"python -m benchmarks.unseen --recipe {recipe} --again"
    table, where = layout.markdown(rows, left=2), recorded_by(ran, command)
    return layout.block([table, " ".join(said), where])


def sentence(recorded: Sequence[Score], recipe: str = "sgd") -> str:
    """How many rows hold the bar, counting these verdicts; empty without them.

    Args:
      recorded: as the block takes it.
      recipe: likewise.
    """
    verdicts, later = (bar.verdicts(FAMILIES[recipe], s) for s in _scores(recorded))
    pairs = _pairs(verdicts, later)
    return _counted(verdicts, pairs) if pairs else ""


def _scores(recorded: Sequence[Score]) -> tuple[bar.Scores, bar.Scores]:
    """Those of the table's seeds, and those of the six others."""
    shown = of_tables(recorded)
    return bar.of_seeds(shown, SEEDS), bar.of_seeds(shown, AGAIN_SEEDS)


def _pairs(
    verdicts: Sequence[bar.Verdict], later: Sequence[bar.Verdict]
) -> list[tuple[bar.Verdict, bar.Verdict]]:
    """Both verdicts on every row that hangs; none until all of them have run."""
    anew = {one[:2]: one for one in later}
    hanging = [one for one in verdicts if one.hangs]
    if any(one[:2] not in anew for one in hanging):
        return []
    return [(one, anew[one[:2]]) for one in hanging]


def _counted(
    verdicts: Sequence[bar.Verdict], pairs: Sequence[tuple[bar.Verdict, bar.Verdict]]
) -> str:
    clear = sum(one.holds for one in verdicts if not one.hangs)
    held = clear + sum(anew.holds for _, anew in pairs)
    return (
        f"With six other seeds for the {len(pairs)} rows that three seeds cannot "
        f"decide, {held} of {len(verdicts)} hold."
    )
