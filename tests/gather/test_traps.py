"""Traps of data-parallel JAX: the silent errors of hand-written attempts.

Each test shows the trap and that the library is out of it. Traps with a test file of
their own: MultiSteps (test_accumulate), linen's TrainState (flax/test_linen), scanned
parameters (flax/test_scanned), memory under FSDP (test_sharding), state structure and
inject_hyperparams (contract), unequal microbatches and NaN (transform).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

import optax_lena
from tests.devices import P, data_mesh
from tests.helpers import assert_trees_close, says

WEIGHT = jnp.array([2.0, 1.0])
BATCH = jnp.arange(16.0).reshape(8, 2)


def loss_fn(params, batch):
    return jnp.mean(batch @ params["w"]) ** 2


def local(params, batch, *, cast):
    if cast:
        params = jax.lax.pcast(params, "data", to="varying")
    return jax.grad(loss_fn)(params, batch)


def in_shard_map(function, check_vma=True):
    specs = {"in_specs": (P(), P("data")), "out_specs": P()}
    mapped = jax.shard_map(function, mesh=data_mesh(4), check_vma=check_vma, **specs)
    return jax.jit(mapped)


def true_micro_sq_norm():
    grads = jax.vmap(jax.grad(loss_fn), (None, 0))(
        {"w": WEIGHT}, BATCH.reshape(4, 2, 2)
    )
    return float(jnp.mean(jnp.sum(grads["w"] ** 2, axis=1)))


def test_shard_map_sums_gradients_of_replicated_parameters():
    """The trap itself: every device holds the sum, and calls it its own."""

    def norms(params, batch, cast):
        grad = local(params, batch, cast=cast)["w"]
        return jax.lax.pmean(jnp.sum(grad**2), "data")

    norms_of = lambda cast: float(
        in_shard_map(functools.partial(norms, cast=cast))({"w": WEIGHT}, BATCH)
    )
    assert norms_of(True) == pytest.approx(true_micro_sq_norm())
    assert norms_of(False) > 5 * true_micro_sq_norm()


def test_a_loss_that_is_averaged_already_is_an_error_that_says_so():
    """Its gradients would be too short by the number of devices."""
    averaged = lambda params, batch: jax.lax.pmean(loss_fn(params, batch), "data")
    gather = optax_lena.value_and_grad(averaged, 4, axis_name="data")
    step = in_shard_map(lambda params, batch: gather(params, batch)[0])
    with pytest.raises(ValueError, match=says("`loss_fn`", "'data'", "pmean out")):
        step({"w": WEIGHT}, BATCH)


def test_a_forgotten_axis_is_an_error_that_names_it():
    """jax.grad sums over it, so that gradients would be too long."""
    gather = optax_lena.value_and_grad(loss_fn, 2)
    step = in_shard_map(lambda params, batch: gather(params, batch)[1])
    with pytest.raises(ValueError, match=says("`axis_name`", "None", "'data'")):
        step({"w": WEIGHT}, BATCH)


def test_with_a_mean_in_the_loss_microbatches_are_shared_by_all_devices():
    """No axis is named: what it would forget, the loss takes care of."""

    def loss(params, batch):
        return jax.lax.pmean(jnp.mean(batch @ params["w"]), "data")

    gather = optax_lena.value_and_grad(loss, 2)
    step = in_shard_map(lambda params, batch: gather(params, batch)[1])
    grads = step({"w": WEIGHT}, BATCH)
    np.testing.assert_allclose(grads["w"], BATCH.mean(0), rtol=1e-5)


def test_a_mesh_that_is_manual_over_the_batchs_axis_alone():
    """The other axis is XLA's, and types of traced shapes know no sharding."""
    mesh = jax.make_mesh((4, 2), ("data", "model"), (AxisType.Auto,) * 2)
    gather = optax_lena.value_and_grad(loss_fn, 8, axis_name="data")
    incremental = optax_lena.IncrementalMoments()

    def step(params, batch):
        own = jax.lax.pcast(params, "data", to="varying")
        sums = incremental.add(incremental.init(own), jax.grad(loss_fn)(own, batch))
        sums = jax.lax.psum(sums, "data")
        return gather(params, batch)[1:], incremental.finish(sums, params)

    specs = {"in_specs": (P(), P("data")), "out_specs": P(), "axis_names": {"data"}}
    got, summed = jax.jit(jax.shard_map(step, mesh=mesh, **specs))({"w": WEIGHT}, BATCH)
    _, *expected = optax_lena.value_and_grad(loss_fn, 8)({"w": WEIGHT}, BATCH)
    assert_trees_close(got, tuple(expected), rtol=1e-5)
    _, *expected = optax_lena.value_and_grad(loss_fn, 4)({"w": WEIGHT}, BATCH)
    np.testing.assert_allclose(summed[0]["w"], expected[0]["w"], rtol=1e-5)


def test_moments_over_axis_refuses_summed_gradients():
    def gather(params, batch):
        grads = local(params, batch, cast=False)
        return optax_lena.moments_over_axis(grads, "data")[1]

    with pytest.raises(ValueError, match=r"'w'.*already summed.*pcast.*value_and_grad"):
        in_shard_map(gather)({"w": WEIGHT}, BATCH)


@pytest.mark.parametrize("check_vma", [True, False])
def test_value_and_grad_differentiates_local_parameters(check_vma):
    gather = optax_lena.value_and_grad(loss_fn, 4, axis_name="data")
    moments = in_shard_map(lambda *args: gather(*args)[2], check_vma)(
        {"w": WEIGHT}, BATCH
    )
    assert float(moments.micro_sq_norm["w"]) == pytest.approx(true_micro_sq_norm())


def test_averaged_gradients_show_as_a_gain_of_one_everywhere():
    """Where types cannot tell (no check_vma, pmap): the check to make on the report."""

    def gather(params, batch):
        grads = jax.lax.pmean(local(params, batch, cast=False), "data")
        return optax_lena.moments_over_axis(grads, "data")

    grads, moments = in_shard_map(gather, check_vma=False)({"w": WEIGHT}, BATCH)
    tx = optax_lena.lena(0.1, batch_scale=4)
    _, state = tx.update(grads, tx.init(grads), moments=moments)
    with pytest.warns(RuntimeWarning, match="averaged over the devices before"):
        report = optax_lena.layer_report(state)
    assert report["w"]["gain"] == pytest.approx(1.0, abs=1e-6)


def test_means_of_means_are_wrong_for_unequal_devices():
    """Weights per device: 3 of 4 devices have half their examples padded."""
    counts = jnp.array([2.0, 1.0, 1.0, 1.0])
    mask = (jnp.arange(2)[None] < counts[:, None]).astype(jnp.float32).reshape(8)

    def masked_loss(params, batch):
        x, mask = batch
        return jnp.sum((x @ params["w"]) * mask) / jnp.sum(mask)

    def gather(params, batch):
        cast = jax.lax.pcast(params, "data", to="varying")
        grads = jax.grad(masked_loss)(cast, batch)
        weight = jnp.sum(batch[1])
        return optax_lena.moments_over_axis(grads, "data", weight=weight)

    grads, moments = in_shard_map(gather)({"w": WEIGHT}, (BATCH, mask))
    exact = jax.grad(masked_loss)({"w": WEIGHT}, (BATCH, mask))
    np.testing.assert_allclose(grads["w"], exact["w"], rtol=1e-6)
    own = optax_lena.value_and_grad(masked_loss, 4, axis_name="data")
    door = in_shard_map(
        lambda params, batch: own(params, batch, weights=jnp.sum(batch[1])[None])
    )
    _, own_grads, own_moments = door({"w": WEIGHT}, (BATCH, mask))
    np.testing.assert_allclose(own_grads["w"], exact["w"], rtol=1e-6)
    np.testing.assert_allclose(
        own_moments.micro_sq_norm["w"], moments.micro_sq_norm["w"], rtol=1e-6
    )
    assert int(moments.num_microbatches) == int(own_moments.num_microbatches) == 4


def masked_loss(params, batch):
    x, mask = batch
    return jnp.sum((x @ params["w"]) ** 2 * mask) / jnp.maximum(jnp.sum(mask), 1)


def own_sums(params, batches):
    """The sums over one device's microbatches, weighted by their valid examples."""
    own = jax.lax.pcast(params, "data", to="varying")
    incremental = optax_lena.IncrementalMoments()

    def body(sums, batch):
        grads = jax.grad(masked_loss)(own, batch)
        return incremental.add(sums, grads, weight=jnp.sum(batch[1])), None

    return jax.lax.scan(body, incremental.init(own), batches)[0]


def test_the_microbatches_of_a_loop_on_every_device_have_weights_of_their_own():
    """The carry of the scan keeps its type, which says that the weights vary."""
    x, mask = BATCH.reshape(8, 1, 2), jnp.array([1, 1, 0, 1, 1, 1, 0, 0.0])[:, None]

    def gathered(params, batches):
        sums = jax.lax.psum(own_sums(params, batches), "data")
        return optax_lena.IncrementalMoments().finish(sums)

    got = in_shard_map(gathered)({"w": WEIGHT}, (x, mask))
    gather = optax_lena.value_and_grad(masked_loss, 8)
    batch = x.reshape(8, 2), mask.reshape(8)
    _, *expected = gather({"w": WEIGHT}, batch, weights=mask.reshape(8))
    assert_trees_close(got, tuple(expected), rtol=1e-5)


@pytest.mark.parametrize("door", ["update", "add", "accumulate"])
def test_moments_of_one_device_beside_the_mean_gradient_are_an_error(door):
    """Every device would train at a rate of its own."""

    def step(params, batch):
        sums = own_sums(params, (batch[None], jnp.ones((1, 2))))
        grads, moments = optax_lena.IncrementalMoments().finish(sums)
        grads = jax.lax.pmean(grads, "data")
        if door == "add":
            incremental = optax_lena.IncrementalMoments()
            return incremental.add(incremental.init(params), grads, moments=moments)
        tx = optax_lena.lena(0.1, batch_scale=4)
        tx = optax_lena.accumulate(tx, 2) if door == "accumulate" else tx
        return tx.update(grads, tx.init(params), params, moments=moments)

    message = says("`moments`", "every device", "['data']", "psum(sums, ('data',))")
    with pytest.raises(ValueError, match=message):
        in_shard_map(step)({"w": WEIGHT}, BATCH)


def test_accumulate_weighs_a_mean_over_devices_by_all_of_its_examples():
    def step(params, batch, reduce):
        own = jax.lax.pcast(params, "data", to="varying")
        count = jnp.sum(batch[1])
        grads = jax.grad(masked_loss)(own, batch)
        grads, moments = optax_lena.moments_over_axis(grads, "data", weight=count)
        tx = optax_lena.accumulate(optax_lena.lena(0.1), 2)
        given = {"moments": moments, "weight": reduce(count)}
        return tx.update(grads, tx.init(params), params, **given)[1].sums.weight

    batch = BATCH, jnp.array([1, 1, 0, 1, 1, 1, 0, 0.0])
    message = says("`weight`", "every device", "['data']", "jax.lax.psum(weight")
    with pytest.raises(ValueError, match=message):
        in_shard_map(functools.partial(step, reduce=lambda x: x))({"w": WEIGHT}, batch)
    total = functools.partial(jax.lax.psum, axis_name="data")
    got = in_shard_map(functools.partial(step, reduce=total))({"w": WEIGHT}, batch)
    assert float(got) == 5


def test_every_microbatch_draws_its_own_numbers_on_any_layout():
    """Keys are folded with the microbatch's index in the whole batch."""

    def noisy_loss(params, batch, key):
        keep = jax.random.bernoulli(key, 0.5, batch.shape)
        return jnp.mean((batch * keep) @ params["w"])

    key = jax.random.key(3)
    params = {"w": WEIGHT}
    scan = optax_lena.value_and_grad(noisy_loss, 4)
    expected = scan(params, BATCH, key=key)
    sharded = optax_lena.value_and_grad(noisy_loss, 4, axis_name="data")
    mapped = in_shard_map(lambda params, batch: sharded(params, batch, key=key))
    with jax.set_mesh(data_mesh(4)):
        under_jit = jax.jit(lambda p, b: sharded(p, b, key=key))(params, BATCH)
    for actual in (mapped(params, BATCH), under_jit):
        for a, e in zip(
            jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
        ):
            np.testing.assert_allclose(a, e, rtol=1e-5)


def test_a_device_may_close_over_its_own_part():
    """Microbatches differ then, though the batch has no arrays: it is no error."""
    params = {"w": WEIGHT}

    def gathered(params, batch):
        closed = lambda params, _: loss_fn(params, batch)
        gather = optax_lena.value_and_grad(closed, 4, axis_name="data")
        return gather(params, None)[1:]

    expected = optax_lena.value_and_grad(loss_fn, 4)(params, BATCH)[1:]
    got = in_shard_map(gathered)(params, BATCH)
    assert_trees_close(got, expected)


def test_a_device_of_one_example_takes_a_further_argument_of_one_row():
    """It is no label: an error would refuse what works with more examples."""

    def gathered(params, batch):
        shifted = lambda params, batch, shift: loss_fn(params, batch + shift)
        gather = optax_lena.value_and_grad(shifted, 4, axis_name="data")
        return gather(params, batch, jnp.ones((1, 2)))

    got = in_shard_map(gathered)({"w": WEIGHT}, BATCH[:4])
    expected = optax_lena.value_and_grad(loss_fn, 4)({"w": WEIGHT}, BATCH[:4] + 1)
    assert_trees_close(got, expected)


def on_four_and_two(batch_spec, axis_name, loss_fn=loss_fn, **options):
    """The gradient and its moments, on a mesh of two axes."""
    mesh = jax.make_mesh((4, 2), ("data", "copy"), (AxisType.Auto,) * 2)
    gather = optax_lena.value_and_grad(loss_fn, 8, axis_name=axis_name)
    step = lambda params, batch: gather(params, batch, **options)[1:]
    return jax.jit(
        jax.shard_map(step, mesh=mesh, in_specs=(P(), batch_spec), out_specs=P())
    )({"w": WEIGHT}, BATCH)


@pytest.mark.parametrize(
    ("batch_spec", "axis_name", "same"),
    [
        (P(), "data", "'data'"),
        (P("data"), ("data", "copy"), "'copy'"),
        (P(), ("data", "copy"), "'copy', 'data'"),
    ],
)
def test_copies_of_examples_are_no_other_examples(batch_spec, axis_name, same):
    message = says("`batch` must be spread", f"[{same}]", "in_specs", "`axis_name`")
    with pytest.raises(ValueError, match=message):
        on_four_and_two(batch_spec, axis_name)


def test_a_batch_that_is_the_same_everywhere_may_be_seen_with_other_noise():
    """Then its copies are no copies: each device draws a key of its own."""

    def noisy(params, batch, key):
        return jnp.mean((batch + jax.random.normal(key, batch.shape)) @ params["w"])

    key = jax.random.key(0)
    _, moments = on_four_and_two(P(), ("data", "copy"), noisy, key=key)
    assert moments.micro_sq_norm["w"] > moments.batch_sq_norm["w"]


def test_of_all_arrays_of_a_batch_one_may_carry_the_axis():
    def loss(params, batch):
        return jnp.mean(batch["x"] @ params["w"] + batch["offset"]) ** 2

    def step(params, x, offset):
        gather = optax_lena.value_and_grad(loss, 4, axis_name="data")
        return gather(params, {"x": x, "offset": offset})[1:]

    offset, specs = jnp.ones(2), (P(), P("data"), P())
    mapped = jax.shard_map(step, mesh=data_mesh(4), in_specs=specs, out_specs=P())
    got = jax.jit(mapped)({"w": WEIGHT}, BATCH, offset)
    expected = optax_lena.value_and_grad(loss, 4)(
        {"w": WEIGHT}, {"x": BATCH, "offset": jnp.ones(8)}
    )
    assert_trees_close(got, expected[1:])


@pytest.mark.parametrize("by_name", [False, True])
def test_a_raw_key_that_all_microbatches_share_is_told_of(by_name):
    def noisy_loss(params, batch, rng):
        return jnp.mean((batch + jax.random.normal(rng, batch.shape)) @ params["w"])

    def gathered(rng):
        gather, params = optax_lena.value_and_grad(noisy_loss, 4), {"w": WEIGHT}
        if by_name:
            return gather(params, BATCH, rng=rng)
        return gather(params, BATCH, rng)

    message = says("jax.random.PRNGKey", "same random numbers", "`key=`")
    with pytest.warns(RuntimeWarning, match=message):
        gathered(jax.random.PRNGKey(0))
    gathered(jax.random.key(0))  # and warns of nothing
