"""Mutation tests: would a test notice, if this line said something else?

    python -m tools.mutants --sample 120 --seed 0
    python -m tools.mutants --file optax_lena/_parts/guard.py --sample 0  # all of them

One operator, constant or name of a source file is changed in a copy of the tree, and
the tests that belong to the file are run until one fails. A mutant that none of them
notices survives, and is printed. Those that mean the same as the original are listed in
`equivalent_mutants.txt`, by file, code and change, and do not count.

Of our own, because mutmut and cosmic-ray run one interpreter per mutant in the tree
itself: here a copy for every job and a compilation cache for all of them make minutes
of what would be hours, most of which is XLA compiling what it has compiled before.
"""

import argparse
import ast
import concurrent.futures
import copy
import itertools
import os
import queue
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.txt")
BAR = 0.95
LIMIT = 600  # seconds; a mutant that never ends is noticed

# Which tests belong to a file: those of its own name first, then what it is used by.
PARTS = ("parts/test_layer_rate.py", "transform/test_overflow.py")
LIMITS = ("parts/test_guard.py", "parts/test_loss_limit.py")
COHERENT = ("transform/test_layer_rate_with_momentum.py", *PARTS)
GATHER = ("gather/test_value_and_grad.py", "gather/test_preconditioned.py")
ROUTES = ("gather/test_routes.py", "gather/test_traps.py", "gather/test_sharding.py")
SPREAD = (*ROUTES, "gather/test_constrained.py", "gather/test_outputs.py")
SUCCESSIVE = "gather/test_successive.py"
SGD = (
    "optimizers/test_momentum_sgd.py",
    "optimizers/test_progress.py",
    "contract/test_like_optax.py",
)
STATE = (
    "transform/test_rows.py",
    "transform/test_elastic.py",
    "contract/test_state.py",
    "reports/test_report.py",
    "transform/test_checkpoints.py",
)
TESTS = {
    "_parts/averages.py": ("parts/test_averages.py", *PARTS),
    "_parts/backoff.py": ("parts/test_backoff.py", *PARTS),
    "_parts/clocks.py": ("parts/test_clocks.py", *PARTS),
    "_parts/estimate.py": ("parts/test_estimate.py", *PARTS),
    "_parts/guard.py": ("parts/test_guard.py", *PARTS),
    "_parts/layer_rate.py": (*PARTS, *LIMITS, "contract/test_errors.py"),
    "_parts/losses.py": ("parts/test_losses.py", "parts/test_loss_limit.py"),
    "_parts/loss_limit.py": ("parts/test_loss_limit.py", *PARTS),
    "_parts/memory.py": (
        "parts/test_memory.py",
        "transform/test_scale_by_adam.py",
        "transform/test_momentum.py",
    ),
    "_parts/normalised.py": (
        "parts/test_rules.py",
        "optimizers/test_lena_adamw.py",
        "optimizers/test_lena_muon.py",
    ),
    "_parts/returned.py": ("contract/test_extension.py", *PARTS),
    "_parts/reference.py": ("parts/test_reference.py", *PARTS),
    "_parts/rules.py": ("parts/test_rules.py", *PARTS),
    "_parts/state.py": ("transform/test_state.py", *STATE),
    "_parts/warmup.py": ("parts/test_warmup.py", *PARTS),
    "_parts/coherence.py": ("parts/test_coherence.py", *COHERENT),
    "_measure/layout.py": (
        "measure/test_layout.py",
        "measure/test_layers.py",
        "gather/test_tensor_parallel.py",
        "gather/test_sharding.py",
    ),
    "_measure/entries.py": ("measure/test_layout.py", "reports/test_report.py"),
    "_measure/parameters.py": ("measure/test_layout.py", "measure/test_metric.py"),
    "_measure/sums.py": ("measure/test_sums.py", "measure/test_metric.py"),
    "_measure/moments.py": ("measure/test_moments.py", "measure/test_sums.py"),
    "_measure/metric.py": (
        "measure/test_metric.py",
        "measure/test_sums.py",
        *COHERENT,
    ),
    "_gather/accumulate.py": ("gather/test_accumulate.py", *GATHER),
    "_gather/axes.py": (*ROUTES, "gather/test_tensor_parallel.py"),
    "_gather/arguments.py": (*GATHER, *ROUTES),
    "_gather/call.py": (*GATHER, *ROUTES),
    "_gather/outputs.py": ("gather/test_outputs.py", *GATHER),
    "_gather/over_axis.py": ROUTES,
    "_gather/passes.py": (*GATHER, *ROUTES),
    "_gather/placement.py": ("gather/test_placement.py", *SPREAD),
    "_gather/shards.py": (
        "gather/test_shards.py",
        "gather/test_tensor_parallel.py",
        *ROUTES,
    ),
    "_gather/stack.py": ("gather/test_stack.py",),
    "_gather/successive.py": (SUCCESSIVE,),
    "_gather/value_and_grad.py": (*GATHER, *ROUTES),
    "_gather/ways.py": SPREAD,
    "_optimizers/adascale.py": SGD,
    "_optimizers/lena.py": SGD,
    "_optimizers/lena_adamw.py": ("optimizers/test_lena_adamw.py",),
    "_optimizers/lena_amplified.py": (*SGD, "parts/test_layer_rate.py"),
    "_optimizers/lena_lars.py": ("optimizers/test_lena_lars.py",),
    "_optimizers/lena_muon.py": ("optimizers/test_lena_muon.py",),
    "_optimizers/linear_scaling.py": SGD,
    "_optimizers/links.py": SGD,
    "_transform/adam_preconditioner.py": ("transform/test_adam_preconditioner.py",),
    "_transform/batch_scale.py": (
        "transform/test_batch_scale.py",
        "transform/test_padding.py",
        SUCCESSIVE,
    ),
    "_transform/lars.py": ("optimizers/test_lena_lars.py",),
    "_transform/layer_rate_with_momentum.py": COHERENT,
    "_transform/momentum.py": ("transform/test_momentum.py", *PARTS),
    "_transform/monitor.py": ("transform/test_monitor.py", SUCCESSIVE),
    "_transform/muon.py": ("optimizers/test_lena_muon.py",),
    "_transform/scale_by_adam.py": (
        "transform/test_scale_by_adam.py",
        "optimizers/test_lena_adamw.py",
    ),
    "_transform/scale_by_lena.py": (
        "transform/test_scale_by_lena.py",
        "transform/test_padding.py",
        "optimizers/test_momentum_sgd.py",
        "parts/test_loss_limit.py",
        "contract/test_errors.py",
        *PARTS,
    ),
    "_transform/names.py": ("transform/test_names.py", *STATE),
    "_transform/rows.py": ("transform/test_rows.py", *STATE),
    "_transform/state.py": ("transform/test_state.py", *STATE),
    "_reports/report.py": ("reports/test_report.py", "reports/test_warnings.py"),
    "_measure/layers.py": ("measure/test_layers.py", "contract/test_errors.py"),
    "_gather/wrapped.py": (
        "gather/test_accumulate.py",
        SUCCESSIVE,
        "contract/test_errors.py",
    ),
    "_checks.py": ("contract/test_errors.py",),
    "_dtypes.py": ("contract/test_strict.py", "measure/test_sums.py"),
    "_eager.py": ("gather/test_accumulate.py", SUCCESSIVE),
    "_masks.py": ("optimizers/test_lena_muon.py", "optimizers/test_lena_lars.py"),
    "_transformation.py": ("contract/test_wrappers.py", "contract/test_errors.py"),
    "_types.py": (*SGD, "gather/test_tensor_parallel.py", "gather/test_sharding.py"),
}
# Text, figures and advice on the host, Flax's side, and what takes many processes.
NOT_MUTATED = ("_advice/", "flax/", "__main__.py", "_processes.py", "plotting.py")
FOR_ALL = ("contract/test_bad_arguments.py",)

OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
PAIRS = [("all", "any"), ("min", "max"), ("minimum", "maximum"), ("floor", "ceil")]
NAMES = dict([*PAIRS, *[(b, a) for a, b in PAIRS]])


class Mutant(NamedTuple):
    """One change of one file."""

    path: str
    line: int
    before: str
    after: str
    source: str

    def __str__(self) -> str:
        """Says what is changed, and where."""
        return f"{self.path}:{self.line}: {self.before}  ->  {self.after}"

    def key(self) -> str:
        """Names it without its line's number, which moves."""
        return f"{self.path}: {self.before}  ->  {self.after}"


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """Yields what the node may become."""
    if isinstance(node, (ast.BinOp, ast.AugAssign, ast.BoolOp)):
        if other := OPERATORS.get(type(node.op)):
            yield changed(node, op=other())
    if isinstance(node, ast.Compare) and type(node.ops[0]) in OPERATORS:
        yield changed(node, ops=[OPERATORS[type(node.ops[0])](), *node.ops[1:]])
    if isinstance(node, ast.UnaryOp):
        yield node.operand
    if isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield changed(node, value=not node.value)
        elif isinstance(node.value, (int, float)):
            yield changed(node, value=node.value + 1)
    if isinstance(node, ast.Name) and node.id in NAMES:
        yield changed(node, id=NAMES[node.id])
    if isinstance(node, ast.Attribute) and node.attr in NAMES:
        yield changed(node, attr=NAMES[node.attr])
    if isinstance(node, ast.Return) and not returns_none(node):
        yield changed(node, value=ast.Constant(None))
    if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "astype":
        yield node.func.value
    is_where = isinstance(node, ast.Call) and ast.unparse(node.func) == "jnp.where"
    if is_where and len(node.args) == 3:
        condition, yes, no = node.args
        yield changed(node, args=[condition, no, yes])


def returns_none(node: ast.Return) -> bool:
    """Says whether it reads `return` or `return None`."""
    is_constant = isinstance(node.value, ast.Constant)
    return node.value is None or (is_constant and node.value.value is None)


def changed(node: ast.AST, **fields: object) -> ast.AST:
    """Returns a copy of the node with other fields."""
    other = copy.copy(node)
    for name, value in fields.items():
        setattr(other, name, value)
    return other


def visit(node: ast.AST) -> Iterator[tuple[ast.AST, str, int | None]]:
    """Yields every place of an expression or statement: its parent, field and index."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "format_spec"):
            continue
        items = enumerate(value) if isinstance(value, list) else [(None, value)]
        for index, child in items:
            is_skipped = isinstance(child, (ast.Raise, ast.JoinedStr, ast.Import))
            # A docstring, and `strict=True`: zips that are checked twice.
            is_skipped |= isinstance(child, ast.keyword) and child.arg == "strict"
            if isinstance(child, ast.AST) and not is_skipped:
                yield node, field, index
                yield from visit(child)


def mutants_of(path: str) -> list[Mutant]:
    """Returns every mutant of a file, in the order of its lines."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    original = ast.unparse(tree).splitlines()
    found = []
    for parent, field, index in list(visit(tree)):
        held = getattr(parent, field)
        node = held if index is None else held[index]
        for other in changes(node):
            put(parent, field, index, other)
            source = ast.unparse(ast.fix_missing_locations(tree))
            put(parent, field, index, node)
            pairs = zip(original, source.splitlines(), strict=True)
            before, after = next((a.strip(), b.strip()) for a, b in pairs if a != b)
            found.append(Mutant(path, node.lineno, before, after, source))
    return found


def equivalent_keys() -> set[str]:
    """Returns the keys of the mutants that mean the same as the original."""
    lines = EQUIVALENT.read_text(encoding="utf-8").splitlines()
    return {line for line in lines if line and not line.startswith("#")}


def put(parent: ast.AST, field: str, index: int | None, node: ast.AST) -> None:
    """Puts a node into its place."""
    if index is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[index] = node


def passes(tests: Iterable[str], tree: Path, limit: float | None = None) -> bool:
    """Runs tests in a copy of the tree, until one fails or the time is over."""
    found = [f"tests/{t}" for t in (*tests, *FOR_ALL) if (tree / "tests" / t).exists()]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n0", "--tb=no", *found]
    settings = {
        "JAX_COMPILATION_CACHE_DIR": str(tree.parent / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        command, cwd=tree, env=os.environ | settings, capture_output=True, timeout=limit
    )
    if done.returncode in (-signal.SIGTERM, -signal.SIGKILL):
        raise SystemExit("The tests were stopped from outside.")
    return done.returncode == 0


def survives(mutant: Mutant, tree: Path) -> bool:
    """Runs the mutant's tests in a copy of the tree, which is left as it was."""
    file = tree / mutant.path
    original = file.read_text(encoding="utf-8")
    try:
        file.write_text(mutant.source, encoding="utf-8")
        tests = TESTS[mutant.path.removeprefix("optax_lena/")]
        return passes(tests, tree, LIMIT)
    except subprocess.TimeoutExpired:
        return False
    finally:
        file.write_text(original, encoding="utf-8")


def run(mutants: list[Mutant], jobs: int) -> list[Mutant]:
    """Returns the mutants that survive; prints each as it is done."""
    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        trees: queue.Queue[Path] = queue.Queue()
        for job in range(jobs):
            tree = Path(folder) / str(job)
            for part in ("optax_lena", "tests"):
                ignore = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / part, tree / part, ignore=ignore)
            shutil.copy(ROOT / "pyproject.toml", tree)
            trees.put(tree)

        def judge(mutant: Mutant) -> bool:
            tree = trees.get()
            try:
                return survives(mutant, tree)
            finally:
                trees.put(tree)

        used = [TESTS[m.path.removeprefix("optax_lena/")] for m in mutants]
        if not passes(dict.fromkeys(itertools.chain(*used)), tree):
            raise SystemExit("The tests fail without a change.")
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            done = pool.map(judge, mutants)
            pairs = zip(mutants, done, strict=True)
            for number, (mutant, survived) in enumerate(pairs, 1):
                word = "SURVIVED" if survived else "killed"
                print(f"{number:4} {word:8} {mutant}", flush=True)
                survivors += [mutant] if survived else []
    return survivors


def main() -> None:
    """Runs a sample of all mutants; fails below the bar."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sample", type=int, default=120, help="how many; 0: all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time")
    parser.add_argument("--file", action="append", help="of these files only")
    options = parser.parse_args()
    known_paths = [f"optax_lena/{path}" for path in TESTS]
    paths = options.file or known_paths
    if unknown := [path for path in paths if path not in known_paths]:
        parser.error(
            f"--file must be one of {', '.join(known_paths)}, got {unknown[0]}: say in "
            "TESTS which tests belong to another."
        )
    equivalent = equivalent_keys()
    every = [m for path in paths for m in mutants_of(path)]
    known = [m for m in every if m.key() in equivalent]
    chosen = [m for m in every if m.key() not in equivalent]
    if options.sample:
        chosen = random.Random(options.seed).sample(
            chosen, min(options.sample, len(chosen))
        )
    print(f"{len(every)} mutants, {len(known)} equivalent; {len(chosen)} are run")
    survivors = run(chosen, options.jobs)
    score = 1 - len(survivors) / max(len(chosen), 1)
    print(f"{score:.1%} of {len(chosen)} noticed; survivors:", *survivors, sep="\n")
    if score < BAR:
        raise SystemExit(f"The bar is {BAR:.0%}.")


if __name__ == "__main__":
    main()
