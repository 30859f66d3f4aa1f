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
    family, recorded = FAMILIES[recipe], of_tables(recorded)
    first, again = (bar.of_seeds(recorded, seeds) for seeds in (SEEDS, AGAIN_SEEDS))
    hanging = [one for one in bar.verdicts(family, first) if one.hangs]
    later = {one[:2]: one for one in bar.verdicts(family, again)}
    if not hanging or any(one[:2] not in later for one in hanging):
        return ""
    columns = ["difference", "bar", "best of the others, six seeds", "difference"]
    rows = [["task", "S", *columns, "bar"]]
    held: dict[str, list[bool]] = {MISSED: [], CLOSE: []}
    for one in hanging:
        anew = later[one[:2]]
        before = judged(family, first, one)[1:]
        after = judged(family, again, anew)
        task = name(family, one.task)
        rows.append([task, str(one.batch_scale), *before, *after])
        held[CLOSE if one.holds else MISSED].append(anew.holds)
    said = (
        f"Of {len(own)} rows that the table has as *{kind}*, {sum(own)} hold the bar "
        "with six other seeds."
        for kind, own in held.items()
    )
    ran = [one for one in recorded if one.seed in AGAIN_SEEDS]
    command = f"python -m benchmarks.unseen --recipe {recipe} --again"
    table = layout.markdown(rows, left=2)
    return layout.block([table, " ".join(said), recorded_by(ran, command)])
