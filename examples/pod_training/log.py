"""Numbers for people and programs: metrics.jsonl, and TensorBoard.

metrics.jsonl holds nothing that another run of the same job would not write: no times.
A resumed run first drops the rows behind its checkpoint, so the file of a run that was
killed is, byte for byte, that of one that was not.

TensorBoard's files are written by tensorboardX: `clu.metric_writers`, which Google's
own examples use, needs the whole of TensorFlow to do the same.
"""

import json
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter


class Log:
    """The two writers; on processes other than the first, none."""

    def __init__(self, folder: Path, updates: int, is_first: bool):
        """Opens both, and drops what lies behind `updates`."""
        self.file = self.board = None
        if is_first:
            path = folder / "metrics.jsonl"
            kept = [row for row in read(path) if row["updates"] <= updates]
            if path.exists() or not path.is_symlink():
                _rewrite(path, kept)
            self.file = path.open("a")
            self.board = SummaryWriter(
                str(folder / "tensorboard"), purge_step=updates + 1
            )

    def write(self, row: dict[str, Any], speed: dict[str, float] | None = None) -> None:
        """Adds a row, in one go, and its numbers with the speed for TensorBoard."""
        if self.file is not None and self.board is not None:
            self.file.write(json.dumps(row) + "\n")
            self.file.flush()
            for name, value in {**row, **(speed or {})}.items():
                self.board.add_scalar(name, value, row["updates"])

    def close(self) -> None:
        """Closes both."""
        if self.file is not None and self.board is not None:
            self.file.close()
            self.board.close()


def read(path: Path) -> list[dict[str, Any]]:
    """Returns the whole rows; a kill may have left half of the last one."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def _rewrite(path: Path, rows: list[dict[str, Any]]) -> None:
    beside = path.with_suffix(".new")
    beside.write_text("".join(json.dumps(row) + "\n" for row in rows))
    beside.replace(path)
