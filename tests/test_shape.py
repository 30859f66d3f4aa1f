"""The shape of the package: short functions, and imports in the order of the data."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import optax_lena

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "optax_lena"
FILES = sorted(PACKAGE.rglob("*.py"))
# In the order in which data flow.
PLACES = re.findall(
    r"^\| `optax_lena/(\w+)", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE
)
OPTIMIZERS = sorted(
    path.stem
    for path in FILES
    if path.parent.name == "_optimizers" and path.stem not in ("__init__", "links")
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


def place_of(path):
    """The folder of a file of the package, or its own name if it is in none."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def order(place):
    """Where a place stands: what is in no row before all, the package itself behind."""
    if place in PLACES:
        return PLACES.index(place)
    is_helper = place not in ("__init__", "__main__")
    return -1 if is_helper and (PACKAGE / f"{place}.py").exists() else len(PLACES)


def from_later(place, source):
    """What of later places a file imports, anywhere in it."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "say the whole name"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    split = [f"{name}..".split(".")[:2] for name in names]
    places = [other for package, other in split if package == "optax_lena"]
    return [other for other in places if order(other) > order(place)]


def test_contributing_lists_every_folder():
    folders = {place_of(path) for path in FILES if path.parent != PACKAGE}
    assert sorted(PLACES) == sorted(folders | {"plotting"})


def test_imports_are_in_the_order_of_the_data():
    found = {
        str(path.relative_to(ROOT)): later
        for path in FILES
        if (later := from_later(place_of(path), path.read_text()))
    }
    assert found == {}


@pytest.mark.parametrize(
    ("place", "source", "later"),
    [
        ("_measure", "from optax_lena._parts.clocks import Count", ["_parts"]),
        ("_parts", "from optax_lena._measure import layout", []),
        ("_parts", "def f():\n    from optax_lena import _gather, flax", ["flax"]),
        ("_checks", "import optax_lena._measure.layout", ["_measure"]),
        ("_measure", "from optax_lena import _checks\nimport jax.numpy", []),
        ("_advice", "import optax_lena", [""]),
        ("_advice", "from optax_lena import lena", ["lena"]),
        ("flax", "from optax_lena.flax._train_state import TrainState", []),
    ],
)
def test_an_import_from_a_later_place_is_seen(place, source, later):
    assert from_later(place, source) == later


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
