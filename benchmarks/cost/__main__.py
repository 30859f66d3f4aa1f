"""The cost of LENA: bytes, memory, compile time and time, against other optimizers.

`python -m benchmarks.cost`, or one `--part` (update, step, gather, growth, monitor or
peer, told in `parts.py`). It writes `records.jsonl`, prints one table per part, made
from the records, and says which bars are met. Bytes, memory and all-reduces are XLA's
account of the compiled program: the same for every run with the same versions. Times
are not.
"""

from argparse import SUPPRESS
from collections.abc import Sequence

from rich.console import Console

from benchmarks import command
from benchmarks.cost import peer
from benchmarks.cost.measure import Measurement
from benchmarks.cost.parts import PARTS, WORKERS
from benchmarks.pages import bars, cost_table
from benchmarks.records import files
from benchmarks.records.home import RUN_FILE, latest


@command.program
def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, writes the records, and prints the tables and the bars."""
    options = _parser().parse_args(arguments)
    path = options.out / RUN_FILE
    if options.worker:
        files.rewrite(WORKERS[options.worker](options.quick), path)
        return
    console = Console()
    measured: list[Measurement] = []
    for part in [options.part] if options.part else PARTS:
        if part == "peer" and not peer.is_installed():
            console.print(peer.HOW_TO_INSTALL, highlight=False, markup=False)
            continue
        own = _measure(console, part, options.quick)
        measured += own
        # After every part, so that a part that fails does not take the others along.
        files.rewrite(measured, path)
        console.print(cost_table.printed(own))
        console.print()
    if measured:
        for sentence in bars.sentences(files.read(path, Measurement)):
            console.print(f"• {sentence}", highlight=False, markup=False)
        console.print(f"In {options.out}: {RUN_FILE}", highlight=False, markup=False)


def _measure(console: Console, part: str, quick: bool) -> list[Measurement]:
    """One part, each measurement told as it is made."""
    own = []
    for measurement in PARTS[part](quick):
        line = f"{part}: {measurement.setting}, {measurement.method}"
        console.print(line, style="dim", highlight=False, markup=False)
        own.append(measurement)
    return own


def _parser() -> command.Parser:
    parser = command.Parser(__doc__)
    parser.add_argument(
        "--part", type=command.one_of(PARTS), metavar="PART", help="one part only"
    )
    parser.add_argument("--out", type=command.new_folder, default=latest("cost"))
    parser.add_argument("--quick", action="store_true", help="for tests: tiny settings")
    parser.add_argument(
        "--worker", type=command.one_of(WORKERS), metavar="PART", help=SUPPRESS
    )
    return parser


if __name__ == "__main__":
    main()
