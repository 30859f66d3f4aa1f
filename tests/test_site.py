"""The documentation: links lead somewhere, here and on GitHub, and notebooks run."""

import pathlib
import posixpath
import re
import runpy

import jax
import matplotlib.pyplot as plt
import pytest
import yaml

ROOT = pathlib.Path(__file__).parent.parent
FOLDERS = ("", "docs/", "examples/", "examples/pod_training/", "benchmarks/")
PAGES = [path for folder in FOLDERS for path in sorted(ROOT.glob(f"{folder}*.md"))]
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.py"))
LINK = re.compile(r"\]\(([^()\s]+)\)")


def name(path):
    return path.relative_to(ROOT).as_posix()


def prose(path):
    return re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(path):
    """What GitHub, and MkDocs alike, make of the headings."""
    headings = re.findall(r"^#+ +(.+)$", prose(path), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page):
    for link in LINK.findall(prose(page)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def nav(entries):
    """Returns the pages of a navigation, in their order."""
    for entry in entries:
        for value in entry.values():
            yield from [value] if isinstance(value, str) else nav(value)


def test_every_page_is_in_the_navigation():
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    listed = list(nav(settings["nav"]))
    assert len(set(listed)) == len(listed)
    pages = {page.name for page in ROOT.glob("docs/*.md")}
    assert pages <= set(listed)
    notebooks = {posixpath.join("notebooks", path.name) for path in NOTEBOOKS}
    assert notebooks <= set(listed)


@pytest.mark.slow  # `make docs` runs them too
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name)
def test_the_notebook_runs(notebook, monkeypatch):
    plt.switch_backend("agg")
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    with jax.numpy_rank_promotion("allow"):
        runpy.run_path(str(notebook))
