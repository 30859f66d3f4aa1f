"""What counts for a seed that does not reach the target."""

import numpy as np
import pytest

from benchmarks.pages.outcomes import outcomes
from tests.benchmarks.helpers import record


@pytest.mark.parametrize(
    ("updates", "accuracy", "given"),
    [
        ([4, 8], [0.6, 0.7], 8),  # ended with the base run's examples, untried beyond
        ([8, 20], [0.6, 0.7], 20),  # was let on, for 2.5 times as many
        ([4, 8], [0.1, 0.1], 20),  # had failed by then
    ],
)
def test_it_counts_with_the_updates_that_it_had(updates, accuracy, given):
    run = record(
        "lena",
        16,
        None,
        base_steps=128,
        updates=updates,
        train_loss=[1.0, 1.0],
        test_accuracy=accuracy,
        layers={},
    )
    found = outcomes([run], target=0.8)["lena", 16]
    assert found.reached == 0
    np.testing.assert_array_equal(found.counted, [given])
