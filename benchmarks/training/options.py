"""Options that the programs for a row and for a table share."""

from benchmarks import command
from benchmarks.methods.registry import METHODS
from benchmarks.training.tables import TABLES

MAX_SCALE = 1_000_000
MAX_SEED = 2**31 - 1

scale = command.whole(1, MAX_SCALE)
seed = command.whole(0, MAX_SEED)
method = command.one_of(METHODS)


def add_table(parser: command.Parser) -> None:
    """Which table, and its data."""
    table = command.one_of(TABLES)
    parser.add_argument("table", type=table, metavar="TABLE", help=", ".join(TABLES))
    parser.add_argument("--data", type=command.folder, help="of IDX or CIFAR files")
