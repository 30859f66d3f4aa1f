"""The block of other recipes: how many of their rows hold the bar."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean

from benchmarks.pages import layout
from benchmarks.pages.unseen_block import of_tables
from benchmarks.unseen import bar
from benchmarks.unseen.__main__ import FAMILIES, SCALES, SEEDS
from benchmarks.unseen.run import Score


def block(recorded: Mapping[str, Sequence[Score]]) -> str:
    """A row for every recipe: rows that hold, and differences to the best other method.

    Args:
      recorded: runs of `python -m benchmarks.unseen`, by recipe of one optimizer.
    """
    found = verdicts(recorded)
    head = [f"S = {scale}" for scale in SCALES]
    rows = [["recipe", "rows that hold", "rows with lost runs", *head]]
    for recipe, own in found.items():
        held, lost = _counts(own)
        row = [f"{held} of {len(own)}", str(lost), *_differences(own)]
        rows.append([FAMILIES[recipe].label, *row])
    every = [one for own in found.values() for one in own]
    held, _ = _counts(every)
    recommended = _recommended(recorded)
    caption = (
        f"Differences are the mean over tasks of the scores of `{recommended}` less "
        "those of the best other method, in points, where both lose no run. "
        f"In all {held} rows of {len(every)} hold the bar."
    )
    return layout.block([layout.markdown(rows), caption])


def sentence(recorded: Mapping[str, Sequence[Score]], link: str) -> str:
    """What the block says, in short; empty without records.

    Args:
      recorded: as the block takes it.
      link: the page of the block.
    """
    found = verdicts(recorded)
    if not found:
        return ""
    rows = [one for own in found.values() for one in own]
    tasks = len({one.task for one in rows})
    held, lost = _counts(rows)
    return (
        f"With [{len(found)} other recipes]({link}) on {tasks} of the small tasks "
        f"`{_recommended(found)}` holds in {held} of {len(rows)} rows, and loses runs "
        f"in {lost or 'none'}."
    )


def verdicts(
    recorded: Mapping[str, Sequence[Score]],
) -> dict[str, list[bar.Verdict]]:
    """What the bar says of every row, by recipe."""
    return {
        recipe: bar.verdicts(FAMILIES[recipe], bar.of_seeds(of_tables(runs), SEEDS))
        for recipe, runs in recorded.items()
        if runs
    }


def _recommended(recipes: Iterable[str]) -> str:
    """The method that is held against all others; one for all recipes."""
    (name,) = {FAMILIES[recipe].recommended for recipe in recipes}
    return name


def _counts(rows: Sequence[bar.Verdict]) -> tuple[int, int]:
    """How many hold the bar, and in how many runs are lost."""
    return sum(one.holds for one in rows), sum(one.lost > 0 for one in rows)


def _differences(own: Sequence[bar.Verdict]) -> list[str]:
    cells = []
    for scale in SCALES:
        gained = [mean(v.gained) for v in own if v.batch_scale == scale and v.gained]
        cells.append(f"{mean(gained):+.1f}" if gained else "")
    return cells
