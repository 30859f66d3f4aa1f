"""The shape of the package: short functions, optimizers put together in few lines."""

import ast
import inspect
from pathlib import Path

import pytest

import optax_lena

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "optax_lena").rglob("*.py"))
OPTIMIZERS = sorted(
    path.stem
    for path in FILES
    if path.parent.name == "_optimizers" and path.stem not in ("__init__", "parts")
)


def bodies(path):
    """The name of every function of a file, and the lines of its body."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            yield node.name, lines


def imported(path):
    """The packages that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.partition(".")[0]


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.parent.name == "_parts"]
)
def test_the_parts_are_mathematics_that_imports_no_optax(path):
    assert "optax" not in set(imported(path))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_function_is_long(path):
    assert [(name, lines) for name, lines in bodies(path) if lines > 40] == []


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_is_put_together_in_a_few_lines(name):
    found = dict(bodies(ROOT / "optax_lena" / "_optimizers" / f"{name}.py"))
    assert found[name] <= 12


SHARED = (
    "learning_rate",
    "batch_scale",
    "warmup_steps",
    "layers",
    "momentum",
    "nesterov",
    "accumulator_dtype",
    "weight_decay",
    "weight_decay_mask",
    "reference",
)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_arguments_that_optimizers_share_have_one_order(name):
    given = list(inspect.signature(getattr(optax_lena, name)).parameters)
    shared = [argument for argument in given if argument in SHARED]
    assert shared == [argument for argument in SHARED if argument in given]


def test_files_are_short():
    folders = ["optax_lena", "tests", "benchmarks", "examples", "tools"]
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    lengths = {str(path): len(path.read_text().splitlines()) for path in files}
    assert {name: n for name, n in lengths.items() if n > 400} == {}
