"""Logs of a run, and whether a source is read as they are."""

import numpy as np

import optax_lena


def entries(count=20):
    return [
        {"model/noise": 50.0 + t, "model/signal": 1.0, "model/base_steps": 8.0 * t + 8}
        for t in range(count)
    ]


def assert_same(source, rows):
    ours, theirs = (optax_lena.advise(x) for x in (source, rows))
    assert ours.interval == theirs.interval
    for field in ("base_steps", "weights", "noise_scale"):
        ours_are, theirs_are = (getattr(x.history, field) for x in (ours, theirs))
        np.testing.assert_array_equal(ours_are, theirs_are)
