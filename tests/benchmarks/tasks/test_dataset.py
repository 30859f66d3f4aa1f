"""Data sets: what they refuse, their splits, and the stream of examples."""

import dataclasses

import numpy as np
import pytest

from benchmarks.tasks.dataset import digits, folds, hold_out
from benchmarks.tasks.stream import index_stream
from benchmarks.tasks.text import source_text


def test_digits_are_split_by_class_and_folds_leave_the_test_set_out():
    dataset = digits()
    shares = np.bincount(dataset.y_test) / np.bincount(dataset.y_train)
    np.testing.assert_allclose(shares, 0.25, atol=0.01)
    parts = folds(dataset, 5)
    assert sum(len(part.y_test) for part in parts) == len(dataset.y_train)


def test_the_validation_set_is_taken_out_of_the_training_set():
    dataset = digits()
    test, validation = (hold_out(dataset, validation=flag) for flag in (False, True))
    np.testing.assert_array_equal(test.x_train, validation.x_train)
    np.testing.assert_array_equal(test.y_test, dataset.y_test)
    assert len(validation.y_test) + len(test.y_train) == len(dataset.y_train)


def test_source_text_gives_windows_and_successors():
    one = source_text(5, num_train=7, num_test=3)
    assert one.x_train.shape == (7, 5) and one.y_test.shape == (3,)
    every = source_text(5, sequences=True, num_train=7, num_test=3)
    np.testing.assert_array_equal(every.x_train[:, 1:], every.y_train[:, :-1])
    np.testing.assert_array_equal(every.y_train[:, -1], one.y_train)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_train": np.zeros(3, np.int32)}, "1437 examples and 3 labels"),
        ({"x_test": np.zeros((0, 64), np.float32)}, "0 examples and 360 labels"),
        ({"num_classes": 9}, "labels must be 0 to 8, got 0 to 9"),
        ({"y_test": np.full(360, -1, np.int32)}, "got -1 to -1"),
        ({"x_test": np.full((360, 64), np.nan)}, "digits, test: .* must be finite"),
    ],
)
def test_a_data_set_that_does_not_fit_together_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(digits(), **change)


def test_the_index_stream_loses_nothing_and_starts_anywhere():
    stream = index_stream(10, seed=3, start=0, stop=35)
    for epoch in range(3):
        assert sorted(stream[10 * epoch : 10 * epoch + 10]) == list(range(10))
    np.testing.assert_array_equal(index_stream(10, 3, 17, 35), stream[17:])
    assert not np.array_equal(stream, index_stream(10, 4, 0, 35))
