"""Markers: where a generated block stands in a page that people write."""

import re


def replace(text: str, name: str, content: str) -> str:
    """Puts `content` between the markers of `name`.

    Args:
      text: Markdown, with a line `<!-- NAME: how it was made -->` and one
        `<!-- /NAME -->`; without them it comes back unchanged.
      name: of the block.
      content: of the block.
    """
    block = re.compile(
        rf"(<!-- {re.escape(name)}: [^>]*-->\n).*?(<!-- /{re.escape(name)} -->)",
        re.DOTALL,
    )
    return block.sub(lambda match: match[1] + content + match[2], text)
