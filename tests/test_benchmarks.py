"""Benchmarks: loaders on tiny files, the model, one short run, and the demo."""

import dataclasses
import gzip
import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks import data, demo, plan, records, report, train, workloads
from benchmarks.models import ConvNet, patches

RNG = np.random.default_rng(0)


def write_idx(path, array, compress):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    raw = header + array.astype(np.uint8).tobytes()
    if compress:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(raw))
    else:
        path.write_bytes(raw)


def write_mnist(folder, compress):
    folder.mkdir(parents=True)
    arrays = [
        RNG.integers(0, 256, (20, 28, 28)),
        np.arange(20) % 10,
        RNG.integers(0, 256, (10, 28, 28)),
        np.arange(10),
    ]
    for name, array in zip(data.IDX_NAMES, arrays, strict=True):
        write_idx(folder / name, array, compress)
    return arrays


def write_cifar(path, labels, key):
    images = RNG.integers(0, 256, (len(labels), 3072), np.uint8)
    path.write_bytes(pickle.dumps({b"data": images, key: list(labels)}, protocol=2))
    return images


@pytest.mark.parametrize("compress", [False, True])
def test_idx_files_load_gzipped_or_not_and_one_level_down(tmp_path, compress):
    images, labels, _, test_labels = write_mnist(tmp_path / "raw", compress)
    dataset = data.load(tmp_path)
    assert dataset.num_classes == 10
    assert dataset.x_train.shape == (20, 28, 28, 1)
    assert dataset.x_test.shape == (10, 28, 28, 1)
    np.testing.assert_array_equal(dataset.y_train, labels)
    np.testing.assert_array_equal(dataset.y_test, test_labels)
    np.testing.assert_allclose(dataset.x_train.mean(), 0, atol=1e-5)
    expected = (images - images.mean()) / images.std()
    np.testing.assert_allclose(dataset.x_train[..., 0], expected, rtol=1e-3, atol=1e-4)


def test_cifar10_batches_load(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in (*data.CIFAR10_TRAIN, "test_batch"):
        images = write_cifar(folder / name, range(4), b"labels")
    dataset = data.load(tmp_path)
    assert (dataset.name, dataset.num_classes) == ("CIFAR-10", 10)
    assert dataset.x_train.shape == (20, 32, 32, 3)
    # A row holds the red plane, then the green, then the blue one.
    red = images[0, :1024].reshape(32, 32).astype(float)
    np.testing.assert_allclose(np.corrcoef(dataset.x_test[0, ..., 0].flat, red.flat), 1)


def test_cifar100_loads_its_fine_labels(tmp_path):
    for name in ("train", "test"):
        write_cifar(tmp_path / name, [7, 99, 3], b"fine_labels")
    (tmp_path / "meta").touch()
    dataset = data.load(tmp_path)
    assert (dataset.name, dataset.num_classes) == ("CIFAR-100", 100)
    assert dataset.y_test.tolist() == [7, 99, 3]


def test_a_folder_with_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"must hold IDX files .*got .*notes\.txt"):
        data.load(tmp_path)
    with pytest.raises(ValueError, match="nothing in it"):
        data.load(tmp_path / "missing")
    with pytest.raises(SystemExit, match="error: The data folder must hold"):
        demo.main(["--data", str(tmp_path)])


def test_a_pickle_that_is_no_array_is_refused(tmp_path):
    for name in (*data.CIFAR10_TRAIN, "test_batch"):
        (tmp_path / name).write_bytes(pickle.dumps({b"data": print}))
    with pytest.raises(ValueError, match=r"must hold arrays only, got .*print"):
        data.load(tmp_path)


def test_broken_idx_files_are_refused(tmp_path):
    write_mnist(tmp_path / "a", compress=False)
    path = tmp_path / "a" / data.IDX_NAMES[0]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="must hold"):
        data.load(tmp_path)
    path.write_bytes(b"no IDX")
    with pytest.raises(ValueError, match="must be an IDX file"):
        data.load(tmp_path)


def test_subsets_are_the_same_every_time(tmp_path):
    write_mnist(tmp_path / "a", compress=False)
    first, second = (data.load(tmp_path, max_train=7, max_test=4) for _ in range(2))
    assert first.x_train.shape[0] == 7
    assert first.x_test.shape[0] == 4
    np.testing.assert_array_equal(first.y_train, second.y_train)


def test_digits_are_split_by_class_and_folds_leave_the_test_set_out():
    digits = data.load()
    shares = np.bincount(digits.y_test) / np.bincount(digits.y_train)
    np.testing.assert_allclose(shares, 0.25, atol=0.01)
    folds = data.folds(digits, 5)
    assert sum(len(fold.y_test) for fold in folds) == len(digits.y_train)


def test_the_index_stream_loses_nothing_and_starts_anywhere():
    stream = data.index_stream(10, seed=3, start=0, stop=35)
    for epoch in range(3):
        assert sorted(stream[10 * epoch : 10 * epoch + 10]) == list(range(10))
    np.testing.assert_array_equal(data.index_stream(10, 3, 17, 35), stream[17:])
    assert not np.array_equal(stream, data.index_stream(10, 4, 0, 35))


@pytest.mark.parametrize(("size", "stride"), [(3, 2), (4, 4), (5, 3)])
def test_patches_times_a_matrix_is_a_convolution(size, stride):
    x = RNG.normal(size=(2, 13, 10, 3)).astype(np.float32)
    kernel = RNG.normal(size=(size, size, 3, 4)).astype(np.float32)
    expected = jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    windows = jax.jit(patches, static_argnums=(1, 2))(x, size, stride)
    result = windows @ kernel.reshape(-1, 4)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("shape", "classes"), [((28, 28, 1), 10), ((32, 32, 3), 100)])
def test_the_conv_net_gives_logits(shape, classes):
    def logits():
        return ConvNet(shape, classes, rngs=nnx.Rngs(0))(jnp.zeros((2, *shape)))

    assert nnx.eval_shape(logits).shape == (2, classes)


def tiny_workload():
    recipe = dataclasses.replace(workloads.DIGITS, epochs=0.5)
    workload = workloads.digits(data.load())
    return dataclasses.replace(workload, recipe=recipe, eval_every=8)


def test_the_same_seed_gives_the_same_record(tmp_path):
    workload = tiny_workload()
    both = train.run(workload, plan.Config("adascale", 4, seeds=(0, 1)))
    again = train.run(workload, plan.Config("adascale", 4, seeds=(0, 1)))
    for one, other in zip(both, again, strict=True):
        assert dataclasses.replace(one, seconds=0) == dataclasses.replace(
            other, seconds=0
        )
    assert both[0].train_loss != both[1].train_loss
    clock = both[0].layers["model/gain_steps"]
    assert clock[-1] >= both[0].base_steps > clock[-2]

    records.write(both, tmp_path / "records.jsonl")
    read = records.read(tmp_path / "records.jsonl")
    assert read[0].updates == both[0].updates
    np.testing.assert_allclose(read[0].test_accuracy, both[0].test_accuracy, rtol=1e-3)


def test_a_batch_scale_must_divide_the_evaluation_interval():
    with pytest.raises(ValueError, match="`batch_scale` must divide the 8 base"):
        plan.make_plan(tiny_workload(), plan.Config("lena", 3, seeds=(0,)))


def record(method, scale, accuracy, **kwargs):
    layers = {
        "trust_ratio/calm": [1.0, 1.5],
        "trust_ratio/noisy": [3.0, 4.0],
        "warmup_end/calm": [-1.0, -1.0],
        "warmup_end/noisy": [-1.0, 40.0],
    }
    fields = {
        "workload": "toy",
        "method": method,
        "batch_scale": scale,
        "num_microbatches": None,
        "seed": 0,
        "recipe": {},
        "base_steps": 100,
        "updates": [1, 2],
        "train_loss": [1.0, float("nan")],
        "test_accuracy": [0.1, accuracy],
        "layers": layers if method == "lena" else {},
        "seconds": 1.0,
        "environment": {},
    }
    return records.Record(**{**fields, **kwargs})


def sentences(runs):
    target = report.target_accuracy(runs, 0.005)
    return report.conclusions(runs, report.summarise(runs, target))


def test_the_report_says_where_lena_is_not_best():
    finals = {
        ("base", 1): (0.98, 0.98),
        ("linear", 8): (0.97, 0.98),
        ("lena", 8): (0.90, 0.92),
        ("linear", 16): (0.10, 0.50),
        ("lena", 16): (0.97, 0.98),
    }
    runs = [record(*key, value) for key, pair in finals.items() for value in pair]
    at8, at16, layers = sentences(runs)
    assert "linear scaling is best with 97.5 %" in at8
    assert "LENA is not best here, 6.5 points behind" in at8
    assert "LENA is best with 97.5 %" in at16
    assert "linear scaling failed to train (worst seed 10.0 %)" in at16
    assert "highest in noisy (3.5) and lowest in calm (1.2)" in layers
    assert "1 of 2 layers had not ended theirs" in layers


def test_means_within_the_standard_error_are_level():
    finals = {
        ("base", 1): (0.98, 0.96),
        ("linear", 8): (0.97, 0.98),
        ("lena", 8): (0.96, 0.98),
    }
    runs = [record(*key, value) for key, pair in finals.items() for value in pair]
    text = sentences(runs)[0]
    assert "level with it, within the standard error: LENA (97.0 %)" in text
    assert "LENA ends level with the base run" in text


def test_updates_to_target_and_numbers_that_are_not_finite(tmp_path):
    run = record("lena", 8, 0.9)
    assert run.updates_to(0.05) == 1
    assert run.updates_to(0.85) == 2
    assert run.updates_to(0.95) is None
    records.write([run], tmp_path / "r.jsonl")
    assert json.loads((tmp_path / "r.jsonl").read_text())["train_loss"] == [1, None]
    assert np.isnan(records.read(tmp_path / "r.jsonl")[0].train_loss[1])


def test_the_demo_runs_from_end_to_end(tmp_path, capsys):
    demo.main(["--quick", "--seeds", "2", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "LENA" in printed
    assert "S = 16:" in printed
    runs = records.read(tmp_path / "records.jsonl")
    assert {run.method for run in runs} == set(demo.METHODS)
    assert len(runs) == 2 * len(demo.METHODS)
    for name in ("accuracy.png", "trust_ratio.png", "warmup_factor.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
