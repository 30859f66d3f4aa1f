"""The block of AdamW at another batch: one measure, what is won back, an ablation."""

import pytest

from benchmarks.pages import adamw_block
from tests.benchmarks.helpers import record


def run(method, scale, accuracy, seed=0, split="test"):
    return record(
        method,
        scale,
        None,
        seed=seed,
        base_steps=128,
        updates=[128 // scale],
        train_loss=[1.0],
        test_accuracy=[accuracy],
        layers={},
        split=split,
    )


BASE = [run("base", 1, 0.60, seed) for seed in (0, 1)]
ROOT = [run("adamw_square_root", 64, 0.50 + seed / 100, seed) for seed in (0, 1)]
OURS = [run("lena_adamw", 64, 0.58, seed) for seed in (0, 1)]


@pytest.fixture(scope="module")
def block():
    whole = "lena_adamw_b1_b2_by_examples"
    ablated = [run(whole, 64, 0.57, split="validation")]
    once = [run("lena_adamw", 16, 0.59)]
    return adamw_block.block(BASE + ROOT, OURS + once + ablated)


def test_the_table(block):
    assert "60.0 ± 0.0 (2 seeds)" in block
    root = "| AdamW, square-root scaling | not recorded | 50.5 ± 0.5 |"
    assert root in block
    assert "**58.0 ± 0.0** |" in block and "**59.0** (1 seed)" in block


def test_what_is_won_back(block):
    """9.5 points are lost, and 2.0 remain."""
    assert "ends 2.0 points below the base run" in block
    assert "9.5 points: 79 % of what that loses is won back." in block


def test_the_ablation_is_of_validation_data(block):
    assert "| β1, β2 | 64 | 57.0 | 1 |" in block


def test_without_runs_of_its_own_it_is_a_table():
    block = adamw_block.block(BASE + ROOT, [])
    assert "won back" not in block and "counts examples" not in block
