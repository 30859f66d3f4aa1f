"""Layout: rows of text as Markdown or for a terminal, and what stands below a table."""

from collections.abc import Iterable, Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

Cells = Sequence[Sequence[str]]


def block(parts: Iterable[str]) -> str:
    """Paragraphs, as they stand between two markers."""
    return "\n" + "\n\n".join(parts) + "\n\n"


def bullets(sentences: Iterable[str]) -> str:
    """A Markdown list."""
    return "\n".join(f"- {sentence}" for sentence in sentences)


def markdown(cells: Cells, left: int = 1) -> str:
    """A Markdown table.

    Args:
      cells: the header's row, then the others.
      left: how many columns are aligned to the left; the others hold numbers.
    """
    header, *others = cells
    rule = ["---"] * left + ["---:"] * (len(header) - left)
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *others))


def terminal(title: str) -> Table:
    """An empty table for a terminal."""
    return Table(
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        title=title,
        title_justify="left",
    )


def recorded_on(where: Mapping[str, str], commits: str, by: str = "") -> str:
    """Where records were made.

    Args:
      where: their environment.
      commits: of the code, already joined.
      by: the program; empty: none is named.
    """
    text = (
        f"Recorded on {where['cpus']} cores ({where['device']}) with jax "
        f"{where['jax']}, at {commits}"
    )
    return text + (f", by `{by}`." if by else ".")
