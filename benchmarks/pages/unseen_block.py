"""The block of the small tasks."""

import math
from collections.abc import Sequence
from statistics import mean

from benchmarks.pages import layout
from benchmarks.unseen import bar
from benchmarks.unseen.__main__ import AGAIN_SEEDS, FAMILIES, SCALES, SEEDS
from benchmarks.unseen.bar import Scores
from benchmarks.unseen.catalogue import TASKS
from benchmarks.unseen.family import Family
from benchmarks.unseen.run import Score


def block(recorded: Sequence[Score], recipe: str = "sgd") -> str:
    """Scores of every method, the recommended one beside the best, and layers.

    Args:
      recorded: runs of `python -m benchmarks.unseen`, of which those that tuned the
        base rates are left out.
      recipe: a key of `FAMILIES`.
    """
    recorded = of_tables(recorded)
    family, scores = FAMILIES[recipe], bar.of_seeds(recorded, SEEDS)
    of_table = [one for one in recorded if one.seed not in AGAIN_SEEDS]
    where = recorded_by(of_table, f"python -m benchmarks.unseen --recipe {recipe}")
    verdicts = bar.verdicts(family, scores)
    parts = [
        layout.markdown(_table(family, scores), left=2),
        LEGEND,
        f"**{family.methods[family.recommended].label} against the best other method**",
        layout.markdown(_beside_the_best(family, scores, verdicts), left=3),
        f"{BAR} {_held(verdicts)}",
    ]
    if len(tried := _tried(family, scores)) > 1:
        title = f"**Variants of {family.methods[family.recommended].label}**"
        parts += [title, layout.markdown(tried, left=2), PAIRED]
    if two := _two_microbatches(family, scores):
        parts.append(two)
    if len(layers := _layers(family, scores)) > 1:
        title = "**One gain for each layer minus one for the whole model**"
        parts += [title, layout.markdown(layers), "Paired by seeds."]
    return layout.block([*parts, where])


def sentence(
    recorded: Sequence[Score], recipe: str = "sgd", tasks: str = "small tasks"
) -> str:
    """What the block says of the recommended optimizer, in short.

    Args:
      recorded: as the block takes it.
      recipe: likewise.
      tasks: what they are called, or a link with that name.
    """
    family, scores = FAMILIES[recipe], bar.of_seeds(of_tables(recorded), SEEDS)
    rows = bar.verdicts(family, scores)
    unseen = [one for one in rows if one.task not in family.developed]
    every, new = (len({one.task for one in some}) for some in (rows, unseen))
    held = [sum(one.holds for one in some) for some in (rows, unseen)]
    lost = sum(one.lost > 0 for one in rows)
    share = f"{100 * bar.SHARE:g} %"
    return (
        f"On {every} {tasks}, at three S each, `{family.recommended}` loses runs in "
        f"{lost or 'none'} of {len(rows)} rows. {held[0]} rows *hold*: no run is lost, "
        "and the mean is within a standard error of the best without re-tuning, or "
        f"within {share} of the base run's score. On the {new} tasks on which no rule "
        f"was chosen, {held[1]} of {len(unseen)} hold."
    )


def at_other_scales(recorded: Sequence[Score], recipe: str = "sgd") -> str:
    """Scores at S that the block does not show; nothing where there are none.

    Args:
      recorded: as the block takes it.
      recipe: likewise.
    """
    large = [one for one in recorded if one.batch_scale not in (1, *SCALES)]
    if not large:
        return ""
    ran = {one.task for one in large}
    base = [one for one in recorded if one.batch_scale == 1 and one.task in ran]
    family, scores = FAMILIES[recipe], bar.of_seeds([*base, *large], SEEDS)
    verdicts = bar.verdicts(family, scores)
    command = f"python -m benchmarks.unseen --recipe {recipe} --scales S"
    parts = [
        layout.markdown(_table(family, scores), left=2),
        layout.markdown(_beside_the_best(family, scores, verdicts), left=3),
        _held(verdicts),
        recorded_by(large, command),
    ]
    return layout.block(parts)


def at_other_rates(
    recorded: Sequence[Score], at_their_own: Sequence[Score], recipe: str = "sgd"
) -> str:
    """Scores where the base rate is not the task's.

    Args:
      recorded: runs of `python -m benchmarks.unseen --rate RATE`.
      at_their_own: as the block takes it; its base runs say what is lost.
      recipe: a key of `FAMILIES`.
    """
    family = FAMILIES[recipe]
    ran = {one.method for one in recorded}
    methods = [method for method in family.methods if method in ran]
    labels = (family.methods[method].label for method in methods)
    rows = [["task", "base rate", "S", "base run", *labels]]
    usual = bar.of_seeds(at_their_own, SEEDS)
    for task, rate in sorted({(one.task, one.rate) for one in recorded}):
        own = [one for one in recorded if (one.task, one.rate) == (task, rate)]
        scores = bar.of_seeds(own, SEEDS)
        base, good = scores[task, "base", 1], bar.middle(usual[task, "base", 1])
        of_base = _scored(base, good)
        for scale in SCALES:
            found = [scores.get((task, method, scale)) for method in methods]
            cells = [_cell(one, found, good) for one in found]
            row = [name(family, task), f"{rate:g}", str(scale), of_base]
            rows.append([*row, *cells])
    command = f"python -m benchmarks.unseen --recipe {recipe} --rate RATE"
    where = recorded_by(recorded, command)
    return layout.block([layout.markdown(rows, left=1), where])


def recorded_by(recorded: Sequence[Score], command: str) -> str:
    """Where runs were recorded, and by which command."""
    commits = ", ".join(sorted({one.environment["commit"] for one in recorded}))
    return layout.recorded_on(recorded[0].environment, commits, command)


def of_tables(recorded: Sequence[Score]) -> list[Score]:
    """The runs at the S of the tables."""
    return [one for one in recorded if one.batch_scale in (1, *SCALES)]


LEGEND = (
    "Score in percent (accuracy, or explained variance) when a run has seen the base "
    "run's examples: mean ± standard error of three seeds. Bold: the best without "
    "re-tuning, and those within a standard error of the difference. Lost: the number "
    "of seeds that are not finite or score below half of the base run's median seed. "
    "Empty: not recorded. Star: rules may be chosen on this task, with other seeds."
)
BAR = (
    "Differences are paired by seeds. The bar: no seed is lost, and the mean is within "
    f"a standard error of the best, or within {100 * bar.SHARE:g} % of the base run's "
    "score of it."
)
NONE = "none trains all seeds"
PAIRED = "Scores minus those of the recommended method, paired by seeds."


def name(family: Family, task: str) -> str:
    """A task for people, with its star."""
    return task.replace("_", " ") + (" *" if task in family.developed else "")


def _run(family: Family, scores: Scores, *, tried: bool) -> list[str]:
    """The methods that have run on some task.

    Args:
      family: of the methods.
      scores: of the runs.
      tried: those that the recommended one was or could be, or all others and itself.
    """
    others = set(family.own) - {family.recommended}
    ran = {method for _, method, _ in scores}
    return [m for m in family.methods if m in ran and (m in others) == tried]


def _tried(family: Family, scores: Scores) -> list[list[str]]:
    """What the recommended optimizer was or could be, less what it is."""
    methods = _run(family, scores, tried=True)
    rows = [["task", "S", *(family.methods[m].label for m in methods)]]
    for task, scale in bar.rows(family, scores):
        present = scores[task, family.recommended, scale]
        base = bar.middle(scores[task, "base", 1])
        cells = [
            _gained(scores.get((task, method, scale)), present, base)
            for method in methods
        ]
        if any(cells):
            rows.append([name(family, task), str(scale), *cells])
    return rows


def _two_microbatches(family: Family, scores: Scores) -> str:
    """What it costs to measure on two microbatches, and not on S."""
    gained, behind, rows = [], [], 0
    for task, scale in bar.rows(family, scores):
        if (few := scores.get((task, family.of_two, scale))) is None:
            continue
        many, base = scores[task, family.recommended, scale], scores[task, "base", 1]
        rows, least = rows + 1, bar.middle(base)
        if more := bar.lost(few, least) - bar.lost(many, least):
            behind.append((task, scale, f"{more:+d} lost"))
        elif not bar.lost(few, least):
            own = [a - b for a, b in zip(few, many, strict=True)]
            gained.append(mean(own))
            if not bar.is_level(own, least):
                behind.append((task, scale, _signed(own)))
    if not rows:
        return ""
    named = [f"{name(family, task)}, S = {s} ({what})" for task, s, what in behind]
    return (
        "Two microbatches instead of S, where the loss does not mix examples: "
        f"{_signed(gained) if gained else 'no'} points over {len(gained)} of {rows} "
        "rows, in which no run is lost. Where more or fewer are lost, or the "
        f"score is lower than the bar allows: {'; '.join(named) or 'nowhere'}."
    )


def _gained(one: list[float] | None, present: list[float], base: float) -> str:
    if one is None:
        return ""
    if lost := bar.lost(one, base):
        return f"{lost} of {len(one)} lost"
    gained = [a - b for a, b in zip(one, present, strict=True)]
    return _signed(gained) if all(map(math.isfinite, gained)) else ""


def _table(family: Family, scores: Scores) -> list[list[str]]:
    methods = _run(family, scores, tried=False)
    rows = [["task", "S", "base run", *(family.methods[m].label for m in methods)]]
    for task, scale in bar.rows(family, scores):
        base = scores[task, "base", 1]
        own = [scores.get((task, method, scale)) for method in methods]
        cells = [_cell(one, own, bar.middle(base)) for one in own]
        row = [name(family, task), str(scale), _scored(base, bar.middle(base))]
        rows.append([*row, *cells])
    return rows


def _cell(
    one: list[float] | None, others: Sequence[list[float] | None], base: float
) -> str:
    if one is None:
        return ""
    if lost := bar.lost(one, base):
        return f"{lost} of {len(one)} lost"
    best = max((own for own in others if own and not bar.lost(own, base)), key=mean)
    is_level = mean(best) - mean(one) <= math.hypot(bar.error(best), bar.error(one))
    return f"**{_text(one)}**" if is_level else _text(one)


def _beside_the_best(
    family: Family, scores: Scores, verdicts: Sequence[bar.Verdict]
) -> list[list[str]]:
    rows = [["task", "S", "best of the others", "difference", "bar"]]
    for one in verdicts:
        rows.append([name(family, one.task), str(one.batch_scale)])
        rows[-1] += judged(family, scores, one)
    return rows


def judged(family: Family, scores: Scores, one: bar.Verdict) -> list[str]:
    """The best of the others, the difference, and what the bar says of it."""
    rival = NONE
    if one.rival is not None:
        found = scores[one.task, one.rival, one.batch_scale]
        rival = f"{family.methods[one.rival].label}, {_text(found)}"
    gained = _signed(one.gained) if one.gained else ""
    if one.lost:
        count = len(scores[one.task, family.recommended, one.batch_scale])
        gained = f"{one.lost} of {count} lost"
    return [rival, gained, "holds" if one.holds else "missed"]


def _held(verdicts: Sequence[bar.Verdict]) -> str:
    held = sum(one.holds for one in verdicts)
    return f"It holds in {held} rows of {len(verdicts)}."


def _layers(family: Family, scores: Scores) -> list[list[str]]:
    rows = [["task", *(f"{label}, S = {s}" for label in family.pairs for s in SCALES)]]
    for task in TASKS:
        cells = []
        for layers, model in family.pairs.values():
            for scale in SCALES:
                pair = [scores.get((task, m, scale), []) for m in (layers, model)]
                gained = [a - b for a, b in zip(*pair, strict=False)]
                is_whole = gained and all(map(math.isfinite, gained))
                cells.append(_signed(gained) if is_whole else "")
        if any(cells):
            rows.append([name(family, task), *cells])
    kept = [i for i in range(len(rows[0])) if any(row[i] for row in rows[1:])]
    return [[row[i] for i in kept] for row in rows]


def _scored(values: Sequence[float], base: float) -> str:
    lost = bar.lost(values, base)
    return f"{lost} of {len(values)} lost" if lost else _text(values)


def _text(values: Sequence[float]) -> str:
    return f"{mean(values):.1f} ± {bar.error(values):.1f}"


def _signed(values: Sequence[float]) -> str:
    return f"{mean(values):+.1f} ± {bar.error(values):.1f}"
