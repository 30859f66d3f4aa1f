"""Checks files of runs, such as `results/text.jsonl`: each line must be a whole record.

`--drop-broken` rewrites a file without the lines that are no records.
"""

from collections.abc import Sequence
from pathlib import Path

from benchmarks import command
from benchmarks.cost.measure import Measurement
from benchmarks.records import files
from benchmarks.records.record import Record


@command.program
def main(arguments: Sequence[str] | None = None) -> None:
    """Reads every file, and says how many records it holds."""
    options = _parser().parse_args(arguments)
    for path in options.files:
        kind = Measurement if options.cost else Record
        dropped = files.drop_broken(path, kind) if options.drop_broken else 0
        number = len(files.read(path, kind))
        print(
            f"{path}: {number} records" + f", {dropped} lines dropped" * bool(dropped)
        )


def _file(text: str) -> Path:
    path = command.new_file(text)
    if not path.exists():
        raise command.refused("must be a file that exists", text)
    return path


def _parser() -> command.Parser:
    parser = command.Parser(__doc__)
    parser.add_argument("files", nargs="+", type=_file, metavar="FILE")
    parser.add_argument("--cost", action="store_true", help="of measurements, not runs")
    parser.add_argument("--drop-broken", action="store_true")
    return parser


if __name__ == "__main__":
    main()
