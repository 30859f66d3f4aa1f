"""Memories: decays that count base batches, and their floors."""

import numpy as np
import pytest

from optax_lena import decay_at
from optax_lena._parts.memory import Memory


@pytest.mark.parametrize(
    ("decay", "batch_scale", "floor", "expected"),
    [
        (0.999, 64, 0.0, 0.999**64),
        (0.999, 64, 0.9, 0.999**64),
        (0.999, 512, 0.9, 0.9),
        (0.9, 2, 0.8, 0.81),
        (0.9, 16, 0.8, 0.8),
        (0.7, 16, 0.8, 0.7),  # tuned below the floor: as it was
        (0.0, 16, 0.0, 0.0),
        (0.81, 0.5, 0.85, 0.9),  # fewer examples: more is kept
        (0.999, 1, 0.9, np.float32(0.999)),
    ],
)
def test_decays(decay, batch_scale, floor, expected):
    np.testing.assert_allclose(decay_at(decay, batch_scale, floor), expected, rtol=1e-6)


@pytest.mark.parametrize("of", [float, np.float32])
@pytest.mark.parametrize("batch_scale", [0.25, 1, 3, 8, 1000])
@pytest.mark.parametrize("memory", [Memory(0.999, 0.9), Memory(0.9, 0.8)])
def test_numbers_and_arrays_agree(memory, batch_scale, of):
    """And the decay is that of the steps that are said to be forgotten."""
    kept, added, steps = memory.forget(of(batch_scale))
    np.testing.assert_allclose(kept, memory.decay ** float(steps), rtol=1e-5)
    np.testing.assert_allclose(added, 1 - memory.decay ** float(steps), rtol=3e-5)
    assert (steps == 1) == (batch_scale == 1)


def test_an_average_of_the_parameters_forgets_as_much_in_one_update_as_in_many_steps():
    average, seen = 0.0, np.arange(32.0)
    for _ in range(32):
        average += (1 - 0.9) * (seen[-1] - average)
    kept = float(decay_at(0.9, 32))
    np.testing.assert_allclose((1 - kept) * seen[-1], average, rtol=1e-6)
