"""Files of records: whole or not there, through kills, full disks and other writers."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from benchmarks.records import __main__ as program
from benchmarks.records import files
from benchmarks.records.home import ROOT, kept
from benchmarks.records.record import Record, read_records
from benchmarks.training.tables import TABLES
from tests.benchmarks.helpers import errors_of, record
from tests.benchmarks.records.writer_worker import TEXT, Note

WORKER = [sys.executable, "-m", "tests.benchmarks.records.writer_worker"]
KILLS = 25


def notes(numbers, text=""):
    return [Note("a", number, text) for number in numbers]


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "new" / "notes.jsonl"
    files.append(notes([0]), path)
    files.append(notes([1, 2]), path)
    assert files.read(path, Note) == notes([0, 1, 2])
    path.chmod(0o640)
    files.rewrite(notes([3]), path)
    assert files.read(path, Note) == notes([3])
    assert path.stat().st_mode & 0o777 == 0o640
    assert [each.name for each in path.parent.iterdir()] == ["notes.jsonl"]
    assert files.read_if_there(tmp_path / "none", Note) == []


def test_updates_to_target_and_numbers_that_are_not_finite(tmp_path):
    one = record("lena", 8, 0.9)
    assert one.updates_to(0.05) == 1
    assert one.updates_to(0.85) == 2
    assert one.updates_to(0.95) is None
    path = tmp_path / "r.jsonl"
    files.append([one], path)
    assert json.loads(path.read_text())["train_loss"] == [1, None]
    assert np.isnan(read_records(path)[0].train_loss[1])


def test_a_whole_line_without_its_end_is_whole(tmp_path):
    path = tmp_path / "notes.jsonl"
    files.append(notes([0, 1]), path)
    path.write_bytes(path.read_bytes()[:-1])
    assert files.read(path, Note) == notes([0, 1])
    assert files.drop_broken(path, Note) == 0
    files.append(notes([2]), path)
    assert files.read(path, Note) == notes([0, 1, 2])


def test_every_cut_of_a_line_is_told(tmp_path):
    path = tmp_path / "notes.jsonl"
    files.append(notes([0, 1]), path)
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for length in range(first + 1, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(files.BrokenLine, match="line 2: .*half a line"):
            files.read(path, Note)


BROKEN = {
    "half": ('{"workload": "toy", "met', "half a line"),
    "half with an end": ('{"workload": "toy", "met\n', "no JSON"),
    "two in one": ('{"writer": "a"}{"writer": "b"}\n', "no JSON"),
    "a list": ("[1, 2]\n", "list in place of an object"),
    "nothing": ("\n", "no JSON"),
    "no text": ("\xff\xfe\n", "no JSON|decode"),
    "deep": ("[" * 100_000 + "\n", "no JSON"),
    "other fields": (
        '{"writer": "a", "page": 1}\n',
        "no field 'number', a field 'page'",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_line_is_told_and_skipped_only_on_request(name, tmp_path):
    path, (line, message) = tmp_path / "notes.jsonl", BROKEN[name]
    files.append(notes([0, 1]), path)
    with path.open("ab") as file:
        file.write(line.encode("latin-1"))
    with pytest.raises(files.BrokenLine, match=rf"notes.jsonl, line 3: .*({message})"):
        files.read(path, Note)
    assert files.read(path, Note, skip_broken=True) == notes([0, 1])

    # An addition neither hides it nor is lost to it.
    files.append(notes([2]), path)
    with pytest.raises(files.BrokenLine, match="line 3"):
        files.read(path, Note)
    assert files.read(path, Note, skip_broken=True) == notes([0, 1, 2])
    assert files.drop_broken(path, Note) == 1
    assert files.read(path, Note) == notes([0, 1, 2])
    assert files.drop_broken(path, Note) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_accuracy": [0.1]}, "1 values of test_accuracy at 2 evaluations"),
        ({"train_loss": []}, "0 values of train_loss at 2 evaluations"),
        ({"test_accuracy": [0.1, 1.2]}, "a test accuracy outside"),
        ({"updates": [1, 3]}, "no evaluation after 2 updates"),
        ({"layers": 3}, "int as field 'layers'"),
    ],
)
def test_a_line_that_is_no_run_is_told(change, message, tmp_path, capsys):
    path = tmp_path / "runs.jsonl"
    files.append([record("lena", 8, 0.9)], path)
    fields = json.loads(path.read_text()) | change
    with path.open("a") as file:
        file.write(json.dumps(fields) + "\n")
    line, code = errors_of(program.main, [path], capsys)
    assert code == 1 and "runs.jsonl, line 2: " in line
    assert message in line and "--drop-broken" in line
    program.main([str(path), "--drop-broken"])
    assert "1 records, 1 lines dropped" in capsys.readouterr().out
    program.main([str(path)])
    assert capsys.readouterr().out == f"{path}: 1 records\n"


def kill_at_some_time(kind, path, wait):
    """Starts a writer and kills it; returns the numbers that it had finished."""
    with subprocess.Popen(
        [*WORKER, kind, path], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        first = process.stdout.readline()
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        return [int(line) for line in [first, *process.stdout]]


@pytest.mark.parametrize("kind", ["appends", "rewrites"])
def test_kills_lose_nothing_that_was_finished(kind, tmp_path):
    path, finished = tmp_path / "notes.jsonl", 0
    waits = np.random.default_rng(0).uniform(0, 0.02, KILLS)
    for wait in waits:
        numbers = kill_at_some_time(kind, path, wait)
        found = files.read(path, Note)
        assert {note.text for note in found} == {TEXT}
        if kind == "appends":
            # The last one may be in the file and not yet told.
            finished += len(numbers)
            assert len(found) - finished in (0, 1)
            finished = len(found)
        else:
            assert len(found) == 20 and len({note.number for note in found}) == 1
            assert found[0].number - numbers[-1] in (0, 1)
    print(f"{KILLS} kills during {kind}, {len(files.read(path, Note))} records left")
    files.append(notes([7]), path)
    assert [each.name for each in tmp_path.iterdir()] == ["notes.jsonl"]


def test_two_writers_do_not_interleave(tmp_path):
    path = tmp_path / "notes.jsonl"
    writers = [
        subprocess.Popen(
            [*WORKER, "appends", path, name, "20"],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
        )
        for name in "ab"
    ]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
    found = files.read(path, Note)
    for name in "ab":
        own = [note.number for note in found if note.writer == name]
        assert own == list(range(20))


@contextlib.contextmanager
def small_disk(folder):
    """A disk of 1 MB, where we may mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True)
    except FileNotFoundError:
        done = None
    if done is None or done.returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill_up(folder, path):
    """Adds until there is no room, and does not stop at the first time."""
    written, failed = 0, 0
    while failed < 3:
        try:
            files.append(notes([written], TEXT), path)
            written += 1
        except OSError as error:
            assert error.errno == errno.ENOSPC
            failed += 1
    return written


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    with small_disk(tmp_path / "disk") as folder:
        if folder is None:
            folder = tmp_path / "disk"
            limit_writes(monkeypatch, 500_000)
        path = folder / "notes.jsonl"
        written = fill_up(folder, path)
        assert written > 2
        assert files.read(path, Note) == notes(range(written), TEXT)
        with pytest.raises(OSError):
            files.rewrite(notes(range(20), TEXT), path)
        assert files.read(path, Note) == notes(range(written), TEXT)
        assert [each.name for each in folder.iterdir()] == ["notes.jsonl"]
        files.rewrite(notes([1]), path)
        assert files.read(path, Note) == notes([1])


def limit_writes(monkeypatch, size):
    """Lets no file be larger: a disk that is full for whoever may not mount one."""
    fsync = os.fsync

    def full(handle):
        if os.fstat(handle).st_size > size:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)


def test_a_simulated_full_disk_loses_nothing(tmp_path, monkeypatch):
    limit_writes(monkeypatch, 500_000)
    path = tmp_path / "notes.jsonl"
    written = fill_up(tmp_path, path)
    assert files.read(path, Note) == notes(range(written), TEXT)


def test_no_run_of_the_results_is_broken():
    for name in TABLES:
        files.read_if_there(kept(name), Record)
