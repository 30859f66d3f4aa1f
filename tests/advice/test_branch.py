"""The branch test, and the command line with its figure."""

import json
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optax_lena
from optax_lena.__main__ import main
from optax_lena.plotting import plot_advice


def quadratic(dimension=400, noise=0.5):
    """Linear scaling on a quadratic: it diverges from rate 2 on, at S = 16."""

    @jax.jit
    def update(x, noise, rate):
        return x - rate * (x + noise), jnp.mean(x**2)

    def step(x, batch, batch_scale):
        return update(x, batch, 0.15 * batch_scale)

    def batches_for(batch_scale):
        rng = np.random.default_rng(0)
        while True:
            yield noise * rng.normal(size=(batch_scale, dimension)).mean(0)

    return step, jnp.zeros(dimension), batches_for


def test_finds_the_largest_scale():
    step, state, batches_for = quadratic()
    found = optax_lena.branch_test(
        step, state, batches_for, scales=(16, 1, 4), window=256, tolerance=0.03
    )
    assert found.scale == 4 and not found.is_bound
    assert list(found.losses) == [1, 4, 16]
    assert found.updates == {1: 256, 4: 64, 16: 16}
    assert "S = 4 keeps the loss within 0.03 after 256 base batches" in str(found)
    np.testing.assert_array_equal(state, 0)
    # Stationary: the variance at rate r with noise s^2 is s^2 r / (2 - r).
    assert found.losses[1] == pytest.approx(0.25 * 0.15 / 1.85, rel=0.1)
    assert found.losses[4] == pytest.approx(0.25 / 4 * 0.6 / 1.4, rel=0.1)
    strict = optax_lena.branch_test(
        step, state, batches_for, scales=(1, 4), window=256, tolerance=0.001
    )
    assert strict.scale == 1
    bound = optax_lena.branch_test(
        step, state, batches_for, (1, 2), window=256, tolerance=0.03
    )
    assert bound.is_bound and "2 or more" in str(bound)


@pytest.mark.parametrize(
    ("losses", "scale"),
    [
        ({1: 1.0, 2: 1.02, 4: 1.0}, 1),
        ({4: 1.0, 1: 1.0, 2: math.nan}, 1),
        ({8: 1.5, 4: 0.9, 2: 1.005, 1: 1.0}, 4),
        ({1: 1.0, 2: 1.0}, 2),
    ],
)
def test_the_search_ends_at_the_first_failure(losses, scale):
    """A larger scale that is within the tolerance again is so by chance."""
    found = optax_lena.BranchTest(losses, dict.fromkeys(losses, 1), 8, 0.01)
    assert found.scale == scale
    assert found.is_bound == (scale == max(losses))


@pytest.mark.parametrize("reference", [math.nan, math.inf])
def test_a_reference_that_diverged_recommends_nothing(reference):
    found = optax_lena.BranchTest({4: 2.0, 1: reference}, {1: 4, 4: 1}, 4, 0.01)
    assert math.isnan(found.scale) and not found.is_bound
    advice = optax_lena.advise({"model/noise_scale": np.full(9, 50.0)}, branch=found)
    for text in (str(found), str(advice)):
        assert "S = 1, the smallest, diverged: there is nothing" in text
        assert "keeps the loss" not in text and "agree" not in text
        assert "allows" not in text and "contradict" not in text
    step = lambda x, batch, scale: (x, reference if scale == 1 else 2.0)
    batches_for = lambda scale: [0] * 16
    found = optax_lena.branch_test(step, 0.0, batches_for, (1, 2, 4), window=16)
    assert math.isnan(found.scale)


def test_divergence_and_evaluation():
    step, state, batches_for = quadratic(noise=1e6)

    def broken(x, batch, batch_scale):
        return step(x, batch, 1000 * (batch_scale - 1) + 1)

    found = optax_lena.branch_test(broken, state, batches_for, (1, 2), window=64)
    assert np.isnan(found.losses[2]) and found.scale == 1
    seen = []

    def evaluate(x):
        seen.append(x)
        return len(seen)

    step, state, batches_for = quadratic()
    found = optax_lena.branch_test(
        step, state, batches_for, (1, 2), window=4, evaluate=evaluate
    )
    assert found.losses == {1: 1, 2: 2} and len(seen) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scales": (4,)}, "two or more different whole numbers"),
        ({"scales": (0, 4)}, "two or more different whole numbers"),
        ({"scales": (1, 2.5)}, "two or more different whole numbers"),
        ({"window": 100, "scales": (1, 8)}, r"`window` must be a multiple .* \[8\]"),
        ({"window": 4, "scales": (1, 8)}, "`window` must be a multiple"),
        ({"end": 0}, "`end` must be a finite number in"),
        ({"window": 4096}, r"`batches_for\(1\)` must yield 4096 batches, got 10"),
    ],
)
def test_bad_branches(options, words):
    step, state, _ = quadratic()
    few = lambda scale: [np.zeros(400)] * 10
    with pytest.raises(ValueError, match=words):
        optax_lena.branch_test(step, state, few, **options)


@pytest.fixture
def log(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "run.jsonl"
    with path.open("w") as file:
        for t in range(60):
            layers = {f"block_{i}/kernel": (1.0, 0.02 + 0.01 * i) for i in range(30)}
            row = {"model/base_steps": 8.0 * (t + 1), "model/gain": 2.0}
            for name, (noise, signal) in layers.items():
                row[f"noise/{name}"] = noise * float(np.exp(rng.normal(0, 0.2)))
                row[f"signal/{name}"] = signal * (0 if t < 2 else 1)
            file.write(json.dumps(row) + "\n")
    return path


def test_command_line(log, tmp_path, capsys):
    picture = tmp_path / "advice.png"
    options = ["--base-batch", "32", "--efficiency", "0.5", "--seconds", "1=0.1"]
    options += ["8=0.3", "--point", "8=1.2", "64=3.5", "--figure", str(picture)]
    assert main(["advise", str(log), *options]) == 0
    out, err = capsys.readouterr()
    assert not err
    advice = optax_lena.advise(
        log, base_batch=32, efficiency=0.5, seconds={1: 0.1, 8: 0.3}
    )
    assert str(advice) in out and str(picture) in out
    assert "100 % more examples" in out.replace("\n", " ")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_runs_as_a_module(log):
    command = [sys.executable, "-m", "optax_lena", "advise", str(log)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Critical batch scale: S = ")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "COMMAND"),
        (["advice"], "invalid choice"),
        (["advise"], "RUN.jsonl"),
        (["advise", "none.jsonl"], "No such file"),
        (
            ["advise", "LOG", "--efficiency", "2"],
            "`efficiency` must be a finite number in",
        ),
        (["advise", "LOG", "--efficiency", "x"], "invalid float value"),
        (["advise", "LOG", "--base-batch", "0"], "`base_batch` must be"),
        (["advise", "LOG", "--seconds", "8"], "two numbers like 8=0.31, got '8'"),
        (["advise", "LOG", "--seconds", "8=1"], "`seconds` must hold"),
        (["advise", "LOG", "--figure", "a.unknown"], "not supported"),
        (["advise", "LOG", "--point", "8=1.2"], "give `--figure` too"),
        (["advise", "LOG", "--colour"], "unrecognized arguments"),
    ],
)
def test_bad_options(log, options, words, capsys):
    options = [str(log) if option == "LOG" else option for option in options]
    try:
        code = main(options)
    except SystemExit as stop:
        code = stop.code
    err = capsys.readouterr().err
    assert code == 2
    assert words in err and err.count("\n") == 1


def test_figures(log):
    advice = optax_lena.advise(log, base_batch=32)
    figure = plot_advice(advice, [(8, 1.1), (64, 2.0)])
    left, right = figure.axes[:2]
    labels = left.get_legend_handles_labels()[1]
    assert labels == ["interval", "predicted", "measured"]
    names = [label.get_text() for label in right.get_yticklabels()]
    assert names[0] == "block_0/kernel" and len(names) <= 30
    # Without layers, without time, without noise: one panel, and no failure.
    for source in (
        {"model/noise_scale": np.full(20, 30.0)},
        {"model/noise_scale": 30.0},
        {"model/noise": np.full(20, 1.0), "model/signal": np.zeros(20)},
        {"model/noise": np.zeros(20), "model/signal": np.ones(20)},
    ):
        figure = plot_advice(optax_lena.advise(source))
        figure.canvas.draw()
        assert len(figure.axes) == 1
    constant = {"noise/a": np.zeros(9), "signal/a": np.ones(9)}
    plot_advice(optax_lena.advise(constant | {"model/gain": np.ones(9)})).canvas.draw()
