"""What an advice prints fits into 79 columns, whatever it speaks of."""

import math

import numpy as np
import pytest

import optax_lena

LONG = "decoder/" + "transformer_block_with_a_long_name/" * 3


def widest(text):
    return max(map(len, str(text).splitlines()))


@pytest.mark.parametrize("noise_scale", [1e-9, 50.0, 7e8, 1e30])
@pytest.mark.parametrize("base_batch", [None, 10**6, 10**15])
@pytest.mark.parametrize("steps", [1.0, 1e8, 1e30])
@pytest.mark.parametrize("efficiency", [1e-6, 1 / 1.2])
def test_no_line_is_long(noise_scale, base_batch, steps, efficiency):
    rng = np.random.default_rng(0)
    history = {
        "model/base_steps": steps * np.arange(1, 31),
        "model/noise": noise_scale * np.exp(rng.normal(0, 1, 30)),
        "model/signal": np.ones(30),
    }
    for name in ("kernel", "bias"):
        history[f"noise/{LONG}{name}"] = history[f"signal/{LONG}{name}"] = np.ones(30)
    for seconds in (None, {1: 0.1, 8: 0.8}, {1: 1e-9, 8: 1e9}):
        advice = optax_lena.advise(
            history, base_batch=base_batch, efficiency=efficiency, seconds=seconds
        )
        assert widest(advice) <= 79


@pytest.mark.parametrize("loss", [2.0, 1e30, math.nan])
def test_no_line_of_a_branch_is_long(loss):
    losses = {1: loss, 2**20: -loss, 2**21: math.nan}
    updates = {scale: 2**40 // scale for scale in losses}
    branch = optax_lena.BranchTest(losses, updates, 2**40, 1.23456e-5)
    history = {"model/noise_scale": np.full(9, 50.0)}
    assert widest(branch) <= 79
    assert widest(optax_lena.advise(history, branch=branch)) <= 79


def test_a_long_name_keeps_its_end():
    history = {"model/noise_scale": np.full(9, 50.0)}
    for name in ("block/kernel", LONG + "kernel"):
        history |= {f"noise/{name}": np.ones(9), f"signal/{name}": np.ones(9)}
    text = str(optax_lena.advise(history))
    assert "  block/kernel\n" in text
    assert "  ..." in text and "_with_a_long_name/kernel\n" in text
