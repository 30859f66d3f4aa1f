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
from benchmarks.pages import demo, site
from benchmarks.records import files
from benchmarks.records.run import Record

# By name: the kind of its records, and where they are kept.
KEPT = {"demo": (Record, site.DEMO), "cost": (Measurement, site.COST)}


@command.program
def main(arguments: Sequence[str] | None = None) -> None:
    """Keeps what is asked for, and writes the pages."""
    options = _parser().parse_args(arguments)
    command.all_different("--keep", options.keep)
    with command.checking("argument --keep"):
        latest = {name: _latest(name) for name in options.keep}
    for name, records in latest.items():
        files.rewrite(records, KEPT[name][1])
    if "demo" in latest:
        picture = site.RESULTS / "demo" / "accuracy.png"
        shutil.copy(picture, site.ROOT / demo.FIGURE)
    for page, text in site.filled().items():
        page.write_text(text)
    site.draw()


def _latest(name: str) -> list[Any]:
    path = site.RESULTS / name / "records.jsonl"
    if not path.exists():
        raise ValueError(f"{path} must exist, got no file: run `benchmarks.{name}`.")
    return files.read(path, KEPT[name][0])


def _parser() -> command.Parser:
    parser = command.Parser(__doc__)
    parser.add_argument(
        "--keep",
        nargs="+",
        default=[],
        type=command.one_of(KEPT),
        metavar="NAME",
        help="demo, cost: make the latest run the kept one",
    )
    return parser


if __name__ == "__main__":
    main()
