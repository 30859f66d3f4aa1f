"""What XLA makes of a step on 8 devices: collectives, memory, shardings, transfers."""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AxisType, NamedSharding

import optax_lena
from tests.devices import (
    LAYERS,
    P,
    collectives,
    data_mesh,
    elements_reduced,
    gatherer,
    laid_out,
    local_gradients,
    loss_fn,
    problem,
)
from tests.helpers import assert_trees_close, lena_state, row


def optimizers(layers=LAYERS):
    return optax.sgd(0.1, momentum=0.9), optax_lena.lena(
        0.1, 8, warmup_steps=20, layers=layers
    )


def sgd_step(params, state, batch, average=lambda x: x):
    loss, grads = jax.value_and_grad(loss_fn)(params, batch)
    loss, grads = average((loss, grads))
    updates, state = optimizers()[0].update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss


def lena_step(params, state, batch, gather):
    loss, grads, moments = gather(params, batch)
    updates, state = optimizers()[1].update(grads, state, params, moments=moments)
    return optax.apply_updates(params, updates), state, loss


def with_local_gradients(params, batch):
    loss = jax.lax.pmean(loss_fn(params, batch), "data")
    return loss, *local_gradients(params, batch)


def jitted(step, batch_spec):
    del batch_spec
    return step


def mapped(step, batch_spec, check_vma):
    return jax.shard_map(
        step,
        mesh=data_mesh(8),
        in_specs=(P(), P(), batch_spec),
        out_specs=P(),
        check_vma=check_vma,
    )


ROUTES = {
    "jit": (jitted, gatherer(axis_name="data")),
    "jit, 2 microbatches per device": (jitted, gatherer(16, axis_name="data")),
    "shard_map, own loss": (
        functools.partial(mapped, check_vma=True),
        gatherer(axis_name="data"),
    ),
    "shard_map, own loss, 2 microbatches per device": (
        functools.partial(mapped, check_vma=True),
        gatherer(16, axis_name="data"),
    ),
    "shard_map, local gradients": (
        functools.partial(mapped, check_vma=True),
        with_local_gradients,
    ),
    "shard_map, check_vma=False": (
        functools.partial(mapped, check_vma=False),
        with_local_gradients,
    ),
}


def first_batch():
    params, batches = problem(jnp.float32)
    batch = row(batches, 0)
    placed = jax.device_put(batch, NamedSharding(data_mesh(8), P("data")))
    return jax.device_put(params, NamedSharding(data_mesh(8), P())), placed


@pytest.mark.parametrize("name", ROUTES)
def test_no_collective_beyond_those_of_sgd(name):
    """The norms ride in the gradient's all-reduce."""
    wrap, gather = ROUTES[name]
    params, batch = first_batch()
    plain_step = sgd_step
    if (
        wrap is not jitted
    ):  # with check_vma jax.grad sums by itself: one pmean either way
        plain_step = functools.partial(
            sgd_step, average=lambda x: jax.lax.pmean(x, "data")
        )
        wrap_plain = functools.partial(mapped, check_vma=False)
    else:
        wrap_plain = jitted
    sgd, lena = optimizers()
    plain = collectives(
        wrap_plain(plain_step, P("data")), params, sgd.init(params), batch
    )
    step = wrap(functools.partial(lena_step, gather=gather), P("data"))
    ours = collectives(step, params, lena.init(params), batch)
    assert len(plain) == 1, plain
    assert len(ours) == 1, ours
    # Beyond gradients and loss: one norm per layer (and the unused weights' sums).
    extra = elements_reduced(ours) - elements_reduced(plain)
    layers = len(jax.tree.leaves(params)) + 1  # one parameter stacks two
    assert 0 < extra <= layers + 2


def test_shard_map_in_the_loss_gathers_no_batch():
    """A layer of the model may be mapped over another axis; the batch stays put."""
    kinds = (AxisType.Auto,) * 2
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=kinds)

    def loss(params, batch):
        x, y = batch

        def wide_layer(x, up, down):
            return jax.lax.psum(jnp.tanh(x @ up) @ down, "model")

        specs = (P(), P(None, "model"), P("model", None))
        layer = jax.shard_map(  # checked, jax 0.8 trips over the mapped axis
            wide_layer, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=False
        )
        return jnp.mean((layer(x, params["hidden"], params["out"]) - y) ** 2)

    params, batches = problem(jnp.float32)
    params = {name: params[name]["kernel"] for name in ("hidden", "out")}
    sharding = NamedSharding(mesh, P("data"))
    batch = jax.device_put(row(batches, 0), sharding)
    params = jax.device_put(params, NamedSharding(mesh, P()))
    gather = optax_lena.value_and_grad(loss, 4, axis_name="data")
    lines = collectives(gather, params, batch)
    assert lines and all(" all-reduce(" in line for line in lines), lines


def test_pmap_has_one_all_reduce():
    params, batch = problem(jnp.float32)
    batch = jax.tree.map(lambda x: x[0].reshape(8, 4, -1), batch)
    stack = lambda tree: jax.tree.map(lambda x: jnp.stack([x] * 8), tree)
    state = optimizers()[1].init(params)
    step = functools.partial(lena_step, gather=with_local_gradients)
    lowered = jax.pmap(step, axis_name="data").lower(stack(params), stack(state), batch)
    assert lowered.compile().as_text().count("all-reduce(") == 1


def transformer_loss(params, tokens):
    """Twelve blocks with attention and a wide layer; scores over the vocabulary."""
    x = params["embedding"][tokens[:, :-1]]
    mask = jnp.tril(jnp.ones((x.shape[1],) * 2, bool))[None]
    for block in params["blocks"]:
        q, k, v = jnp.split(x @ block["qkv"], 3, axis=-1)
        scores = jnp.einsum("bqd,bkd->bqk", q, k) / x.shape[-1] ** 0.5
        weights = jax.nn.softmax(jnp.where(mask, scores, -1e9))
        x = x + jnp.einsum("bqk,bkd->bqd", weights, v) @ block["out"]
        x = x + jax.nn.gelu(x @ block["up"]) @ block["down"]
    logits = x @ params["embedding"].T
    labels = tokens[:, 1:]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def transformer(width=64, blocks=12, vocabulary=256):
    shapes = {
        "embedding": (vocabulary, width),
        "blocks": [
            {
                "qkv": (width, 3 * width),
                "out": (width, width),
                "up": (width, 4 * width),
                "down": (4 * width, width),
            }
            for _ in range(blocks)
        ],
    }
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def test_fsdp_needs_no_more_memory_than_sgd():
    """12 blocks, parameters and optimizer sharded over the axis that has the batch."""
    mesh = data_mesh(8)
    sharded = lambda tree: jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=NamedSharding(mesh, P(*("data",)[: x.ndim]))
        ),
        tree,
    )
    params = sharded(transformer())
    tokens = sharded(jax.ShapeDtypeStruct((8 * 8, 65), jnp.int32))
    gather = optax_lena.value_and_grad(transformer_loss, 8, axis_name="data")
    sgd, lena = optimizers(optax_lena.per_parameter)

    def plain(params, state, tokens):
        loss, grads = jax.value_and_grad(transformer_loss)(params, tokens)
        updates, state = sgd.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    def ours(params, state, tokens):
        loss, grads, moments = gather(params, tokens)
        updates, state = lena.update(grads, state, params, moments=moments)
        return optax.apply_updates(params, updates), state, loss

    def compiled(step, tx):
        placed = lambda spec: (
            lambda x: jax.ShapeDtypeStruct(
                x.shape, x.dtype, sharding=NamedSharding(mesh, spec)
            )
        )
        state = optax.tree_utils.tree_map_params(
            tx,
            placed(P("data")),
            jax.eval_shape(tx.init, params),
            transform_non_params=placed(P()),
        )
        shardings = jax.tree.map(lambda x: x.sharding, (params, state))
        out = (*shardings, NamedSharding(mesh, P()))
        step = jax.jit(step, donate_argnums=(0, 1), out_shardings=out)
        return step.lower(params, state, tokens).compile()

    memory = lambda step: step.memory_analysis().temp_size_in_bytes
    base, with_lena = compiled(plain, sgd), compiled(ours, lena)
    print(f"temporary bytes: sgd {memory(base)}, lena {memory(with_lena)}")
    assert memory(with_lena) <= 1.02 * memory(base)


@pytest.mark.parametrize("layout", ["replicated", "fsdp"])
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_update_leaves_the_state_as_init_placed_it(kind, layout):
    """And compiles once. With automatic axes optax's momentum is placed by the first
    update, if `init` is jitted without shardings; LENA's own state never moves.
    """
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    tx = optimizers()[1]
    with jax.set_mesh(mesh):
        params, batches = problem(jnp.float32)
        params = laid_out(params, mesh, layout)
        batch = row(batches, 0)
        batch = jax.device_put(batch, NamedSharding(mesh, P("data")))
        state = jax.jit(tx.init)(params)
        step = jax.jit(functools.partial(lena_step, gather=gatherer(axis_name="data")))
        _, after, _ = step(params, state, batch)
        step(params, after, batch)
    if (kind, layout) == (AxisType.Auto, "fsdp"):
        state, after = lena_state(state), lena_state(after)
    else:
        assert step._cache_size() == 1
    for before, now in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        assert jax.typeof(before) == jax.typeof(now)
        assert before.sharding.is_equivalent_to(now.sharding, now.ndim)
    for leaf in jax.tree.leaves(lena_state(after)):
        assert leaf.sharding.is_fully_replicated


def test_abstract_init_says_what_init_makes():
    params, _ = first_batch()
    tx = optimizers()[1]
    abstract = jax.eval_shape(tx.init, params)
    concrete = tx.init(params)
    assert jax.tree.structure(abstract) == jax.tree.structure(concrete)
    for a, c in zip(jax.tree.leaves(abstract), jax.tree.leaves(concrete), strict=True):
        assert (a.shape, a.dtype) == (c.shape, c.dtype)


def test_no_host_transfer_in_the_step():
    params, batch = first_batch()
    state = jax.jit(optimizers()[1].init)(params)
    step = jax.jit(functools.partial(lena_step, gather=gatherer(axis_name="data")))
    params, state, _ = step(params, state, batch)
    with jax.transfer_guard("disallow"):
        params, state, _ = step(params, state, batch)
    assert float(optax_lena.metrics(state)["model/base_steps"]) == 16


def test_accumulation_by_scan_holds_one_gradient():
    """Whatever n: the sums, and the gradient of the microbatch at hand."""
    params = jax.tree.map(lambda x: jnp.zeros(x.shape), transformer(blocks=2))
    size = sum(x.size * 4 for x in jax.tree.leaves(params))

    def temporary_bytes(n):
        gather = optax_lena.value_and_grad(transformer_loss, n)
        tokens = jax.ShapeDtypeStruct((n, 33), jnp.int32)
        compiled = jax.jit(gather).lower(params, tokens).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    few, many = temporary_bytes(4), temporary_bytes(64)
    print(f"parameters {size}, temporary with n=4: {few}, with n=64: {many}")
    assert many - few < 0.05 * size


def test_an_axis_must_exist():
    params, batch = first_batch()
    gather = optax_lena.value_and_grad(loss_fn, 8, axis_name="rows")
    with pytest.raises(ValueError, match=r"`axis_name`.*'rows'.*'data'.*set_mesh"):
        jax.jit(gather)(params, batch)


def test_microbatches_divide_by_devices():
    params, batch = first_batch()
    gather = optax_lena.value_and_grad(loss_fn, 4, axis_name="data")
    with pytest.raises(ValueError, match=r"multiple of the 8 devices.*got 4"):
        jax.jit(gather)(params, batch)


def test_gradients_are_typed_like_the_parameters():
    """With explicit axis types the optimizer needs gradients of the same type."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    params, batches = problem(jnp.float32)
    with jax.set_mesh(mesh):
        params = laid_out(params, mesh, "fsdp")
        batch = row(batches, 0)
        batch = jax.device_put(batch, NamedSharding(mesh, P("data")))
        _, grads, _ = jax.jit(gatherer(axis_name="data"))(params, batch)
    for grad, param in zip(
        jax.tree.leaves(grads), jax.tree.leaves(params), strict=True
    ):
        assert jax.typeof(grad) == jax.typeof(param)


def test_explicit_axes_of_one_device():
    """What was written for many devices runs on one, without an `axis_name` too."""
    params, batches = problem(jnp.float32)
    mesh = jax.make_mesh(
        (1,), ("data",), axis_types=(AxisType.Explicit,), devices=jax.devices()[:1]
    )
    own_loss = lambda params, batch: (loss_fn(params, batch), batch[1])
    gather = optax_lena.value_and_grad(own_loss, 8, has_aux=True, layers=LAYERS)
    batch = row(batches, 0)
    plain = jax.jit(gather)(params, batch)
    with jax.set_mesh(mesh):
        batch = jax.device_put(batch, NamedSharding(mesh, P("data")))
        typed = jax.jit(gather)(laid_out(params, mesh, "replicated"), batch)
    (_, labels), *_ = typed
    assert jax.typeof(labels) == jax.typeof(batch[1])
    assert_trees_close(typed, plain)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_sequences_stay_sharded_over_their_own_axis(kind):
    """Context parallelism: in space nothing is gathered, and nothing done twice."""
    mesh = jax.make_mesh((2, 4), ("data", "sequence"), (kind, kind))
    batch = jax.random.normal(jax.random.key(0), (8, 16, 4))
    batch = jax.device_put(batch, NamedSharding(mesh, P("data", "sequence")))
    params = jax.device_put({"w": jnp.ones((4, 4))}, NamedSharding(mesh, P()))
    loss = lambda params, x: jnp.mean(jnp.tanh(x @ params["w"]) ** 2)
    gather = optax_lena.value_and_grad(loss, 2, axis_name="data", spread="space")
    with jax.set_mesh(mesh):
        lines = collectives(lambda *args: gather(*args)[1], params, batch)
    assert not [line for line in lines if "all-gather" in line]


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("axis", ["data", "stage"])
def test_layers_of_a_stack_may_lie_on_different_devices(kind, axis):
    """Under `jax.jit`, as the stages of a pipeline do."""
    mesh = jax.make_mesh((2, 4), ("data", "stage"), (kind, kind))
    layers = optax_lena.stacked("w")
    tx = optax_lena.lena_amplified(0.1, 4, layers=layers)
    loss_fn = lambda params, x: jnp.mean(jnp.tanh(x @ params["w"].sum(0)) ** 2)

    def step(params, batch, axis_name=None):
        gather = optax_lena.value_and_grad(
            loss_fn, 4, axis_name=axis_name, layers=layers
        )
        loss, grads, moments = gather(params, batch)
        return tx.update(grads, tx.init(params), params, moments=moments, value=loss)[0]

    params = {"w": jax.random.normal(jax.random.key(0), (4, 3, 3)), "v": jnp.ones(())}
    batch = jax.random.normal(jax.random.key(1), (16, 3))
    expected = jax.jit(step)(params, batch)
    with jax.set_mesh(mesh):
        specs = {"w": P(axis), "v": P()}
        params = jax.tree.map(
            lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec)), params, specs
        )
        batch = jax.device_put(batch, NamedSharding(mesh, P("data")))
        got = jax.jit(functools.partial(step, axis_name="data"))(params, batch)
    assert_trees_close(jax.device_get(got), jax.device_get(expected), rtol=1e-5)
