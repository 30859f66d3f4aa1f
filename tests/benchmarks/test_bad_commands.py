"""Command lines that must be refused: one line, the right exit code, nothing done."""

import dataclasses
import re
import signal
import subprocess
import sys
import time

import pytest

from benchmarks import demo, suite, train, tune
from benchmarks.cost import __main__ as cost
from benchmarks.cost import parts
from benchmarks.pages import __main__ as pages
from benchmarks.pages import site
from benchmarks.records import __main__ as records
from benchmarks.records import files
from benchmarks.records.home import ROOT
from benchmarks.tasks.catalogue import CHARACTERS
from benchmarks.training import loop, rows, tables
from tests.benchmarks.helpers import errors_of, record, tiny_workload, write_mnist

PROGRAMS = {
    "demo": demo,
    "train": train,
    "suite": suite,
    "tune": tune,
    "cost": cost,
    "pages": pages,
    "records": records,
}
# Words in capitals are paths of `places`. Empty words are two quotes.
BAD = {
    # demo
    "demo --data": "--data: expected one argument, got none",
    "demo --data MISSING": "--data: must be a folder that exists, got '.*missing'",
    "demo --data FILE": "--data: must be a folder that exists",
    "demo --data ''": "--data: must be a folder that exists, got ''",
    "demo --data EMPTY": "--data: .*must hold IDX files .* with nothing in it",
    "demo --out FILE": "--out: must be a folder, or the name of a new one",
    "demo --out FILE/below": "--out: must be a folder",
    "demo --out ''": "--out: must be a folder",
    "demo --seeds 0": "--seeds: must be a whole number from 1 to 100, got '0'",
    "demo --seeds -1": "--seeds: must be a whole number .* got '-1'",
    "demo --seeds 2.5": "--seeds: must be a whole number .* got '2.5'",
    "demo --seeds three": "--seeds: .* got 'three'",
    "demo --seeds nan": "--seeds: .* got 'nan'",
    "demo --seeds 1_0": "--seeds: .* got '1_0'",
    "demo --seeds ٣": "--seeds: .* got '٣'",
    "demo --seeds 101": "--seeds: .* got '101'",
    "demo --seeds": "--seeds: expected one argument, got none",
    "demo --quick=1": "--quick: ignored explicit argument '1'",
    "demo --quik": "the options are --help, --data, .*, got '--quik'",
    "demo --see 3": "the options are .*, got '--see 3'",
    "demo digits": "got 'digits'",
    # train
    "train": "arguments are required: TABLE, METHOD, S, got none",
    "train toy": "arguments are required: METHOD, S",
    "train toy lena": "arguments are required: S",
    "train toi lena 8": "TABLE: must be one of .*toy.*, got 'toi'",
    "train toy lina 8": "METHOD: must be one of base, linear, .*, got 'lina'",
    "train toy lena 0": "S: must be a whole number from 1 .* got '0'",
    "train toy lena -8": "S: must be a whole number .* got '-8'",
    "train toy lena 8.0": "S: must be a whole number .* got '8.0'",
    "train toy lena nan": "S: must be a whole number .* got 'nan'",
    "train toy lena 1000001": "S: must be .* got '1000001'",
    "train toy lena 3": "METHOD, S: S must divide the 8 .*: one of 1, 2, 4, 8, got 3",
    "train toy lena 16": "METHOD, S: S must divide the 8 .* got 16",
    "train toy base 8": "S must be 1 for the base run, got 8",
    "train toy lena_adamw 8": "scales recipes of 'adamw', got one of 'sgd'",
    "train adam lena 8": "scales recipes of 'sgd', got one of 'adamw'",
    "train adam amplified_by_4 8": "scales recipes of 'sgd', got one of 'adamw'",
    "train toy lena 8 4": "got '4'",
    "train toy lena 8 --rate nan": "--rate: must be a finite number above 0, got 'nan'",
    "train toy lena 8 --rate inf": "--rate: .* got 'inf'",
    "train toy lena 8 --rate 1e999": "--rate: .* got '1e999'",
    "train toy lena 8 --rate 0": "--rate: .* got '0'",
    "train toy lena 8 --rate -0.1": "--rate: .* got '-0.1'",
    "train toy lena 8 --rate fast": "--rate: .* got 'fast'",
    "train toy lena 8 --rate ''": "--rate: .* got ''",
    "train toy lena 8 --rate": "--rate: expected one argument, got none",
    "train toy lars_tuned 8": "--rate: 'lars_tuned' .* must be given, got none",
    "train toy lena_lars 8": "--rate: 'lena_lars' .* must be given, got none",
    "train toy lena 8 --seeds": "--seeds: expected at least one argument, got none",
    "train toy lena 8 --seeds -1": "--seeds: must be a whole number from 0 .* '-1'",
    "train toy lena 8 --seeds 0 x": "--seeds: .* got 'x'",
    "train toy lena 8 --seeds 2147483648": "--seeds: .* got '2147483648'",
    "train toy lena 8 --seeds 1 2 1": "--seeds: each value .* got 1 twice",
    "train toy lena 8 --data MNIST": "--data: table 'toy' has its own data; .* imgs",
    "train imgs lena 8": "--data: table 'imgs' needs a folder of data, .* got none",
    "train imgs lena 8 --data EMPTY": "--data: .* with nothing in it",
    "train cifar10 lena 8 --data MNIST": "must hold CIFAR-10, got mnist in",
    "train toy lena 8 --out EMPTY": "--out: must be a file",
    "train toy lena 8 --out ''": "--out: must be a file",
    "train toy lena 8 --out FILE/below": "--out: must be a file",
    "train toy lena 8 --out HALF": "--out: .*half.jsonl, line 2: .*--drop-broken",
    "train toy lena 8 --out OTHER": "must hold records of 'digits', got .* 'other'",
    "train toy lena 8 --validation=no": "--validation: ignored explicit argument 'no'",
    # suite
    "suite": "arguments are required: TABLE, got none",
    "suite toi": "TABLE: must be one of .*toy.*, got 'toi'",
    "suite toy --methods": "--methods: expected at least one argument, got none",
    "suite toy --methods lina": "--methods: must be one of .* got 'lina'",
    "suite toy --methods base base": "--methods: each value .* got base twice",
    "suite toy --methods linear": "must hold the base run of all 3 seeds first",
    "suite toy --methods base lena_adamw": "recipes of 'adamw', got one of 'sgd'",
    "suite toy --scales 0": "--scales: must be a whole number .* got '0'",
    "suite toy --scales 8 8": "--scales: each value .* got 8 twice",
    "suite toy --scales 3": "S must divide the 8 .* got 3",
    "suite toy --scales 8 x": "--scales: .* got 'x'",
    "suite toy --part 2/2": "--part: must be i/n with 0 <= i < n, .* got '2/2'",
    "suite toy --part 1": "--part: must be i/n .* got '1'",
    "suite toy --part 1/0": "--part: must be i/n .* got '1/0'",
    "suite toy --part -1/2": "--part: ",
    "suite toy --part a/b": "--part: must be i/n .* got 'a/b'",
    "suite toy --part 0/2/3": "--part: must be i/n .* got '0/2/3'",
    "suite toy --part 1/3": "must hold the base run of all 3 seeds first",
    "suite toy --data MNIST": "--data: table 'toy' has its own data",
    "suite imgs": "--data: table 'imgs' needs a folder of data, .* got none",
    "suite imgs --data FILE": "--data: must be a folder that exists",
    "suite toy --out EMPTY": "--out: must be a file",
    "suite toy --out HALF": "--out: .*half.jsonl, line 2: .*--drop-broken",
    "suite toy --out OTHER": "must hold records of 'digits', got some of 'other'",
    # tune
    "tune MISSING": "FOLDER: must be a folder that exists",
    "tune EMPTY": "FOLDER: .* with nothing in it",
    "tune MNIST MNIST": "the options are --help, --seeds, --folds, got ",
    "tune --seeds 0": "--seeds: must be a whole number from 1 .* got '0'",
    "tune --folds 0": "--folds: must be a whole number from 1 to 5, got '0'",
    "tune --folds 6": "--folds: must be a whole number from 1 to 5, got '6'",
    # cost
    "cost --part speed": "--part: must be one of update, step, .* got 'speed'",
    "cost --part": "--part: expected one argument, got none",
    "cost --out FILE": "--out: must be a folder",
    "cost --worker peer": "must be one of step, gather, growth, monitor, got 'peer'",
    "cost update": "got 'update'",
    # pages
    "pages --keep text": "--keep: must be one of demo, cost, got 'text'",
    "pages --keep demo demo": "--keep: each value must stand once, got demo twice",
    "pages --keep": "--keep: expected at least one argument, got none",
    "pages --keep cost": "--keep: .*records.jsonl must exist, got no file",
    "pages --keep demo": "must be of digits, 80 epochs, .* got other, 4 epochs",
    "pages README.md": "got 'README.md'",
    # records
    "records": "arguments are required: FILE, got none",
    "records MISSING": "FILE: must be a file that exists, got '.*missing'",
    "records EMPTY": "FILE: must be a file",
    "records HALF": "half.jsonl, line 2: must be one whole record, got half a line",
    "records HALF --cost": "half.jsonl, line 1: .* got no field 'part'",
}
# What is wrong is in a file, not in the command line.
EXIT_CODES = {"records HALF": 1, "records HALF --cost": 1}


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Paths by name, tables to train on, and nothing that trains or measures."""

    def forbidden(*arguments, **options):
        raise AssertionError("nothing may be trained, measured or written")

    monkeypatch.setattr(loop, "run", forbidden)
    monkeypatch.setattr(rows, "run_row", forbidden)
    monkeypatch.setattr(site, "filled", forbidden)
    for name in parts.PARTS:
        monkeypatch.setitem(parts.PARTS, name, forbidden)
    for name, table in toy_tables().items():
        monkeypatch.setitem(tables.TABLES, name, table)
    return write_places(tmp_path)


def toy_tables():
    def toy(validation=False):
        return tiny_workload()

    def adam(validation=False):
        return dataclasses.replace(tiny_workload(), recipe=CHARACTERS)

    def imgs(folder, validation=False):
        return demo.load_workload(folder)

    methods = ("base", "linear")
    return {
        "toy": tables.Table(toy, methods, scales=(8,)),
        "adam": tables.Table(adam, methods, scales=(8,)),
        "imgs": tables.Table(imgs, methods, needs_folder=True, scales=(8,)),
    }


def write_places(tmp_path):
    names = ("missing", "file", "empty", "half.jsonl", "other.jsonl", "mnist")
    paths = {name.split(".")[0].upper(): tmp_path / name for name in names}
    paths["FILE"].write_text("text\n")
    paths["EMPTY"].mkdir()
    files.append([record("lena", 8, 0.9, workload="digits")], paths["HALF"])
    with paths["HALF"].open("a") as file:
        file.write('{"workload": "dig')
    files.append([record("lena", 8, 0.9, workload="other")], paths["OTHER"])
    quick = record("lena", 8, 0.9, workload="other", recipe={"epochs": 4})
    files.append([quick], tmp_path / "results" / "demo" / "records.jsonl")
    write_mnist(paths["MNIST"])
    return paths


def contents(folder):
    """Every path below, with what is in the files."""
    return {p: p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def words(command, places):
    """The words of a command line, with paths in place of their names."""
    _, *rest = command.split(" ")
    for word in rest:
        name, *below = word.split("/")
        if name in places:
            yield "/".join([str(places[name]), *below])
        else:
            yield "" if word == "''" else word


@pytest.mark.parametrize("command", BAD)
def test_a_bad_command_line_is_refused_in_one_line(
    command, places, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    program = PROGRAMS[command.split(" ")[0]]
    line, code = errors_of(program.main, words(command, places), capsys)
    assert code == EXIT_CODES.get(command, 2)
    assert line.startswith("error: ") and re.search(BAD[command], line), line
    assert contents(tmp_path) == before


def test_there_are_enough_bad_command_lines():
    print(f"{len(BAD)} bad command lines")
    assert len(BAD) >= 60


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_is_printed(name, capsys):
    with pytest.raises(SystemExit) as end:
        PROGRAMS[name].main(["--help"])
    assert end.value.code == 0
    assert "usage: " in capsys.readouterr().out


@pytest.mark.parametrize(
    "command",
    [
        "demo",
        "train toy lena 8 --out NEW",
        "suite toy --out NEW",
        "tune",
        "cost --part update",
        "pages",
        "records OTHER",
    ],
)
def test_an_interruption_is_one_line_and_130(
    command, places, tmp_path, monkeypatch, capsys
):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loop, "run", interrupted)
    monkeypatch.setattr(rows, "run_row", interrupted)
    monkeypatch.setattr(site, "filled", interrupted)
    monkeypatch.setattr(files, "read", interrupted)
    monkeypatch.setitem(parts.PARTS, "update", interrupted)
    name, arguments = command.split(" ")[0], words(command, places)
    with pytest.raises(SystemExit) as end:
        PROGRAMS[name].main(list(arguments))
    assert end.value.code == 130
    told = capsys.readouterr().err.splitlines()
    assert told[-1] == "error: interrupted; what was recorded is kept."
    # Beside it there may be a bar that had begun.
    assert not [line for line in told[:-1] if not line.startswith("S = ")]


def test_a_full_disk_is_one_line_and_1(places, monkeypatch, capsys):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loop, "run", lambda *arguments: [record("lena", 8, 0.9)])
    monkeypatch.setattr(files, "append", full)
    with pytest.raises(SystemExit) as end:
        train.main(["toy", "lena", "8", "--out", str(places["EMPTY"] / "new")])
    assert end.value.code == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "error: [Errno 28] No space left on device"


# As `python -m benchmarks.suite`, but tells when the package has been imported.
START = """
import runpy, sys
sys.argv[0] = "-m"
import benchmarks
print("ready", flush=True)
runpy.run_module("benchmarks.suite", run_name="__main__")
"""


@pytest.mark.parametrize("wait", [0.0, 0.7, 2.5])
def test_an_interruption_at_any_time_is_one_line(wait, tmp_path):
    # Whoever runs the tests in the background has it ignored, and processes inherit it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    arguments = ["digits_ablation", "--out", tmp_path / "new.jsonl"]
    process = subprocess.Popen(
        [sys.executable, "-c", START, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, before)
    assert process.stdout.readline() == "ready\n"
    time.sleep(wait)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert told == "error: interrupted; what was recorded is kept.\n"
    assert process.returncode == 130
