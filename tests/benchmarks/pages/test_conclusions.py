"""Conclusions: what the sentences say of runs whose numbers are known."""

from benchmarks.pages import conclusions
from benchmarks.pages.conclusions import OURS, SHOWN_BY_LAYER
from benchmarks.pages.outcomes import outcomes
from benchmarks.records.record import target_accuracy
from tests.benchmarks.helpers import record


def sentences(runs):
    return conclusions.sentences(runs, outcomes(runs, target_accuracy(runs, 0.005)))


def test_the_report_says_where_ours_is_not_best():
    finals = {
        ("base", 1): (0.98, 0.98),
        ("linear", 8): (0.97, 0.98),
        (OURS, 8): (0.90, 0.92),
        ("linear", 16): (0.10, 0.50),
        (OURS, 16): (0.97, 0.98),
        (SHOWN_BY_LAYER, 16): (0.96, 0.96),
    }
    runs = [record(*key, value) for key, pair in finals.items() for value in pair]
    at8, at16, layers = sentences(runs)
    assert "linear scaling is best with 97.5 %" in at8
    assert "amplified LENA is 6.5 points behind" in at8
    assert "amplified LENA is best with 97.5 %" in at16
    assert "linear scaling failed to train (worst seed 10.0 %)" in at16
    assert "highest in noisy (3.5) and lowest in calm (1.2)" in layers
    assert "1 of 2 layers had not ended theirs" in layers


def test_means_within_the_standard_error_are_level():
    finals = {
        ("base", 1): (0.98, 0.96),
        ("linear", 8): (0.97, 0.98),
        (OURS, 8): (0.96, 0.98),
    }
    runs = [record(*key, value) for key, pair in finals.items() for value in pair]
    text = sentences(runs)[0]
    assert "level with it, within the standard error: amplified LENA (97.0 %)" in text
    assert "amplified LENA ends level with the base run" in text
