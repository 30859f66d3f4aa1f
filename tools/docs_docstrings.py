"""How the site reads docstrings: `Example:` holds code, like griffe's `Examples:`."""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Renames the section before it is parsed; else `>>>` becomes a quotation."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Is called with every object that griffe finds."""
        if obj.docstring is not None:
            text = obj.docstring.value
            obj.docstring.value = re.sub(
                r"^( *)Example:$", r"\1Examples:", text, flags=re.M
            )
