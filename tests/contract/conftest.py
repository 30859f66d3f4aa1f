"""The contract gives every optimizer moments of the plain gradient, Adam's too."""

import pathlib

from tests import helpers


def pytest_collection_modifyitems(items):
    """Lets them pass: what numbers mean is not the contract's matter."""
    for item in items:
        if item.path.is_relative_to(pathlib.Path(__file__).parent):
            item.add_marker(helpers.PLAIN_MOMENTS)
