"""Hostile files: none runs code, imports, ends the interpreter or takes 2 GB."""

import pickle
import subprocess
import sys
import zlib

import numpy as np
import pytest

from benchmarks.records.home import ROOT
from benchmarks.tasks import pickles
from tests.benchmarks.helpers import write_batch


def text(value):
    raw = value.encode()
    return b"X" + len(raw).to_bytes(4, "little") + raw


def call(module, name, arguments=b")"):
    return f"\x80\x02c{module}\n{name}\n".encode() + arguments + b"R."


def array_of(dtype, content, shape=b"K\x01\x85"):
    """An array as NumPy pickles it, of any dtype, over the bytes that are given."""
    return (
        b"\x80\x02}U\x04data"
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R("
        b"K\x01"
        + shape
        + b"cnumpy\ndtype\nU"
        + bytes([len(dtype)])
        + dtype
        + b"K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb\x89"
        + b"B"
        + len(content).to_bytes(4, "little")
        + content
        + b"tbs."
    )


def laughs():
    """Lists of the list before, ten times each: 10^30 elements if anyone counts."""
    lists = b"]q\x00"
    for i in range(1, 31):
        before = b"h" + bytes([i - 1])
        lists += b"](" + 10 * before + b"eq" + bytes([i])
    return b"\x80\x02}U\x06labels(" + lists + b"ts."


class Runs:
    def __reduce__(self):
        return print, ("FORBIDDEN code ran",)


def bomb(gigabytes):
    """A gzip file of zeros behind an IDX header: one compressed block, repeated."""
    block = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = block.compress(bytes(10_000_000)) + block.flush(zlib.Z_FULL_FLUSH)
    start = zlib.compressobj(9, zlib.DEFLATED, -15)
    header = bytes([0, 0, 8, 3]) + np.array([1000, 28, 28], ">u4").tobytes()
    head = start.compress(header) + start.flush(zlib.Z_FULL_FLUSH)
    gzip_header = b"\x1f\x8b\x08" + bytes(6) + b"\xff"
    return gzip_header + head + piece * (100 * gigabytes)


HOSTILE = {
    "runs_print": pickle.dumps(Runs()),
    "runs_a_shell": call("os", "system", text("echo FORBIDDEN") + b"\x85"),
    "evaluates": call("builtins", "eval", text("print('FORBIDDEN')") + b"\x85"),
    "imports": call("builtins", "__import__", text("antigravity") + b"\x85"),
    "imports_by_name": b"\x80\x02cthis\ns\n.",
    "imports_of_numpy": b"\x80\x02cnumpy.f2py.crackfortran\n_reconstruct\n.",
    "imports_by_stack": b"\x80\x04" + text("os") + text("system") + b"\x93.",
    "loads_with_numpy": call("numpy", "load", text("somewhere.npy") + b"\x85"),
    "objects_over_bytes": array_of(b"O8", b"\x41" * 8),
    "objects_in_fields": array_of(b"V8", b"\x41" * 8),
    "instance": b"\x80\x02(" + text("echo FORBIDDEN") + b"ios\nsystem\n.",
    "object": b"\x80\x02(cos\nsystem\n" + text("echo FORBIDDEN") + b"o.",
    "new_object": b"\x80\x02csubprocess\nPopen\n" + text("true") + b"\x85\x81.",
    "extension": b"\x80\x02\x82\x01.",
    "persistent": b"\x80\x02" + text("id") + b"Q.",
    "state_of_a_dict": b"\x80\x02}}" + text("__class__") + b"K\x01sb.",
    "call_of_text": b"\x80\x02" + text("os.system") + b")R.",
    "codec_of_its_own": call("_codecs", "encode", text("x") + text("zip") + b"\x86"),
    "negative_shape": array_of(b"u1", b"12", b"J\xff\xff\xff\xffJ\xfe\xff\xff\xff\x86"),
    "huge_shape": array_of(b"u1", b"12", b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86"),
    "huge_length": b"\x80\x04\x8e" + b"\xff" * 8 + b".",
    "huge_memo": b"\x80\x02}r\xff\xff\xff\xff.",
    "deep": b"\x80\x02)" + b"\x85" * 900_000 + b".",
    "deep_array": array_of(b"u1", b"12", b")" + b"\x85" * 900_000),
    "long": b"\x80\x02](" + b"K\x01" * 1_000_001 + b"e.",
    "laughs": laughs(),
    "marks": b"\x80\x02" + b"(" * 1000 + b"t.",
    "pops_nothing": b"\x80\x02s.",
    "no_end": b"\x80\x02}",
    "a_number_of_a_million_digits": b"I" + b"9" * 1_000_000 + b"\n.",
    "six_gigabytes.gz": bomb(6),
}


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What a process with 2 GB says of every file."""
    folder = tmp_path_factory.mktemp("hostile")
    for name, raw in HOSTILE.items():
        (folder / name).write_bytes(raw)
    good = folder.parent / "good"
    write_batch(good, range(4))
    command = [sys.executable, "-m", "tests.benchmarks.tasks.hostile_worker"]
    done = subprocess.run(
        [*command, folder, good], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "FORBIDDEN" not in done.stdout.replace("echo FORBIDDEN", "")
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_and_does_nothing(name, said):
    assert said[name].startswith("refused: "), said[name]
    assert len(said[name]) < 700


def test_there_are_enough_hostile_files(said):
    print(f"{len(HOSTILE)} hostile files")
    assert len(said) == len(HOSTILE) >= 10


def test_plain_values_are_read():
    value = {"a": b"1", b"b": [1, 2, 300, 70000], "c": (), "d": (None, True, False)}
    for protocol in (2, 3, 4, 5):
        found = pickles.parse(pickle.dumps(value, protocol=protocol))
        assert found == {"a": b"1", "b": [1, 2, 300, 70000], "c": (), "d": value["d"]}


def test_every_cut_of_a_good_file_is_refused():
    raw = pickle.dumps({"data": np.ones((1, 3), np.uint8), "labels": [1]}, protocol=2)
    for length in range(len(raw)):
        with pytest.raises(pickles.NotPlain):
            pickles.parse(raw[:length])


def test_every_flipped_byte_is_refused_or_still_plain():
    raw = pickle.dumps({"data": np.ones((1, 3), np.uint8), "labels": [1]}, protocol=2)
    for place in range(len(raw)):
        for flip in (1, 64, 255):
            broken = raw[:place] + bytes([raw[place] ^ flip]) + raw[place + 1 :]
            try:
                assert isinstance(pickles.parse(broken), dict)
            except pickles.NotPlain:
                pass
