"""Home: where records are. Kept ones are files of `results/`, which git keeps too."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
# The file in the folder that a run of the demo or of the cost writes to.
RUN_FILE = "records.jsonl"


def kept(name: str) -> Path:
    """The kept records of a table, of `demo` or of `cost`."""
    return RESULTS / f"{name}.jsonl"


def latest(name: str) -> Path:
    """The folder of the latest run of `demo` or `cost`, from where it is started."""
    return Path("results") / name
