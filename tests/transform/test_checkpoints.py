"""Rows follow the names of their layers through any checkpoint and any tree map.

Three layers of known noise: a row that belongs to another layer shows as its gain.
"""

import functools
import os
import pathlib
import pickle
import subprocess
import sys
import textwrap

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import optax_lena
from tests import helpers

ROOT = pathlib.Path(__file__).parents[2]
S = 8
# The spread of two microbatches around a mean of ones is what sets a layer's gain.
SPREADS = {"decoder": 0.0, "encoder": 3.0, "head": 0.5}
STACK = {name: np.float32([[1 + s, 1], [1 - s, 1]]) for name, s in SPREADS.items()}
TX = optax_lena.scale_by_lena(S, warmup_steps=1000)


def params_of(names):
    return {name: jnp.ones(2) for name in names}


@functools.partial(helpers.jit, static_argnames="tx")
def updated(state, stack, tx=TX):
    grads, moments = optax_lena.moments_from_stack(stack)
    return tx.update(grads, state, grads, moments=moments)[1]


@functools.cache
def trained():
    """Returns a state after three updates; no two layers have the same row."""
    state = TX.init(params_of(SPREADS))
    for _ in range(3):
        state = updated(state, STACK)
    gains = rows_of(state, "gain")
    assert len(set(gains.values())) == 3 and gains["encoder"] > 2 * gains["head"] > 2
    return state


def rows_of(state, field):
    report = optax_lena.layer_report(state)
    return {name: row[field] for name, row in report.items()}


# Every way of writing a state, and reading it into the state of another model.


def by_orbax(state, target, path):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path / "state", state)
        checkpointer.wait_until_finished()
        return checkpointer.restore(path / "state", target)


def by_msgpack(state, target, path):
    del path
    return flax.serialization.from_bytes(target, flax.serialization.to_bytes(state))


def by_position(state, target, path):
    """As an `npz` of leaves in their order, which knows no name at all."""
    np.savez(path / "state.npz", *jax.tree.leaves(state))
    with np.load(path / "state.npz") as file:
        leaves = [jnp.asarray(file[f"arr_{i}"]) for i in range(len(file.files))]
    return jax.tree.unflatten(jax.tree.structure(target), leaves)


WAYS = [by_orbax, by_msgpack, by_position]
through = pytest.mark.parametrize("through", WAYS)
# flax saves the names beside the rows, and puts both into what it restores.
without_names = pytest.mark.parametrize("through", [by_orbax, by_position])


@through
def test_the_same_layers_are_restored_as_they_were(through, tmp_path):
    state, target = trained(), TX.init(params_of(SPREADS))
    restored = through(state, target, tmp_path)
    helpers.assert_trees_equal(restored, state)
    assert restored.layer_names() == tuple(SPREADS)
    assert optax_lena.layer_report(restored) == optax_lena.layer_report(state)
    helpers.assert_trees_equal(updated(restored, STACK), updated(state, STACK))


def test_a_pickled_state_keeps_its_names():
    state = pickle.loads(pickle.dumps(trained()))
    helpers.assert_trees_equal(state, trained())
    assert state.layer_names() == tuple(SPREADS)
    assert optax_lena.layer_report(state) == optax_lena.layer_report(trained())


def renamed(names):
    """The same gradients under other names of the layers, in this order."""
    return dict(zip(names, STACK.values(), strict=True))


@through
@pytest.mark.parametrize("under_jit", [False, True])
def test_layers_in_another_order_keep_their_own_rows(through, under_jit, tmp_path):
    """A list of blocks whose first became the last: positions swap, names do not."""
    layers = optax_lena.by_regex("decoder|encoder|head")
    tx = optax_lena.scale_by_lena(S, layers=layers, warmup_steps=1000)
    old = {"0_decoder": "decoder", "1_encoder": "encoder", "2_head": "head"}
    new = {"0_head": "head", "1_encoder": "encoder", "2_decoder": "decoder"}
    stack = lambda places: {key: STACK[name] for key, name in places.items()}
    state = tx.init(params_of(old))
    for _ in range(3):
        state = updated(state, stack(old), tx)
    target = tx.init(params_of(new))
    assert target.layer_names() == state.layer_names()[::-1]

    restored = through(state, target, tmp_path)
    if through is by_msgpack:
        report = optax_lena.layer_report(restored)
        assert report == optax_lena.layer_report(state)
    else:
        with pytest.warns(RuntimeWarning, match="belong to other layers"):
            optax_lena.layer_report(restored)
    with jax.disable_jit(not under_jit):
        after = updated(restored, stack(new), tx)
    expected = updated(state, stack(old), tx)
    assert after.layer_names() == target.layer_names()
    got, expected = map(optax_lena.layer_report, (after, expected))
    assert list(got) == ["head", "encoder", "decoder"]
    for name, row in expected.items():
        ends = [r.pop("warmup_end") for r in (got[name], row)]
        assert ends == [None, None] and row["progress"] > 0
        assert got[name] == pytest.approx(row, rel=1e-6)


@without_names
def test_renamed_layers_start_afresh_and_take_no_others_rows(through, tmp_path):
    """ "decoder" became "trunk", which comes after the others: all rows have moved."""
    stack = {name.replace("decoder", "trunk"): x for name, x in STACK.items()}
    target = TX.init(params_of(stack))
    restored = through(trained(), target, tmp_path)
    with pytest.warns(RuntimeWarning, match="starts afresh"):
        optax_lena.layer_report(restored)
    after, steady = updated(restored, stack), updated(trained(), STACK)
    first = updated(target, stack)
    for field in ("gain", "noise", "signal", "progress"):
        got, kept, fresh = (rows_of(s, field) for s in (after, steady, first))
        for name in ("encoder", "head"):
            assert got[name] == pytest.approx(kept[name], rel=1e-6)
        assert got["trunk"] == pytest.approx(fresh["trunk"], rel=1e-6)
    # The model is the same, whatever its layers are called.
    model = lambda s: {
        k: v for k, v in optax_lena.metrics(s).items() if k.startswith("model/")
    }
    assert float(model(after)["model/base_steps"]) == 4 * S
    for name in ("model/gain_steps", "model/noise"):
        assert model(after)[name] == pytest.approx(float(model(steady)[name]))


def test_renamed_layers_are_an_error_that_names_them_through_msgpack(tmp_path):
    stack = {name.replace("decoder", "trunk"): x for name, x in STACK.items()}
    restored = by_msgpack(trained(), TX.init(params_of(stack)), tmp_path)
    # Its rows are still those of the layers that were saved.
    assert optax_lena.layer_report(restored) == optax_lena.layer_report(trained())
    with pytest.raises(ValueError, match=helpers.says("'decoder'", "'trunk'")):
        updated(restored, stack)


@without_names
def test_all_layers_renamed_all_start_afresh(through, tmp_path):
    """Once they took the rows of those that had stood in their places."""
    stack = renamed(["alpha", "beta", "gamma"])
    target = TX.init(params_of(stack))
    after = updated(through(trained(), target, tmp_path), stack)
    fresh = updated(target, stack)
    for field in ("gain", "noise", "progress"):
        assert rows_of(after, field) == pytest.approx(rows_of(fresh, field), rel=1e-6)
    assert float(after.clocks.base_steps) == 4 * S


# Not through orbax, which compares shapes by itself.
@pytest.mark.parametrize("names", [["decoder"], [*SPREADS, "neck"]])
def test_another_number_of_layers_is_an_error_that_names_them(names, tmp_path):
    restored = by_position(trained(), TX.init(params_of(names)), tmp_path)
    stack = {name: STACK.get(name, STACK["head"]) for name in names}
    message = helpers.says("`state`", f"length {len(names) + 1}", repr(names[0]))
    with pytest.raises(ValueError, match=message):
        updated(restored, stack)


@pytest.mark.parametrize("names", [["decoder"], [*SPREADS, "neck"]])
def test_another_number_of_layers_is_an_error_through_msgpack(names, tmp_path):
    """flax's own, or ours at the next update."""
    stack = {name: STACK.get(name, STACK["head"]) for name in names}
    with pytest.raises(ValueError, match="names|`state`"):
        restored = by_msgpack(trained(), TX.init(params_of(names)), tmp_path)
        updated(restored, stack)


def test_a_layer_that_was_added_needs_init_and_the_error_says_so():
    """Without a checkpoint between: names are compared and not only lengths."""
    stack = STACK | {"neck": STACK["head"]}
    message = helpers.says("`state`", "'neck'", "`init`")
    with pytest.raises(ValueError, match=message):
        updated(trained(), stack)


def test_stacked_layers_follow_their_names_too():
    layers = optax_lena.stacked("^blocks")
    tx = optax_lena.scale_by_lena(S, layers=layers)
    rows = np.stack([STACK["encoder"], STACK["head"]], axis=1)

    def after(name, state=None):
        stack = {name: rows, "norm": STACK["decoder"]}
        grads, moments = optax_lena.moments_from_stack(stack, layers=layers)
        state = tx.init(grads) if state is None else state
        return tx.update(grads, state, moments=moments)[1]

    state = after("blocks")
    other = after("blocks_of_two")
    moved = jax.tree.unflatten(jax.tree.structure(other), jax.tree.leaves(state))
    got = after("blocks_of_two", moved).averages
    kept, fresh = (s.averages for s in (after("blocks", state), other))
    np.testing.assert_array_equal(got.weight[:2], fresh.weight[:2])
    np.testing.assert_array_equal(got.weight[2:], kept.weight[2:])


# flax may be imported at any time.


def test_flax_may_be_imported_after_everything_else():
    """It asks for handlers of types when they are registered, which was too early."""
    program = """
        import sys
        import jax, jax.numpy as jnp, numpy as np
        import optax_lena

        tx = optax_lena.lena(0.1, 8)
        stack = {"w": jnp.array([[1.0, 2.0], [3.0, 2.0]])}
        grads, moments = optax_lena.moments_from_stack(stack)
        _, state = tx.update(grads, tx.init(grads), grads, moments=moments)
        assert "flax" not in sys.modules
        from flax import serialization

        data = serialization.to_bytes(state)
        restored = serialization.from_bytes(tx.init(grads), data)
        for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
            np.testing.assert_array_equal(a, b)
        assert optax_lena.layer_report(restored) == optax_lena.layer_report(state)
        print(sorted(optax_lena.layer_report(restored)))
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['w']"


# Whatever maps a state keeps its names.


OPTIMIZER = optax_lena.lena(0.1, S, warmup_steps=1000)


@functools.cache
def trained_optimizer():
    params = params_of(SPREADS)
    return updated(OPTIMIZER.init(params), STACK, OPTIMIZER)


def names_in(tree):
    return helpers.lena_state(tree).layer_names()


def assert_usable(state):
    """It reports under the right names, and the next update takes it."""
    expected = trained_optimizer()
    assert names_in(state) == tuple(SPREADS)
    assert optax_lena.layer_report(state) == optax_lena.layer_report(expected)
    helpers.assert_trees_equal(
        updated(state, STACK, OPTIMIZER), updated(expected, STACK, OPTIMIZER)
    )


def tree_map_params(state):
    return optax.tree_utils.tree_map_params(OPTIMIZER, lambda x: x, state)


def tree_map_params_and_others(state):
    return optax.tree_utils.tree_map_params(
        OPTIMIZER, lambda x: x + 0, state, transform_non_params=lambda x: x + 0
    )


def tree_map_with_params(state):
    """With further trees like the parameters, as for sharding specs."""
    return optax.tree_utils.tree_map_params(
        OPTIMIZER, lambda x, p: x * p, state, params_of(SPREADS)
    )


def tree_map_with_path(state):
    return jax.tree_util.tree_map_with_path(lambda path, x: x, state)


def donated(state):
    copy = jax.tree.map(jnp.array, state)
    return jax.jit(lambda s: jax.tree.map(lambda x: x, s), donate_argnums=0)(copy)


MAPS = {
    "jax.tree.map": functools.partial(jax.tree.map, lambda x: x),
    "tree_map_with_path": tree_map_with_path,
    "tree_map_params": tree_map_params,
    "tree_map_params, transform_non_params": tree_map_params_and_others,
    "tree_map_params, further trees": tree_map_with_params,
    "jit": jax.jit(lambda s: s),
    "donation": donated,
    "pickle": lambda state: pickle.loads(pickle.dumps(state)),
    "device_put": lambda state: jax.device_put(state, jax.devices()[1]),
    "flatten": lambda s: jax.tree.unflatten(jax.tree.structure(s), jax.tree.leaves(s)),
    "vmap": lambda s: jax.tree.map(
        lambda x: x[0],
        jax.vmap(lambda x: x)(jax.tree.map(lambda x: x[None], s)),
    ),
    "cond": jax.jit(lambda s: jax.lax.cond(True, lambda x: x, lambda x: x, s)),
}


@pytest.mark.parametrize("name", MAPS)
def test_names_stay_with_the_state_through(name):
    state = MAPS[name](trained_optimizer())
    state = jax.device_put(state, jax.devices()[0])
    assert jax.tree.structure(state) == jax.tree.structure(trained_optimizer())
    assert_usable(state)


def test_sharding_specs_of_a_state_map_over_it():
    """`jax.tree.map(f, state, specs)`: both have the same structure."""
    state = trained_optimizer()
    specs = optax.tree_utils.tree_map_params(
        OPTIMIZER,
        lambda _: "like the parameter",
        state,
        transform_non_params=lambda _: "replicated",
    )
    assert names_in(specs) == tuple(SPREADS)
    pairs = jax.tree.map(lambda x, spec: (x, spec), state, specs)
    momentum = optax.tree_utils.tree_get(pairs, "trace")
    assert momentum["head"][1] == "like the parameter"
    assert helpers.lena_state(pairs).warmup_end[1] == "replicated"
    mapped = jax.tree.map(lambda x, spec: x, state, specs)
    assert_usable(mapped)


def test_specs_of_an_abstract_state_map_over_a_real_one():
    abstract = jax.eval_shape(OPTIMIZER.init, params_of(SPREADS))
    specs = optax.tree_utils.tree_map_params(
        OPTIMIZER, lambda _: 1, abstract, transform_non_params=lambda _: 0
    )
    mapped = jax.tree.map(lambda x, spec: x, trained_optimizer(), specs)
    assert_usable(mapped)


def test_a_state_of_other_layers_has_another_structure_and_does_not_map():
    other = OPTIMIZER.init(params_of(["decoder", "encoder", "neck"]))
    with pytest.raises(ValueError):
        jax.tree.map(lambda a, b: a, trained_optimizer(), other)


def test_paths_read_as_the_fields_do():
    paths = jax.tree_util.tree_leaves_with_path(trained())
    names = {jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in paths}
    assert {"averages/noise", "clocks/base_steps/whole", "row_ids"} < names
    assert not any("names" in name for name in names)


def test_functions_in_a_tree_like_the_state_find_the_names_unchanged():
    """EasyLM's checkpointer has one for each leaf, and walks as flax does."""
    state = TX.init(params_of(SPREADS))
    functions = jax.tree.map(lambda _: jax.device_get, state)
    given, asked = (flax.serialization.to_state_dict(x) for x in (state, functions))
    saved = jax.tree.map(lambda x, function: function(x), given, asked)
    restored = flax.serialization.from_state_dict(state, saved)
    assert restored.layer_names() == tuple(SPREADS)
    helpers.assert_trees_equal(restored, state)
