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

from benchmarks import (
    adam_methods,
    contenders,
    cost,
    cost_report,
    data,
    demo,
    measure,
    peer,
    plan,
    records,
    report,
    suite,
    tables,
    train,
    trees,
    workloads,
)
from benchmarks.ablations import EVERY
from benchmarks.gpt import GPT
from benchmarks.models import MLP, ConvNet, patches
from benchmarks.resnet import ResNet, group_norm, resnet18, resnet50

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
        "layers": layers if method == report.LAYERS_OF else {},
        "seconds": 1.0,
        "environment": {},
    }
    return records.Record(**{**fields, **kwargs})


def sentences(runs):
    target = report.target_accuracy(runs, 0.005)
    return report.conclusions(runs, report.summarise(runs, target))


def test_the_report_says_where_ours_is_not_best():
    finals = {
        ("base", 1): (0.98, 0.98),
        ("linear", 8): (0.97, 0.98),
        (report.OURS, 8): (0.90, 0.92),
        ("linear", 16): (0.10, 0.50),
        (report.OURS, 16): (0.97, 0.98),
        (report.LAYERS_OF, 16): (0.96, 0.96),
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
        (report.OURS, 8): (0.96, 0.98),
    }
    runs = [record(*key, value) for key, pair in finals.items() for value in pair]
    text = sentences(runs)[0]
    assert "level with it, within the standard error: amplified LENA (97.0 %)" in text
    assert "amplified LENA ends level with the base run" in text


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
    assert {run.method for run in runs} == {"base", *demo.DEMO}
    assert len(runs) == 2 * (1 + len(demo.DEMO))
    for name in ("accuracy.png", "trust_ratio.png", "warmup_factor.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def shapes(make):
    """Every parameter's shape, by its path."""
    state = nnx.state(nnx.eval_shape(make), nnx.Param)
    flat = nnx.to_flat_state(state)
    return {".".join(map(str, path)): leaf.shape for path, leaf in flat}


def size(make):
    return sum(int(np.prod(shape)) for shape in shapes(make).values())


def test_the_resnet_of_the_records_has_the_same_parameters():
    found = shapes(lambda: ResNet((28, 28, 1), 10, rngs=nnx.Rngs(0)))
    expected = {"stem.kernel": (3, 3, 1, 8)}
    expected |= {f"stem_norm.{name}": (8,) for name in ("bias", "scale")}
    for number, (before, after) in enumerate([(8, 8), (8, 16), (16, 32)]):
        block = f"blocks.{number}"
        expected[f"{block}.conv1.kernel"] = (3, 3, before, after)
        expected[f"{block}.conv2.kernel"] = (3, 3, after, after)
        expected[f"{block}.shortcut.kernel"] = (1, 1, before, after)
        for norm in ("norm1", "norm2"):
            expected |= {
                f"{block}.{norm}.{name}": (after,) for name in ("bias", "scale")
            }
    assert found == expected | {"out.kernel": (32, 10), "out.bias": (10,)}


def test_a_seed_gives_the_resnet_of_the_records():
    # As recorded at 60f55a0: whoever changes the order of the layers changes the runs.
    @jax.jit
    def first():
        model = ResNet((28, 28, 1), 10, rngs=nnx.Rngs(0))
        return model.stem.kernel[0, 0, 0, 0], model.out.kernel[0, 0]

    np.testing.assert_allclose(first(), [0.504487, -0.0283471], rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "classes", "millions"), [(resnet18, 10, 11.17), (resnet50, 100, 23.71)]
)
def test_the_full_size_resnets_have_the_papers_sizes(make, classes, millions):
    count = size(lambda: make((32, 32, 3), classes, rngs=nnx.Rngs(0)))
    assert round(count / 1e6, 2) == millions


@pytest.mark.parametrize("make", [resnet18, resnet50])
def test_the_full_size_resnets_give_logits(make):
    def logits():
        model = make((32, 32, 3), 10, norm=group_norm, rngs=nnx.Rngs(0))
        return model(jnp.zeros((2, 32, 32, 3)))

    assert nnx.eval_shape(logits).shape == (2, 10)


def test_the_gpt_does_not_see_what_comes_later():
    @jax.jit
    def logits(x):
        return GPT(20, 8, rngs=nnx.Rngs(0), features=8, heads=2)(x)

    x = jnp.asarray(RNG.integers(0, 20, (2, 8)))
    one, other = logits(x), logits(x.at[:, 5].add(1))
    assert one.shape == (2, 8, 20)
    np.testing.assert_array_equal(one[:, :5], other[:, :5])
    assert (one[:, 5:] != other[:, 5:]).any(-1).all()


def tiny_gpt():
    x = RNG.integers(0, 20, (64, 9), np.int32)
    dataset = data.Dataset("toy", 20, x[:, :-1], x[:, 1:], x[:8, :-1], x[:8, 1:])
    recipe = dataclasses.replace(workloads.CHARACTERS, base_batch=2, epochs=2)

    def make(rngs):
        return GPT(20, 8, rngs=rngs, features=8, heads=2, layers=1)

    return workloads.Workload(dataset, make, recipe, eval_every=16)


def test_lena_adamw_trains_a_gpt_on_the_gradient_as_adam_divides_it():
    config = plan.Config("lena_adamw_no_warmup", 4, seeds=(0,))
    (own,) = train.run(tiny_gpt(), config)
    assert len(own.updates) == 4 and np.isfinite(own.train_loss).all()
    # Adam's first five updates are not measured: one evaluation is four updates.
    ratios = [values for key, values in own.layers.items() if "trust_ratio" in key]
    assert {values[0] for values in ratios} == {1.0}
    assert all(1 < values[-1] <= 2 for values in ratios)


def test_a_method_of_sgd_refuses_a_recipe_of_adamw():
    with pytest.raises(ValueError, match="recipes of 'sgd', got one of 'adamw'"):
        EVERY["lena"].make(workloads.CHARACTERS, 4, 100)
    with pytest.raises(ValueError, match="recipes of 'adamw', got one of 'sgd'"):
        EVERY["lena_adamw"].make(workloads.DIGITS, 4, 100)


@pytest.mark.parametrize("method", adam_methods.COMPARED)
def test_every_method_of_the_gpt_takes_its_recipe(method):
    tx = EVERY[method].make(workloads.CHARACTERS, 4, 100)
    jax.eval_shape(tx.init, {"w": jnp.zeros((2, 2))})


@pytest.mark.parametrize(("power", "method"), [(1, "linear"), (0.5, "square_root")])
def test_adamw_is_scaled_by_a_power_and_warmed_up(power, method):
    recipe = dataclasses.replace(workloads.CHARACTERS, schedule=workloads.CONSTANT)
    recipe = dataclasses.replace(recipe, weight_decay=0.0)
    tx = EVERY[f"adamw_{method}"].make(recipe, 4, 400)  # 20 steps, 5 updates
    params = jnp.ones(())
    state, found = tx.init(params), []
    for _ in range(7):
        update, state = tx.update(jnp.ones(()), state, params)
        found.append(float(update))
    factor = np.array([0.2, 0.4, 0.6, 0.8, 1, 1, 1])
    expected = -recipe.learning_rate * 4**power * factor
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_every_method_of_every_table_exists():
    for table in tables.TABLES.values():
        assert table.methods[0] == "base"
        assert len(set(table.methods)) == len(table.methods)
        assert set(table.methods) <= set(EVERY)
        for method in table.methods:
            assert EVERY[method].tuned_as in ("", *table.methods)


@pytest.mark.parametrize("program", [suite.main, train.main])
def test_a_table_says_that_it_needs_a_folder(program):
    row = ["lena", "8"] if program is train.main else []
    with pytest.raises(SystemExit, match=r"'cifar10' needs .* got none.*`--data"):
        program(["cifar10", *row])


def test_a_table_of_cifar10_refuses_another_data_set(tmp_path):
    write_mnist(tmp_path / "fashion", compress=False)
    with pytest.raises(SystemExit, match=r"must hold CIFAR-10, got fashion in"):
        train.main(["cifar10", "base", "1", "--data", str(tmp_path / "fashion")])


def test_a_full_size_table_trains_its_seeds_one_by_one(monkeypatch):
    def run_one(workload, config, on_progress, target):
        on_progress(0.5)
        on_progress(1.2)
        return [(config.seeds, config.rate, target)]

    run, shares = train.run, []
    monkeypatch.setattr(train, "run", run_one)
    workload = dataclasses.replace(tiny_workload(), side_by_side=False)
    config = plan.Config("base", 1, seeds=(3, 5), rate=0.5)
    found = run(workload, config, shares.append, target=0.9)
    assert found == [((3,), 0.5, 0.9), ((5,), 0.5, 0.9)]
    assert shares == [0.25, 0.5, 0.75, 1]


def test_one_row_is_trained_from_the_command_line(tmp_path, monkeypatch, capsys):
    table = tables.Table(lambda validation=False: tiny_workload(), ("base", "lena"))
    monkeypatch.setitem(tables.TABLES, "digits", table)
    row = ["digits", "lena", "4", "--rate", "0.125", "--seeds", "2", "3"]
    train.main([*row, "--out", str(tmp_path / "new" / "rows.jsonl")])
    runs = records.read(tmp_path / "new" / "rows.jsonl")
    assert [(run.method, run.batch_scale, run.seed) for run in runs] == [
        ("lena", 4, 2),
        ("lena", 4, 3),
    ]
    assert {run.recipe["learning_rate"] for run in runs} == {0.125}
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(train, "run", lambda *args: runs)
    train.main(row)
    printed = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["seed"] for line in printed] == [2, 3]


def test_the_command_line_of_a_row_asks_for_a_rate_and_an_s_that_divides(monkeypatch):
    monkeypatch.setitem(tables.TABLES, "digits", tables.Table(tiny_workload))
    with pytest.raises(SystemExit, match="'lars_tuned' .*`--rate` must be given"):
        train.main(["digits", "lars_tuned", "4"])
    with pytest.raises(SystemExit, match="'lena_lars' .*`--rate` must be given"):
        train.main(["digits", "lena_lars", "4"])
    with pytest.raises(SystemExit, match="`batch_scale` must divide the 8"):
        train.main(["digits", "lena", "3"])


@pytest.fixture
def trained(monkeypatch):
    """The configurations that `benchmarks.suite` trains on a table named `toy`.

    Nothing is trained: accuracy is best at a rate of 4.
    """
    calls = []

    def run(workload, config, on_progress, target=None):
        calls.append((workload.split, config, target))
        recipe = workload.at_rate(config.rate).recipe
        updates = [100 // config.batch_scale]
        return [
            record(
                config.method,
                config.batch_scale,
                0.0,
                seed=seed,
                recipe=dataclasses.asdict(recipe),
                split=workload.split,
                updates=updates,
                train_loss=[1.0],
                test_accuracy=[1 - abs(recipe.learning_rate - 4) / 100],
                layers={},
            )
            for seed in config.seeds
        ]

    def load(validation=False):
        split = "validation" if validation else "test"
        return dataclasses.replace(tiny_workload(), split=split)

    table = tables.Table(load, ("base", "linear", "lars_tuned"))
    monkeypatch.setitem(tables.TABLES, "toy", table)
    monkeypatch.setattr(train, "run", run)
    return calls


def test_a_table_that_is_started_again_trains_what_is_missing(trained, tmp_path):
    path = tmp_path / "toy.jsonl"
    command = ["toy", "--scales", "10", "--out", str(path)]
    suite.main([*command, "--methods", "base", "linear"])
    done = [(config.method, config.batch_scale) for _, config, _ in trained]
    assert done == [("base", 1), ("linear", 10)]
    base, linear = trained
    assert base[2] is None
    accuracy = 1 - (4 - workloads.DIGITS.learning_rate) / 100
    assert linear[2] == pytest.approx(accuracy - workloads.TARGET_DROP, abs=1e-4)

    trained.clear()
    suite.main(command)
    assert {config.method for _, config, _ in trained} == {"lars_tuned"}
    trained.clear()
    text = path.read_text()
    suite.main(command)
    assert not trained and path.read_text() == text


def test_a_table_tunes_on_validation_data_and_goes_on_where_it_stopped(
    trained, tmp_path
):
    command = ["toy", "--scales", "10", "--out", str(tmp_path / "toy.jsonl")]
    suite.main([*command, "--methods", "base"])
    trained.clear()
    suite.main([*command, "--methods", "lars_tuned"])
    *tuning, (split, config, _) = trained
    assert [each.rate for _, each, _ in tuning] == list(EVERY["lars_tuned"].rates)
    assert {split for split, _, _ in tuning} == {"validation"}
    assert {each.seeds for _, each, _ in tuning} == {(suite.TUNING_SEED,)}
    assert (split, config.rate, config.seeds) == ("test", 4.0, (0, 1, 2))

    # What was tuned is not tuned again.
    lines = (tmp_path / "toy.jsonl").read_text().splitlines()
    (tmp_path / "toy.jsonl").write_text("\n".join(lines[:-4]) + "\n")
    trained.clear()
    suite.main([*command, "--methods", "lars_tuned"])
    assert [each.rate for _, each, _ in trained] == [EVERY["lars_tuned"].rates[-1], 4.0]


def test_a_table_needs_its_base_run_first(trained, tmp_path):
    path = tmp_path / "toy.jsonl"
    with pytest.raises(SystemExit, match="must hold the base run first.*got none"):
        suite.main(["toy", "--methods", "linear", "--out", str(path)])
    assert not trained


def test_methods_take_turns_and_are_divided_within_a_turn():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    times = measure.take_turns(calls, "a", rounds=2)
    assert order == ["a", "b"] * 3
    assert times["a"]["ratio"] == [1, 1, 1]
    middle, least, most = times["b"]["seconds"]
    assert 0 < least <= middle <= most


def test_the_cost_of_an_update_is_the_same_every_time(tmp_path, capsys):
    arguments = ["--quick", "--part", "update", "--out", str(tmp_path)]
    cost.main(arguments)
    runs = measure.read(tmp_path / "records.jsonl")
    assert "3 tensors, LENA: words 6." in capsys.readouterr().out
    assert [one.method for one in runs] == list(contenders.UPDATES)
    tree = trees.equal(3)
    grads, params = (jax.tree.map(lambda p: jnp.ones(p.shape), tree) for _ in range(2))
    compared = [
        contenders.update(name, *contenders.UPDATES[name], grads)
        for name in ("SGD", "LENA")
    ]
    again = cost.compare(runs[0], compared, params, rounds=1)
    for one, other in zip(runs[::6], again, strict=True):
        assert (one.method, one.words) == (other.method, other.words)
        assert one.temp_bytes == other.temp_bytes
        assert one.environment["jax"] == jax.__version__


def test_the_cost_of_a_step_on_several_devices(monkeypatch):
    def make(rngs):
        return MLP((4, 3, 2), rngs=rngs)

    task = contenders.Task(
        "MLP", make, (4,), num_classes=2, batch_size=16, num_microbatches=8
    )
    monkeypatch.setattr(contenders, "task", lambda quick: task)
    sgd, lena = cost.devices_step(quick=True)
    assert sgd.devices == lena.devices == jax.device_count()
    assert sgd.all_reduces == lena.all_reduces == 1


def measured(part, method, **fields):
    fields = {"setting": "toy", "baseline": "SGD", "size": 4, "tensors": 2} | fields
    where = {"cpus": "2", "device": "cpu", "jax": "0", "commit": "c"}
    return measure.Measurement(part, method=method, environment=where, **fields)


def test_the_cost_tables_and_bars_are_made_from_the_records():
    cheap = {"bytes_accessed": 96, "temp_bytes": 0, "ratio": [1.0, 1.0, 1.0]}
    dear = {"bytes_accessed": 112, "temp_bytes": 2_000_000, "ratio": [1.2, 1.1, 1.4]}
    runs = [
        measured("update", "SGD", seconds=[0.1, 0.1, 0.1], rounds=3, **cheap),
        measured("update", "LENA", seconds=[0.12, 0.1, 0.2], rounds=3, **dear),
    ]
    text = cost_report.markdown(runs)
    assert "| method | words | temp. MB | time ms | × (range) |" in text
    assert "| LENA | 7.00 | 2.00 | 120 | 1.20 (1.10–1.40) |" in text
    assert cost_report.bars(runs) == [
        "toy, LENA: words 7, at most 7.02 allowed: met.",
        "toy, LENA: temporary MB 2, at most 1 allowed: MISSED.",
        "toy, LENA: time over SGD 1.2, at most 1.25 allowed: met.",
    ]


@pytest.mark.skipif(peer.is_installed(), reason="the peer would be measured")
def test_the_cost_says_what_the_peer_needs(tmp_path, capsys):
    cost.main(["--quick", "--part", "peer", "--out", str(tmp_path)])
    assert "pip install --group peer" in " ".join(capsys.readouterr().out.split())
