"""The demo, from its command line to its figures."""

import pytest

from benchmarks import demo
from benchmarks.methods.registry import OF_DEMO
from benchmarks.records.record import read_records


@pytest.mark.slow
def test_the_demo_runs_from_end_to_end(tmp_path, capsys):
    demo.main(["--quick", "--seeds", "2", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "LENA" in printed
    assert "S = 16:" in printed
    runs = read_records(tmp_path / "records.jsonl")
    assert {run.method for run in runs} == {"base", *OF_DEMO}
    assert len(runs) == 2 * (1 + len(OF_DEMO))
    for name in ("accuracy.png", "trust_ratio.png", "warmup_factor.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
