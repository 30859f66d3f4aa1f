"""The mutation tests' table: its files are there, and others are told of."""

import sys

import pytest

from tools import mutants


def test_every_file_and_test_of_the_table_is_there():
    for path, tests in mutants.TESTS.items():
        assert (mutants.ROOT / "optax_lena" / path).exists()
        for test in tests:
            assert (mutants.ROOT / "tests" / test).exists()


def test_every_file_of_the_library_is_in_the_table_or_left_out_by_name():
    root = mutants.ROOT / "optax_lena"
    files = {str(path.relative_to(root)) for path in root.rglob("[!_]*.py")}
    files |= {str(path.relative_to(root)) for path in root.rglob("_[!_]*.py")}
    files.add("__main__.py")
    left_out = {path for path in files if path.startswith(mutants.NOT_MUTATED)}
    assert files - left_out == set(mutants.TESTS)


def test_every_equivalent_mutant_is_one_of_its_file_as_it_is_now():
    equivalent = mutants.equivalent_keys()
    paths = {key.partition(": ")[0] for key in equivalent}
    assert equivalent <= {m.key() for path in paths for m in mutants.mutants_of(path)}


def test_every_file_of_the_table_has_mutants_which_all_differ_from_it():
    for path in mutants.TESTS:
        every = mutants.mutants_of(f"optax_lena/{path}")
        assert every, path
        assert all(mutant.before != mutant.after for mutant in every)


def test_a_file_that_is_not_in_the_table_is_an_error_that_says_which_are(
    monkeypatch, capsys
):
    monkeypatch.setattr(sys, "argv", ["mutants", "--file", "optax_lena/plotting.py"])
    with pytest.raises(SystemExit):
        mutants.main()
    message = capsys.readouterr().err
    for part in ("optax_lena/_parts/guard.py", "got optax_lena/plotting.py", "TESTS"):
        assert part in message
