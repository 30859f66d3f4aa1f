"""`lena_muon`: against `optax.contrib.muon`, and against float64 at another S."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optax_lena
from tests import helpers, oracle

N = 4
lena_muon = optax_lena.lena_muon


@pytest.mark.parametrize(
    "arguments",
    [
        dict(),
        dict(nesterov=False, weight_decay=0.1),
        dict(eps=0.1),
        dict(beta=0.9, adam_b1=0.8, adam_b2=0.95, mu_dtype="bfloat16"),
        dict(weight_decay=0.1, weight_decay_mask=lambda p: jax.tree.map(jnp.size, p)),
        dict(adam_weight_decay=0.01, options={"ns_steps": 3, "adaptive": True}),
        dict(options={"muon_weight_dimension_numbers": lambda p: _no_head(p)}),
    ],
)
def test_at_a_batch_scale_of_one_it_is_muon(arguments):
    """To the last bit, whatever the moments say, and though the loss rises."""
    options = arguments.get("options", {})
    ours = lena_muon(0.02, batch_scale=1, **arguments)
    given = {k: v for k, v in arguments.items() if k != "options"}
    theirs = optax.contrib.muon(0.02, **given, **options)
    params = helpers.example_params()
    states = ours.init(params), theirs.init(params)
    for seed in range(4):
        grads, moments = helpers.example_moments(seed)
        extra = dict(moments=moments, value=float(seed))
        got, ours_state = ours.update(grads, states[0], params, **extra)
        want, theirs_state = theirs.update(grads, states[1], params)
        helpers.assert_trees_equal(got, want)
        states = ours_state, theirs_state
        params = optax.apply_updates(params, want)


def _no_head(params):
    """Matrices are those of conv1, and a stack of blocks."""
    matrix = optax.contrib.MuonDimensionNumbers()
    return {
        "blocks": {"kernel": optax.contrib.MuonDimensionNumbers(1, 2)},
        "conv1": {"bias": None, "kernel": matrix},
        "head": {"kernel": None},
    }


def orthogonal(x):
    """Newton and Schulz's iteration, as Muon has it."""
    transposed = x.shape[0] > x.shape[1]
    x = x.T if transposed else x
    x = x / (np.linalg.norm(x) + 1e-8)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if transposed else x


def test_agrees_with_float64_where_the_batch_changes_in_mid_run():
    scales = np.repeat([8.0, 64.0, 16.0], 5)
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((len(scales), N, 3, 4))
    stacks = (rng.standard_normal((3, 4)) + noise).astype(np.float32)
    tx = optax.inject_hyperparams(lena_muon, static_args="beta")(0.02, 8.0)
    params = {"w": jnp.ones((3, 4))}

    @helpers.jit
    def step(state, stack, scale):
        state.hyperparams["batch_scale"] = scale
        grads, moments = optax_lena.moments_from_stack({"w": stack})
        return tx.update(grads, state, params, moments=moments)

    layer, state = oracle.Layer(oracle.normalised, 8.0, growth=1.4), tx.init(params)
    momentum, left = np.zeros((3, 4)), 1.0
    for stack, scale in zip(stacks, scales, strict=True):
        updates, state = step(state, stack, jnp.float32(scale))
        layer.at(scale)
        _, rate = layer.rate(stack.astype(np.float64))
        beta, grad = oracle.forget(0.95, scale, 0.9), stack.astype(np.float64).mean(0)
        momentum = beta * momentum + (1 - beta) * grad
        left *= beta
        ahead = beta * momentum / (1 - left * beta) + (1 - beta) * grad / (1 - left)
        expected = -0.02 * rate * np.sqrt(4 / 3) * orthogonal(ahead)
        np.testing.assert_allclose(updates["w"], expected, rtol=1e-4, atol=1e-6)
    assert step._cache_size() == 1


@pytest.mark.parametrize(
    "name, remedy",
    [
        ("beta", "give `beta` to lena_muon"),
        ("nesterov", "give `nesterov` to lena_muon"),
        ("mu_dtype", "give `mu_dtype` to lena_muon"),
        ("eps", "give `eps` to lena_muon"),
        ("weight_decay", "give `weight_decay` to lena_muon"),
        ("weight_decay_mask", "give `weight_decay_mask` to lena_muon"),
        ("adam_b1", "give `adam_b1` to lena_muon"),
        ("adam_weight_decay", "give `adam_weight_decay` to lena_muon"),
        ("adam_learning_rate", "give `learning_rate` to lena_muon"),
        ("adam_eps_root", "does not shape"),
        ("ns_step", "does not have"),
    ],
)
def test_options_that_shape_no_orthogonalisation_are_refused(name, remedy):
    """Muon would take most of them, and nothing would come of it."""
    message = helpers.says("`options`", "'ns_steps'", f"got {name!r}", remedy)
    with pytest.raises(ValueError, match=message):
        lena_muon(0.02, options={name: 0.1})


def test_options_are_a_dictionary():
    message = helpers.says("`options`", "dictionary", "'ns_steps'", "got 6")
    with pytest.raises(ValueError, match=message):
        lena_muon(0.02, options=6)


def test_a_layer_of_matrices_and_others_is_told_of():
    """Adam's units and the gradient's own do not add up."""
    params = {"dense": {"kernel": jnp.ones((4, 4)), "bias": jnp.zeros(4)}}
    tx = optax_lena.lena_muon(0.02, 4, layers=optax_lena.per_module)
    with pytest.warns(RuntimeWarning, match=helpers.says("`layers`", "'dense'")):
        tx.init(params)
    for layers in (optax_lena.by_regex("kernel", "bias"), optax_lena.whole_model):
        optax_lena.lena_muon(0.02, 4, layers=layers).init(params)


def test_matrices_alone_need_no_preconditioner():
    stack = {"w": jnp.ones((N, 2, 3))}
    grads, moments = optax_lena.moments_from_stack(stack)
    tx = lena_muon(0.1, N)
    tx.update(grads, tx.init(grads), grads, moments=moments)  # and warns of nothing


@pytest.mark.filterwarnings("error")
def test_matrices_that_a_wrapper_leaves_alone_need_no_preconditioner():
    grads, moments = optax_lena.moments_from_stack(helpers.random_stacks(0, 4))
    labels = jax.tree.map(lambda x: "muon" if x.ndim == 2 else "frozen", grads)
    muon = optax_lena.lena_muon(0.01, batch_scale=4)
    tx = optax.partition({"muon": muon, "frozen": optax.set_to_zero()}, labels)
    tx.update(grads, tx.init(grads), grads, moments=moments)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0)])
def test_a_matrix_without_entries_is_none(shape):
    stack = {"w": jnp.ones((N, 2, 3)), "empty": jnp.ones((N, *shape))}
    grads, moments = optax_lena.moments_from_stack(stack)
    tx = lena_muon(0.1, N)
    updates, _ = tx.update(grads, tx.init(grads), grads, moments=moments)
    assert updates["empty"].shape == shape
    alone, moments = optax_lena.moments_from_stack({"w": stack["w"]})
    expected, _ = tx.update(alone, tx.init(alone), alone, moments=moments)
    np.testing.assert_array_equal(updates["w"], expected["w"])


@pytest.mark.parametrize("spec", [P("data"), P(None, "data")])
def test_matrices_may_be_sharded_over_explicit_axes(spec):
    """The product of two shards has no type; what comes out has that of the matrix."""
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Explicit,))
    rng = np.random.default_rng(0)
    stack = {"w": rng.standard_normal((N, 8, 16)).astype(np.float32)}
    grads, moments = optax_lena.moments_from_stack(stack)
    tx = lena_muon(0.1, N)
    update = lambda grads: tx.update(grads, tx.init(grads), grads, moments=moments)[0]
    with jax.set_mesh(mesh):
        sharded = jax.device_put(grads, NamedSharding(mesh, spec))
        updates = jax.jit(update)(sharded)
    assert jax.typeof(updates["w"]) == jax.typeof(sharded["w"])
    # Five steps of Muon's iteration make up to a hundred roundings of one.
    np.testing.assert_allclose(updates["w"], update(grads)["w"], rtol=1e-3, atol=1e-5)
