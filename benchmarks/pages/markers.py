"""Markers: where a generated block stands in a page that people write."""

import re


def fill(text: str, name: str, block: str) -> str:
    """Puts a block between its markers.

    Args:
      text: Markdown, with a line `<!-- NAME: how it was made -->` and one
        `<!-- /NAME -->`; without them it comes back unchanged.
      name: of the block.
      block: its Markdown.

    Raises:
      ValueError: if one of the two markers is missing, or stands twice.
    """
    opening, closing = rf"<!-- {re.escape(name)}: [^>]*-->", f"<!-- /{name} -->"
    counts = len(re.findall(opening, text)), text.count(closing)
    if counts not in ((0, 0), (1, 1)):
        raise ValueError(
            f"A page must hold `<!-- {name}: ... -->` and `{closing}` once each or not "
            f"at all, got {counts[0]} of the one and {counts[1]} of the other."
        )
    between = re.compile(rf"({opening}\n).*?({re.escape(closing)})", re.DOTALL)
    return between.sub(lambda match: match[1] + block + match[2], text)
