"""Parameters that are sharded over another axis of a `shard_map` than the batch is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import optax_lena
from tests import helpers

# "w" has a shard on every device of "model", "b" is the same on all of them.
SPECS = {"b": P(), "w": P("model")}
PARAMS = {"b": jnp.array(0.3), "w": jnp.array([1.0] * 4 + [3.0] * 4)}
# The columns of the second shard are five times as long: norms of shards differ.
X = jax.random.normal(jax.random.key(0), (16, 8)) * jnp.array([[1.0] * 4 + [5.0] * 4])


def whole_loss(params, x):
    return jnp.mean((x @ params["w"] + params["b"] - 1) ** 2)


def sharded_loss(params, x):
    first = 4 * jax.lax.axis_index("model")
    part = jax.lax.dynamic_slice_in_dim(x, first, 4, 1) @ params["w"]
    return jnp.mean((jax.lax.psum(part, "model") + params["b"] - 1) ** 2)


def mapped(function, check_vma, specs=SPECS):
    mesh = jax.make_mesh((2, 2), ("data", "model"), (AxisType.Auto,) * 2)
    return jax.jit(
        jax.shard_map(
            function,
            mesh=mesh,
            in_specs=(specs, P("data")),
            out_specs=P(),
            check_vma=check_vma,
        )
    )


def gathered(params, x, loss=sharded_loss, **options):
    gather = optax_lena.value_and_grad(loss, 4, axis_name="data", **options)
    _, _, moments = gather(params, x)
    return moments


def one_device():
    return optax_lena.value_and_grad(whole_loss, 4)(PARAMS, X)[2]


@pytest.mark.parametrize("specs", [None, SPECS])
def test_types_or_specs_tell_how_parameters_are_sharded(specs):
    step = mapped(functools.partial(gathered, param_specs=specs), check_vma=True)
    helpers.assert_trees_close(step(PARAMS, X), one_device(), rtol=1e-5)


def test_without_types_the_specs_tell():
    """Of "w" alone: what `psum` is differentiated to differs without types."""

    def moments(params, x):
        residual = jax.lax.psum(
            jax.lax.dynamic_slice_in_dim(x, 4 * jax.lax.axis_index("model"), 4, 1)
            @ params["w"],
            "model",
        )
        own = jax.lax.dynamic_slice_in_dim(x, 4 * jax.lax.axis_index("model"), 4, 1)
        grads = {"w": 2 * (residual - 1) @ own / len(x)}
        return optax_lena.moments_over_axis(
            grads, "data", param_specs={"w": P("model")}
        )[1]

    whole = lambda params, x: jnp.mean((x @ params["w"] - 1) ** 2)
    params = {"w": PARAMS["w"]}
    expected = optax_lena.value_and_grad(whole, 2)(params, X)[2]
    step = mapped(moments, check_vma=False, specs={"w": P("model")})
    helpers.assert_trees_close(step(params, X), expected, rtol=1e-5)


def test_gathered_parameters_that_say_so_are_whole():
    """ZeRO by hand: only `to="reduced"` says that all have gathered the same."""

    def moments(params, x, to):
        w = jax.lax.all_gather(params["w"], "data", tiled=True, to=to)
        return gathered({"b": params["b"], "w": w}, x, whole_loss)

    step = functools.partial(mapped, check_vma=True, specs={"b": P(), "w": P("data")})
    got = step(functools.partial(moments, to="reduced"))(PARAMS, X)
    helpers.assert_trees_close(got, one_device(), rtol=1e-5)
    message = helpers.says("'w'", "all_gather", "to='reduced'")
    with pytest.raises(ValueError, match=message):
        step(functools.partial(moments, to="varying"))(PARAMS, X)


@pytest.mark.parametrize("check_vma", [True, False])
def test_parameters_sharded_over_the_batchs_axis_are_an_error(check_vma):
    """FSDP by hand: the sum over the axis would add up different shards."""
    specs = {"b": P(), "w": P("data")}
    step = mapped(functools.partial(gathered, param_specs=specs), check_vma, specs)
    with pytest.raises(ValueError, match=helpers.says("'data'", "'w'", "jax.jit")):
        step(PARAMS, X)


def test_a_stack_that_is_sharded_along_its_layers_is_an_error():
    gather = functools.partial(
        gathered, layers=optax_lena.stacked("w"), param_specs=SPECS
    )
    message = helpers.says("`param_specs`", "axis 0 of 'w'", "layers")
    with pytest.raises(ValueError, match=message):
        mapped(gather, check_vma=False)(PARAMS, X)


def test_without_a_batch_axis_specs_tell_as_well():
    """Tensor parallelism alone; every device goes through all microbatches."""
    params = {"w": PARAMS["w"]}

    def loss(params, x):
        first = 4 * jax.lax.axis_index("model")
        part = jax.lax.dynamic_slice_in_dim(x, first, 4, 1) @ params["w"]
        return jnp.mean((jax.lax.psum(part, "model") - 1) ** 2)

    gather = optax_lena.value_and_grad(loss, 4, param_specs={"w": P("model")})
    mesh = jax.make_mesh((2,), ("model",), (AxisType.Auto,))
    step = jax.shard_map(
        lambda params, x: gather(params, x)[2].batch_sq_norm,
        mesh=mesh,
        in_specs=({"w": P("model")}, P()),
        out_specs=P(),
        check_vma=False,
    )
    whole = lambda params, x: jnp.mean((x @ params["w"] - 1) ** 2)
    # What `psum` is differentiated to differs without types: twice on two devices.
    expected = optax_lena.value_and_grad(whole, 4)(params, X)[2].batch_sq_norm["w"]
    ratio = jax.jit(step)(params, X)["w"] / expected
    np.testing.assert_allclose(ratio, 4, rtol=1e-5)


def alone(function, out_specs):
    """Inside a `shard_map` over the parameters' axis, which is the only one."""
    mesh = jax.make_mesh((2,), ("model",), (AxisType.Auto,))
    specs = {"in_specs": (SPECS, P()), "out_specs": out_specs}
    return jax.jit(jax.shard_map(function, mesh=mesh, **specs))


@pytest.mark.parametrize("weights", [None, jnp.array([1.0, 2.0, 3.0, 0.0])])
def test_without_a_batch_axis_types_tell_as_well(weights):
    """The loss is one for all devices, of which each has a shard of "w"."""

    def gathered(params, x, loss=sharded_loss):
        gather = optax_lena.value_and_grad(loss, 4)
        return gather(params, x, weights=weights)

    got = alone(gathered, (P(), SPECS, P()))(PARAMS, X)
    expected = gathered(PARAMS, X, whole_loss)
    helpers.assert_trees_close(got, expected, rtol=1e-5)


def test_devices_with_models_of_their_own_have_norms_of_their_own():
    """An ensemble: parameters vary over the axis, and so does each one's loss."""

    def loss(params, x):
        return jnp.mean((x[:, :4] @ params["w"] + params["b"] - 1) ** 2)

    def norms(params, x):
        own = {"b": jax.lax.pcast(params["b"], "model", to="varying"), "w": params["w"]}
        moments = optax_lena.value_and_grad(loss, 4)(own, x)[2]
        return jax.tree.map(lambda x: x[None], moments.micro_sq_norm)

    got = alone(norms, P("model"))(PARAMS, X)
    for member in range(2):
        own = {"b": PARAMS["b"], "w": PARAMS["w"][4 * member : 4 * member + 4]}
        expected = optax_lena.value_and_grad(loss, 4)(own, X)[2].micro_sq_norm
        one = jax.tree.map(lambda x, i=member: x[i], got)
        helpers.assert_trees_close(one, expected, rtol=1e-5)


def test_without_types_or_specs_it_is_an_error_that_says_what_to_pass():
    with pytest.raises(ValueError, match=helpers.says("`param_specs`", "'model'")):
        mapped(gathered, check_vma=False)(PARAMS, X)


def test_one_spec_says_that_every_device_holds_all_parameters():
    step = mapped(
        functools.partial(gathered, loss=whole_loss, param_specs=P()),
        check_vma=False,
        specs=P(),
    )
    helpers.assert_trees_close(step(PARAMS, X), one_device(), rtol=1e-5)


def test_the_gain_is_that_of_one_device():
    tx = optax_lena.scale_by_lena(8)

    def gain(params, x):
        gather = optax_lena.value_and_grad(sharded_loss, 4, axis_name="data")
        _, grads, moments = gather(params, x)
        _, state = tx.update(grads, tx.init(grads), params, moments=moments)
        return state.applied.gain

    grads, moments = optax_lena.value_and_grad(whole_loss, 4)(PARAMS, X)[1:]
    _, state = tx.update(grads, tx.init(grads), PARAMS, moments=moments)
    actual = mapped(gain, check_vma=True)(PARAMS, X)
    np.testing.assert_allclose(actual, state.applied.gain, rtol=1e-5)


def test_in_time_is_refused_where_a_device_sees_its_own_examples_only():
    step = mapped(functools.partial(gathered, spread="time"), check_vma=True)
    with pytest.raises(ValueError, match=helpers.says("`spread`", "'time'")):
        step(PARAMS, X)


@helpers.PLAIN_MOMENTS
@pytest.mark.parametrize("optimizer", [optax_lena.lena_lars, optax_lena.lena_muon])
def test_optimizers_that_need_whole_tensors_refuse_shards(optimizer):
    params = {"b": jnp.ones(3), "w": jnp.arange(8.0).reshape(4, 2)}
    specs = {"b": P(), "w": P("model")}
    stack = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), params)
    grads, moments = optax_lena.moments_from_stack(stack)
    tx = optimizer(0.1, 2)

    def update(grads, moments):
        return tx.update(grads, tx.init(grads), grads, moments=moments)[0]

    mesh = jax.make_mesh((2,), ("model",), (AxisType.Auto,))
    mapped = functools.partial(jax.shard_map, mesh=mesh)
    message = helpers.says(f"`{optimizer.__name__}`", "'w'", "'model'", "jax.jit")
    with pytest.raises(ValueError, match=message):
        mapped(update, in_specs=(specs, P()), out_specs=specs)(grads, moments)

    def update_own(*grads_and_moments):
        """The moments of a model of the device's own vary as its parameters do."""
        own = jax.lax.pcast(grads_and_moments, "model", to="varying")
        return jax.tree.map(lambda x: x[None], update(*own))

    ensemble = mapped(update_own, in_specs=P(), out_specs=P("model"))
    got = jax.tree.map(lambda x: x[1], helpers.jit(ensemble)(grads, moments))
    expected = helpers.jit(update)(grads, moments)
    helpers.assert_trees_close(got, expected, rtol=1e-5)


def test_a_mask_of_lars_lets_shards_pass():
    tx = optax_lena.lena_lars(0.1, 2, momentum=0.0, trust_ratio_mask={"w": False})
    grads, moments = optax_lena.moments_from_stack({"w": jnp.ones((2, 4))})

    def update(grads, moments):
        return tx.update(grads, tx.init(grads), grads, moments=moments)[0]

    mesh = jax.make_mesh((2,), ("model",), (AxisType.Auto,))
    specs = {"in_specs": (P("model"), P()), "out_specs": P("model")}
    got = helpers.jit(jax.shard_map(update, mesh=mesh, **specs))(grads, moments)
    helpers.assert_trees_close(got, update(grads, moments))


@pytest.mark.parametrize("check_vma", [True, False])
def test_models_of_their_own_beside_the_batchs_axis_are_no_shards(check_vma):
    """Seeds over one axis and the batch over the other."""
    seeds = jax.tree.map(lambda x: jnp.stack([x, 3 * x]), PARAMS)

    def moments(params, x):
        own = jax.tree.map(lambda p: p[0], params)
        specs = None if check_vma else P()
        found = gathered(own, x, whole_loss, param_specs=specs)
        return jax.tree.map(lambda norm: norm[None], found)

    mesh = jax.make_mesh((2, 4), ("seed", "data"), (AxisType.Auto,) * 2)
    step = jax.shard_map(
        moments,
        mesh=mesh,
        in_specs=(P("seed"), P("data")),
        out_specs=P("seed"),
        check_vma=check_vma,
    )
    got = jax.jit(step)(seeds, X)
    for i in range(2):
        own = jax.tree.map(lambda p, i=i: p[i], seeds)
        expected = optax_lena.value_and_grad(whole_loss, 4)(own, X)[2]
        seed = jax.tree.map(lambda norm, i=i: norm[i], got)
        helpers.assert_trees_close(seed, expected, rtol=1e-5)
