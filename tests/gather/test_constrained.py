"""Models that say how their activations lie: flax gemma, big_vision and MaxText do.

Every mesh and way of saying it gives what one device gives for the same microbatches.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optax_lena
import optax_lena.flax
from tests.helpers import says

BATCH, WIDTH, HIDDEN = 32, 8, 16
MESHES = {
    "data": ((8,), ("data",)),
    "data, fsdp": ((4, 2), ("data", "fsdp")),
    "data, fsdp, tensor": ((2, 2, 2), ("data", "fsdp", "tensor")),
}


def mesh_of(name, kind):
    shape, axes = MESHES[name]
    return jax.make_mesh(shape, axes, (kind,) * len(axes))


def batch_axes(mesh):
    return tuple(name for name in mesh.axis_names if name != "tensor")


def tensor(mesh):
    return "tensor" if "tensor" in mesh.axis_names else None


def example():
    keys = jax.random.split(jax.random.key(0), 4)
    params = {
        "up": jax.random.normal(keys[0], (WIDTH, HIDDEN)) / 3,
        "down": jax.random.normal(keys[1], (HIDDEN, 1)) / 3,
    }
    x = jax.random.normal(keys[2], (BATCH, WIDTH))
    return params, (x, x[:, :1] + jax.random.normal(keys[3], (BATCH, 1)))


def loss_of(mesh=None, constrain=lambda x, spec: x, matmul=lambda x, w, spec: x @ w):
    """A perceptron whose activations are constrained over the batch's axes."""
    rows = batch_axes(mesh) if mesh is not None else None
    columns = tensor(mesh) if mesh is not None else None

    def loss(params, batch):
        x, y = batch
        hidden = matmul(constrain(x, P(rows, None)), params["up"], P(rows, columns))
        hidden = jnp.tanh(constrain(hidden, P(rows, columns)))
        out = constrain(matmul(hidden, params["down"], P(rows, None)), P(rows, None))
        return jnp.mean((out - y) ** 2), out

    return loss


def placed(mesh, params, batch):
    place = lambda spec: lambda x: jax.device_put(x, NamedSharding(mesh, spec))
    columns = tensor(mesh)
    params = {
        "up": place(P(None, columns))(params["up"]),
        "down": place(P(columns, None))(params["down"]),
    }
    return params, jax.tree.map(place(P(batch_axes(mesh))), batch)


def assert_same(actual, desired):
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, actual, desired)


WAYS = {
    (AxisType.Auto, "axis_name"): {"named": True},
    (AxisType.Auto, "no axis_name"): {},
    (AxisType.Auto, "in time"): {"named": True, "spread": "time"},
    (AxisType.Explicit, "axis_name"): {"named": True},
    (AxisType.Explicit, "no axis_name"): {},
}


@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way[0].name}, {way[1]}")
@pytest.mark.parametrize("name", MESHES)
def test_constrained_activations_give_what_one_device_gives(name, way, n):
    kind, _ = way
    mesh = mesh_of(name, kind)
    n_is_enough_in_space = n % np.prod([mesh.shape[a] for a in batch_axes(mesh)]) == 0
    options = dict(WAYS[way])
    named = options.pop("named", False)
    if named and not n_is_enough_in_space:
        options["spread"] = "time"
    params, batch = example()
    desired = optax_lena.value_and_grad(loss_of(), n, has_aux=True, spread="time")(
        params, batch
    )

    if kind == AxisType.Auto:
        constrain = jax.lax.with_sharding_constraint
        loss = loss_of(mesh, lambda x, spec: constrain(x, NamedSharding(mesh, spec)))
    else:
        matmul = lambda x, w, spec: jnp.matmul(x, w, out_sharding=spec)
        loss = loss_of(mesh, jax.sharding.reshard, matmul)
    axis_name = batch_axes(mesh) if named else None
    with jax.set_mesh(mesh):
        gather = optax_lena.value_and_grad(
            loss, n, has_aux=True, axis_name=axis_name, **options
        )
        actual = jax.jit(gather)(*placed(mesh, params, batch))
    assert_same(actual, desired)


def test_unconstrained_models_stay_in_space_and_agree_with_time_on_loss_and_gradient():
    mesh = mesh_of("data", AxisType.Auto)
    params, batch = placed(mesh, *example())
    runs = {
        spread: jax.jit(
            optax_lena.value_and_grad(
                loss_of(), 8, has_aux=True, axis_name="data", spread=spread
            )
        )(params, batch)
        for spread in ("space", "time", None)
    }
    assert_same(runs[None], runs["space"])
    assert_same(runs["space"][:2], runs["time"][:2])
    # Other examples make other microbatches, whose norms differ.
    micro = [runs[spread][2].micro_sq_norm["up"] for spread in ("space", "time")]
    assert not np.allclose(*micro)
    # Asked for space, a constrained model is an error and not quietly in time.
    loss = loss_of(
        mesh, lambda x, s: jax.lax.with_sharding_constraint(x, NamedSharding(mesh, s))
    )
    strict = optax_lena.value_and_grad(
        loss, 8, has_aux=True, axis_name="data", spread="space"
    )
    with pytest.raises(ValueError, match="spmd_axis_name"):
        jax.jit(strict)(params, batch)


@pytest.mark.parametrize("seed", range(3))
def test_in_time_and_in_space_estimate_the_same_noise(seed):
    """Over 64 draws of the batch the two means agree within 4 standard errors."""
    mesh = mesh_of("data", AxisType.Auto)
    params, _ = example()
    gathers = [
        jax.jit(
            optax_lena.value_and_grad(
                loss_of(), 8, has_aux=True, axis_name="data", spread=spread
            )
        )
        for spread in ("space", "time")
    ]
    noises = []
    for key in jax.random.split(jax.random.key(seed), 64):
        x = jax.random.normal(key, (BATCH, WIDTH))
        y = x[:, :1] + jax.random.normal(jax.random.fold_in(key, 1), (BATCH, 1))
        placed_params, batch = placed(mesh, params, (x, y))
        moments = [gather(placed_params, batch)[2] for gather in gathers]
        spread = [m.micro_sq_norm["up"] - m.batch_sq_norm["up"] for m in moments]
        noises.append([float(x) for x in spread])
    difference = np.diff(noises, axis=1)[:, 0]
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    assert abs(difference.mean()) < 4 * error


class Scanned(nn.Module):
    """Blocks that linen scans, constrained by logical names, as in MaxText."""

    @nn.compact
    def __call__(self, x):
        def body(module, x, _):
            kernel = nn.with_logical_partitioning(
                nn.initializers.lecun_normal(), ("embed", "mlp")
            )
            x = jnp.tanh(nn.Dense(WIDTH, kernel_init=kernel, name="dense")(x))
            return nn.with_logical_constraint(x, ("batch", None)), None

        scan = nn.scan(
            body,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=3,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        return scan(self, x, None)[0]


def test_linen_blocks_with_logical_constraints():
    mesh = mesh_of("data, fsdp", AxisType.Auto)
    rules = [("batch", "data"), ("embed", None), ("mlp", "fsdp"), ("layers", None)]
    model = Scanned()
    _, (x, _) = example()
    params = nn.unbox(model.init(jax.random.key(1), x)["params"])
    layers = optax_lena.stacked("kernel|bias")

    def loss(params, x):
        return jnp.mean((model.apply({"params": params}, x) - 1) ** 2)

    desired = optax_lena.value_and_grad(loss, 4, spread="time", layers=layers)(
        params, x
    )
    with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
        x = jax.device_put(x, NamedSharding(mesh, P("data")))
        gather = optax_lena.value_and_grad(loss, 4, axis_name="data", layers=layers)
        actual = jax.jit(gather)(params, x)
    assert_same(actual, desired)
    assert actual[2].micro_sq_norm["dense"]["kernel"].shape == (3,)


class Net(nnx.Module):
    """nnx sharding annotations on parameters, a constraint on the activations."""

    def __init__(self, rngs, mesh=None):
        self.mesh = mesh
        self.up = nnx.Linear(WIDTH, HIDDEN, rngs=rngs)
        self.norm = nnx.BatchNorm(HIDDEN, rngs=rngs)
        self.down = nnx.Linear(HIDDEN, 1, rngs=rngs)

    def __call__(self, x):
        x = self.norm(jnp.tanh(self.up(x)))
        if self.mesh is not None:
            sharding = NamedSharding(self.mesh, P("data"))
            x = jax.lax.with_sharding_constraint(x, sharding)
        return self.down(x)


def test_nnx_model_with_a_constraint_and_batch_statistics():
    mesh = mesh_of("data", AxisType.Auto)
    _, batch = example()
    results = []
    for own, placement in ((None, None), (mesh, NamedSharding(mesh, P("data")))):
        model = Net(nnx.Rngs(0), own)
        gather = optax_lena.flax.value_and_grad(
            lambda model, batch: jnp.mean((model(batch[0]) - batch[1]) ** 2),
            4,
            axis_name=None if own is None else "data",
            spread="time",
        )
        loss, *rest = nnx.jit(gather)(model, jax.device_put(batch, placement))
        results.append((loss, jax.tree.leaves(rest), model.norm.mean[...]))
    assert_same(results[1], results[0])


def test_a_loss_that_fails_by_itself_says_so_and_not_how_to_spread_it():
    mesh = mesh_of("data", AxisType.Auto)
    params, batch = placed(mesh, *example())
    gather = optax_lena.value_and_grad(
        lambda params, batch: params["missing"], 8, axis_name="data"
    )
    with jax.set_mesh(mesh), pytest.raises(KeyError, match="missing"):
        gather(params, batch, weights=jnp.ones(8))


def test_weights_are_not_given_to_other_microbatches_where_the_model_is_constrained():
    """They are those of examples side by side; in time, others are taken together."""
    mesh = mesh_of("data", AxisType.Auto)
    params, batch = placed(mesh, *example())
    loss = loss_of(
        mesh, lambda x, s: jax.lax.with_sharding_constraint(x, NamedSharding(mesh, s))
    )
    gather = optax_lena.value_and_grad(loss, 8, has_aux=True, axis_name="data")
    message = says("`spread`", "`weights`", "the model constrains")
    with jax.set_mesh(mesh), pytest.raises(ValueError, match=message):
        gather(params, batch, weights=jnp.ones(8))


@pytest.mark.parametrize("microbatches", [8, 32])
def test_blocks_of_a_scan_whose_carry_says_how_it_lies(microbatches):
    """The carry is of the batch's type only where types say how that lies."""
    mesh = jax.make_mesh((8,), ("data",), (AxisType.Explicit,))

    def loss(params, batch):
        def block(x, kernel):
            return jax.sharding.reshard(jnp.tanh(x @ kernel), P("data", None)), None

        x, _ = jax.lax.scan(block, batch, params)
        return jnp.mean(x**2)

    gather = optax_lena.value_and_grad(loss, microbatches, axis_name="data")
    with jax.set_mesh(mesh):
        params = jax.device_put(0.3 * jnp.ones((3, 4, 4)), P())
        batch = jax.random.normal(jax.random.key(0), (64, 4))
        batch = jax.device_put(batch, P("data"))
        if microbatches == 32:  # of two rows, on eight devices
            message = says("`batch`", "32 microbatches", "8 devices", "64 examples")
            with pytest.raises(ValueError, match=message):
                jax.jit(gather)(params, batch)
            return
        value, grads, _ = jax.jit(gather)(params, batch)
        expected = jax.jit(jax.value_and_grad(loss))(params, batch)
    np.testing.assert_allclose(value, expected[0], rtol=1e-6)
    np.testing.assert_allclose(grads, expected[1], rtol=1e-5, atol=1e-8)
