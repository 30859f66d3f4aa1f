"""The curve through measured points: MLPerf's, exact ones, and bad ones."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

import optax_lena

# MLPerf's reference convergence points: github.com/mlcommons/logging (commit 7bbf792),
# mlperf_logging/rcp_checker/training_<round>/rcps_<benchmark>.json. Batch size, and the
# mean over runs of "Epochs to converge": epochs for ResNet, samples for the others.
# Hyperparameters were tuned for each batch size.
MLPERF = {
    # round 4.0.0, LARS
    "resnet": [
        (1632, 35.0),
        (3264, 35.2),
        (4096, 40.0),
        (8192, 42.0),
        (13056, 45.4),
        (32768, 56.0),
        (49152, 68.0),
        (58880, 79.9),
        (65536, 84.5),
        (67840, 85.857),
    ],
    # round 5.1.0, LAMB
    "bert": [
        (256, 2552704.0),
        (448, 2410629.565),
        (1536, 2777588.0),
        (3072, 2768215.2),
        (4096, 2843443.2),
        (4608, 2794752.0),
        (6144, 3321446.4),
        (6912, 3596122.4),
        (8192, 4191436.8),
        (8704, 4278144.0),
        (12288, 4470336.0),
        (13056, 4632576.0),
        (16384, 5504307.2),
    ],
    # round 5.1.0
    "llama31_8b": [
        (16, 161587.2),
        (32, 179404.8),
        (64, 226713.6),
        (96, 278640.0),
        (128, 345907.2),
    ],
    # round 5.0.0
    "llama31_405b": [
        (1008, 324576.0),
        (1152, 322560.0),
        (2304, 384000.0),
        (4608, 491520.0),
        (6912, 604800.0),
        (9216, 691200.0),
    ],
}
# E0, b, worst error: looked up before the code was written.
EXPECTED = {
    "resnet": (34.6, 46.9e3, 0.06),
    "bert": (2.32e6, 12.7e3, 0.13),
    "llama31_8b": (132e3, 84, 0.04),
    "llama31_405b": (275e3, 5.9e3, 0.02),
}


@pytest.mark.parametrize("name", MLPERF)
def test_mlperf(name):
    curve = optax_lena.fit_curve(MLPERF[name])
    base_examples, noise_scale, worst = EXPECTED[name]
    assert max(map(abs, curve.errors)) <= 0.13
    assert max(map(abs, curve.errors)) == pytest.approx(worst, abs=0.005)
    assert curve.base_examples == pytest.approx(base_examples, rel=0.01)
    assert curve.noise_scale == pytest.approx(noise_scale, rel=0.01)


@pytest.mark.parametrize(
    "points",
    [
        [(64, 150.0), (2, 101.5625), (8, 106.25)],
        [[2, 101.5625], [64, 150], [8, 106.25], [8, 106.25]],
        np.array([[2, 101.5625], [64, 150], [8, 106.25]]),
        jnp.array([[2, 101.5625], [64, 150], [8, 106.25]]),
        {64: 150, 2: 101.5625},
        (pair for pair in [(np.int32(64), np.float32(150)), ("2", 101.5625)]),
        zip(jnp.array([2.0, 64.0]), jnp.array([101.5625, 150.0]), strict=True),
    ],
)
def test_recovers_what_made_the_points(points):
    curve = optax_lena.fit_curve(points)
    assert curve.base_examples == pytest.approx(100, rel=1e-5)
    assert curve.noise_scale == pytest.approx(128, rel=1e-5)
    assert curve.examples(128) == pytest.approx(200, rel=1e-5)
    assert isinstance(curve.examples(128), float)
    np.testing.assert_allclose(curve.examples([64, 256]), [150, 300], rtol=1e-5)
    assert curve.efficiency(128) == pytest.approx(0.5)
    assert [s for s, _ in curve.points] == sorted(s for s, _ in curve.points)
    # 20 % more than ever smaller batches need; against the base batch 1.2 later.
    critical = curve.critical_scale()
    assert critical == pytest.approx(0.2 * 128)
    assert curve.examples(critical) == pytest.approx(1.2 * curve.base_examples)
    assert curve.examples(critical + 1.2) == pytest.approx(1.2 * curve.examples(1))
    assert curve.critical_scale(0.5) == pytest.approx(128)


def test_errors_count_relative():
    points = [(s, 10 * (1 + s / 5)) for s in (1, 10, 100)]
    points = [(s, e * f) for (s, e), f in zip(points, (1.1, 0.9, 1.1), strict=True)]
    scaled = [(1000 * s, e / 1e9) for s, e in points]
    one, other = optax_lena.fit_curve(points), optax_lena.fit_curve(scaled)
    np.testing.assert_allclose(one.errors, other.errors, atol=1e-9)
    assert max(map(abs, one.errors)) < 0.13


def test_falling_and_proportional_points_stay_on_the_edge():
    flat = optax_lena.fit_curve([(1, 110), (8, 100), (64, 90)])
    assert flat.noise_scale == math.inf
    assert 90 < flat.examples(1) == flat.examples(64) < 110
    steep = optax_lena.fit_curve([(1, 1), (8, 9), (64, 80)])
    assert steep.noise_scale == 0
    assert steep.examples(64) == pytest.approx(64 * steep.examples(1))


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ([], "pairs"),
        ([(1, 2)], "at least two different batch scales, got 1"),
        ([(8, 2), (8, 3)], "at least two different batch scales, got 8"),
        ([(1, 2), (0, 3)], r"positive and finite, got \(0, 3\) at place 1"),
        ([(1, 2), (8, -3)], "positive and finite"),
        ([(1, 2), (8, math.nan)], "did not reach the target"),
        ([(1, 2), (math.inf, 3)], "positive and finite"),
        ([(1, 2), (8, None)], "pairs of numbers"),
        ([(1, 2), ("eight", 3)], "pairs of numbers"),
        ([(1, 2, 3), (8, 3, 4)], r"shape \(2, 3\)"),
        ([(1, 2), (8,)], "pairs"),
        ([1, 2, 3], "pairs"),
        (7, "pairs"),
    ],
)
def test_bad_points(points, words):
    with pytest.raises(ValueError, match=words):
        optax_lena.fit_curve(points)


def test_bad_arguments():
    curve = optax_lena.fit_curve([(1, 1), (8, 2)])
    with pytest.raises(ValueError, match="must be positive and finite, got 0"):
        curve.examples(0)
    for efficiency in (0, 1, 1.2, math.nan):
        with pytest.raises(
            ValueError, match=r"`efficiency` must be a finite number in \(0, 1\)"
        ):
            curve.critical_scale(efficiency)
