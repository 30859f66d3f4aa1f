"""Logs that were not written as they should be: what is passed over, and what not."""

import csv
import json
import warnings

import numpy as np
import pytest

import optax_lena
from optax_lena.__main__ import main
from tests.advice.logs import assert_same, entries

ROWS = entries()
LINES = [json.dumps(row) for row in ROWS]
TABLE = [",".join(map(str, line)) for line in [ROWS[0], *(r.values() for r in ROWS)]]


def passed_over(path, words):
    """The history, and that the one warning says so of the call here."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        history = optax_lena.advise(path).history
    (warning,) = told
    assert warning.filename == __file__ and warning.category is RuntimeWarning
    assert str(path) in str(warning.message) and words in str(warning.message)
    return history


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ([LINES[10][:17] + LINES[10]], "line 11 is not JSON (Expecting ',' delimiter"),
        (
            [LINES[10][:17], LINES[10][:9]],
            "line 11 is not JSON (Expecting ',' delimiter",
        ),
        ([LINES[10][:17], LINES[10][:9]], ", and 1 more. What cannot be read"),
        (["\0" * 50], "line 11 is not JSON"),
        (["Traceback (most recent call last):"], "line 11 is not JSON"),
        (["[" * 100_000], "line 11 is not JSON"),
        (['{"model/noise": 1' + "0" * 5000 + "}"], "line 11 is not JSON"),
    ],
)
def test_a_broken_line_of_json_is_passed_over(broken, words, tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_text("\n".join([*LINES[:10], *broken, *LINES[11:]]))
    history = passed_over(path, words)
    kept = [row["model/base_steps"] for row in ROWS[:10] + ROWS[11:]]
    np.testing.assert_array_equal(history.base_steps, kept)
    # Nothing is said of the last line: a run that goes on may be writing it.
    path.write_text("\n".join([*LINES, LINES[10][:17]]))
    assert_same(path, ROWS)
    path.write_text("\n".join([*LINES, LINES[10][:17], ""]))
    passed_over(path, "line 21")


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (TABLE[11][:6] + TABLE[11], "line 12 has 4 cells, the first line 3"),
        (TABLE[11][:6], "line 12 has 2 cells, the first line 3"),
        ("x" * 200_000 + ",1,2", "line 12 is no row (field larger than field limit"),
    ],
)
def test_a_broken_line_of_a_table_is_passed_over(broken, words, tmp_path):
    """Its cells would stand in other columns: a base step of 1 undoes all before."""
    path = tmp_path / "run.CSV"
    path.write_text("\n".join([*TABLE[:11], broken, *TABLE[12:], ""]))
    history = passed_over(path, words)
    kept = [row["model/base_steps"] for row in ROWS[:10] + ROWS[11:]]
    np.testing.assert_array_equal(history.base_steps, kept)
    path.write_text("\n".join([*TABLE, TABLE[11][:6]]))
    assert_same(path, ROWS)


def test_a_character_cut_in_half(tmp_path):
    lines = [json.dumps(row | {"note": "é"}, ensure_ascii=False) for row in ROWS]
    data = [line.encode() for line in lines]
    cut = data[10][: data[10].index("é".encode()) + 1]
    path = tmp_path / "run.jsonl"
    path.write_bytes(b"\n".join([*data[:10], cut + data[10], *data[11:]]))
    history = passed_over(path, "no text in UTF-8")
    assert len(history.base_steps) == 19


def test_marks_inside_a_text_end_no_line(tmp_path):
    note = "one\u2028two\x85three\x0cfour"
    path = tmp_path / "run.jsonl"
    rows = [row | {"note": note.replace("\x0c", "")} for row in ROWS]
    path.write_text("\r\n".join(json.dumps(r, ensure_ascii=False) for r in rows))
    assert_same(path, ROWS)
    table = tmp_path / "run.tsv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["note", *ROWS[0]], delimiter="\t")
        writer.writeheader()
        writer.writerows(row | {"note": f"{note}\nfive"} for row in ROWS)
    assert_same(table, ROWS)


@pytest.mark.parametrize("suffix", [".CSV", ".Tsv", ".TSV"])
def test_a_table_by_its_name_in_capitals(suffix, tmp_path):
    path = tmp_path / f"run{suffix}"
    delimiter = "," if suffix == ".CSV" else "\t"
    # A delimiter at the end of a line begins a cell of nothing.
    lines = [TABLE[0], *(f"{line}," for line in TABLE[1:])]
    path.write_text("\n".join(lines).replace(",", delimiter))
    assert_same(path, ROWS)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.jsonl", "\n".join(TABLE), "line 1 is not JSON"),
        ("a.jsonl", json.dumps(ROWS, indent=2)[:-1], "line 1 is not JSON"),
        ("a.jsonl", '{"loss": 1}\nnonsense\n{"loss": 2}\n', "line 2 is not JSON"),
        ("a.jsonl", LINES[0][:17], "line 1 is not JSON"),
        ("a.jsonl", '{"loss": 1}\n' + LINES[0][:17], "got ['loss'] in 1 entries"),
        ("a.csv", "loss,x\n1\n", "line 2 has 1 cells, the first line 2"),
        ("a.csv", f"x,model/noise\n{'x' * 200_000},1\n", "line 2 is no row (field"),
    ],
)
def test_what_is_no_log_is_an_error(name, text, words, tmp_path, capsys):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError) as error:
        optax_lena.advise(path)
    assert words in str(error.value) and str(path) in str(error.value)
    assert main(["advise", str(path)]) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1


@pytest.mark.parametrize("indent", [None, 2])
def test_one_list_is_read_on_one_line_or_many(indent, tmp_path):
    path = tmp_path / "run.json"
    path.write_text(json.dumps(ROWS, indent=indent))
    assert_same(path, ROWS)


def test_the_command_line_warns_in_one_line(tmp_path, capsys):
    path = tmp_path / "run.jsonl"
    path.write_text("\n".join([*LINES[:10], "\n\nnonsense", *LINES[11:]]))
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(["advise", str(path)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("Critical batch scale")
    assert err.startswith(f"optax_lena: {path}: line 13 is not JSON")
    assert err.count("\n") == 1
