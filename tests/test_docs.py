"""The documentation: every block runs, every name is told, no argument is invented."""

import ast
import inspect
import pathlib
import re
import subprocess
import sys

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

import optax_lena

ROOT = pathlib.Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted(ROOT.glob("docs/*.md"))]
INIT = ast.parse((ROOT / "optax_lena" / "__init__.py").read_text())
EXPORTS = [
    (alias.name, alias.asname)
    for node in INIT.body
    if isinstance(node, ast.ImportFrom) and node.module.startswith("optax_lena")
    for alias in node.names
]
PUBLIC = {name: getattr(optax_lena, name) for name, _ in EXPORTS}
CALLABLE = {name: f for name, f in PUBLIC.items() if callable(f)}
RULES = [name for name in PUBLIC if name not in CALLABLE]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sybil = Sybil(parsers=[PythonCodeBlockParser(), SkipParser()])
    examples = list(sybil.parse(page).examples())
    # Generated, or prose; what README shows is tested below.
    prose = ["README.md", "benchmarks.md", "small_tasks.md", "choices.md", "cost.md"]
    prose += ["adamw_results.md", "recipes.md", "related.md"]
    assert examples or page.name in prose
    for example in examples:
        example.evaluate()


@pytest.mark.parametrize("name", CALLABLE)
def test_every_public_name_has_a_docstring(name):
    own = PUBLIC[name].__doc__
    assert own and len(own.splitlines()[0]) > 10
    assert own != tuple.__doc__ and not own.startswith(f"{name}(")


@pytest.mark.parametrize("name", RULES)
def test_every_public_constant_is_told(name):
    """Constants have no docstring of their own; one stands below them."""
    modules = (ROOT / "optax_lena").rglob("*.py")
    sources = [module.read_text() for module in modules]
    told = re.compile(rf'^{name}(: \w+)? = .*\n"""', re.MULTILINE)
    assert sum(bool(told.search(source)) for source in sources) == 1


def test_no_object_has_two_public_names():
    objects = [id(value) for value in PUBLIC.values()]
    assert len(set(objects)) == len(objects)


def test_every_public_name_says_so_once():
    """`from a import b as b` is how a re-export is told from an import."""
    assert all(name == alias for name, alias in EXPORTS)
    assert len(PUBLIC) == len(EXPORTS)
    assert not [name for name in PUBLIC if name.startswith("_")]


@pytest.mark.parametrize("name", CALLABLE)
def test_documented_arguments_are_the_arguments(name):
    documented = re.search(
        r"^ *(?:Args|Attributes):\n((?:.+\n|\n(?= {6,}))+)",
        inspect.cleandoc(PUBLIC[name].__doc__) + "\n",
        re.MULTILINE,
    )
    names = (
        re.findall(r"^  \*{0,2}(\w+):", documented[1], re.MULTILINE)
        if documented
        else []
    )
    parameters = inspect.signature(PUBLIC[name]).parameters
    if inspect.isclass(PUBLIC[name]) and not names:
        assert not parameters
    else:
        assert names == list(parameters)


def fenced(page, language):
    """Returns the only block of a language in a page, line by line."""
    (block,) = re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)
    return block.splitlines()


def test_the_quick_start_is_what_the_examples_differ_in():
    before, after = (
        (ROOT / "examples" / name).read_text().splitlines()
        for name in ("quickstart_optax.py", "quickstart.py")
    )
    lines = fenced(README, "diff")
    assert lines
    for line in lines:
        kind, text = line[:1], line[1:]
        assert (text in before) == (kind in "- ")
        assert (text in after) == (kind in "+ ")


def test_the_quick_start_prints_what_readme_shows():
    """Words are equal, numbers within 5 %: they differ between versions of XLA."""
    shown = " ".join(fenced(README, "text")).split()
    command = [sys.executable, ROOT / "examples" / "quickstart.py"]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    printed = run.stdout.split()
    assert len(printed) == len(shown)
    for one, other in zip(printed, shown, strict=True):
        try:
            assert float(one) == pytest.approx(float(other), rel=0.05)
        except ValueError:
            assert one == other


def test_readme_is_short():
    assert len(README.read_text().splitlines()) <= 120


def test_no_page_sends_the_reader_elsewhere_for_an_argument():
    sources = (ROOT / "optax_lena").rglob("*.py")
    elsewhere = re.compile(r"^ +\w+: see `\w+`", re.MULTILINE)
    assert not [path for path in sources if elsewhere.search(path.read_text())]
