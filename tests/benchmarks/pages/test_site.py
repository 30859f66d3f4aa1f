"""The site: what is kept is what the pages show, between markers."""

import re

import pytest

from benchmarks.pages import demo_block, markers, site
from benchmarks.records.home import kept
from benchmarks.records.record import read_records


def test_the_pages_are_made_from_the_records():
    for page, text in site.filled().items():
        assert page.read_text() == text
    assert demo_block.block(read_records(kept("demo"))) in site.RESULT_PAGE.read_text()


def test_no_block_stands_where_it_is_not_filled(monkeypatch):
    """It would stay as it is for ever, and nothing would say so."""
    fill = markers.fill
    monkeypatch.setattr(markers, "fill", lambda text, name, _: fill(text, name, ""))
    emptied, block = site.filled(), r"<!-- (\w+): [^>]*-->\n(.*?)<!-- /\1 -->"
    for page in (site.README, *site.README.parent.glob("docs/*.md")):
        text = emptied.get(page) or page.read_text()
        found = re.findall(block, text, re.DOTALL)
        assert not [name for name, stale in found if stale]


def test_a_block_is_filled_between_its_markers_only():
    page = "a\n<!-- x: made by b -->\nstale\n<!-- /x -->\nc\n<!-- y: d -->\n<!-- /y -->"
    filled = markers.fill(page, "x", "new\n")
    assert filled == page.replace("stale", "new")
    assert markers.fill(page, "z", "new") == page


@pytest.mark.parametrize(
    "page",
    [
        "<!-- x: made by b -->\nno end",
        "no start\n<!-- /x -->",
        2 * "<!-- x: made by b -->\n<!-- /x -->\n",
    ],
)
def test_half_a_pair_of_markers_is_told(page):
    with pytest.raises(ValueError, match="once each or not at all, got"):
        markers.fill(page, "x", "new")
