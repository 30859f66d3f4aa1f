"""Writes the pages: every block of README and docs, and every figure, from `results/`.

`python -m benchmarks.pages`. With `--keep demo` or `--keep cost` it first makes the
latest run in `results/demo/` or `results/cost/` the kept one, `results/demo.jsonl` or
`results/cost.jsonl`.
"""

import shutil
from collections.abc import Sequence
from typing import Any

from benchmarks import command
from benchmarks.cost.measure import Measurement
from benchmarks.pages import demo_block, site
from benchmarks.records import files, home
from benchmarks.records.record import Record

KINDS = {"demo": Record, "cost": Measurement}


@command.program
def main(arguments: Sequence[str] | None = None) -> None:
    """Keeps what is asked for, and writes the pages."""
    options = _parser().parse_args(arguments)
    command.all_different("--keep", options.keep)
    with command.checking("argument --keep"):
        latest = {name: _latest(name) for name in options.keep}
    for name, records in latest.items():
        files.rewrite(records, home.kept(name))
    if "demo" in latest:
        picture = home.latest("demo") / "accuracy.png"
        shutil.copy(picture, site.RESULT_PAGE.parent / demo_block.FIGURE)
    for page, text in site.filled().items():
        files.replace(text, page)
    site.draw()


def _latest(name: str) -> list[Any]:
    """The latest run, if it is one that may take the place of the kept one."""
    path = home.latest(name) / home.RUN_FILE
    if not path.exists():
        raise ValueError(f"{path} must exist, got no file: run `benchmarks.{name}`.")
    found = files.read(path, KINDS[name])
    kept = files.read_if_there(home.kept(name), KINDS[name])
    if kept and _subject(found) != _subject(kept):
        raise ValueError(
            f"{path} must be of {_subject(kept)}, as {home.kept(name)} is, got "
            f"{_subject(found)}: run `benchmarks.{name}` again without options."
        )
    return found


def _subject(records: Sequence[Any]) -> str:
    """What was trained and how long, or which parts were measured."""
    runs = [one for one in records if isinstance(one, Record)]
    if runs:
        return f"{runs[0].workload}, {runs[0].recipe['epochs']} epochs"
    parts = dict.fromkeys(one.part for one in records if one.part != "peer")
    return ", ".join(parts) or "nothing"


def _parser() -> command.Parser:
    parser = command.Parser(__doc__)
    parser.add_argument(
        "--keep",
        nargs="+",
        default=[],
        type=command.one_of(KINDS),
        metavar="NAME",
        help="demo, cost: make the latest run the kept one",
    )
    return parser


if __name__ == "__main__":
    main()
