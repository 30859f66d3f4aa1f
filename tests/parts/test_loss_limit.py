"""The share of the noise that counts, after the loss has risen."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import optax_lena
from tests import helpers, oracle

STACK = {"w": jnp.array([[1.0, 0], [0, 1], [1, 1], [2, 1]])}
GRADS, MOMENTS = optax_lena.moments_from_stack(STACK)
NAN, INF = float("nan"), float("inf")


def shares(losses, *arguments):
    """The share after each loss."""
    part = optax_lena.LossLimit(*arguments)
    state, found = part.init(), []
    for loss in losses:
        state = part.update(state, loss)
        found.append(float(part.read(state)))
    return found


def shares_in_float64(losses, limit=1.25, rise=0.1):
    """In Python's own floats."""
    recent = highest = lowest = next((x for x in losses if np.isfinite(x)), None)
    scatter = least_scatter = 0.1 * abs(recent)
    share, in_a_row, found = 1.0, 0, []
    for loss in losses:
        if np.isfinite(loss):
            if in_a_row == 50:
                recent = highest = lowest = loss
                scatter = least_scatter = 0.1 * abs(recent)
            margin = max(0.02 * abs(highest), 2 * least_scatter)
            at_once = highest + max(margin, (limit - 1) * abs(highest))
            seen = min(loss, highest + margin)
            scatter = 0.9 * scatter + 0.1 * abs(seen - recent)
            recent = 0.9 * recent + 0.1 * seen
            most = lowest + rise * (highest - lowest) + margin
            is_above = loss > at_once or min(loss, recent) > most
            in_a_row = in_a_row + 1 if is_above else 0
            share = max(share / 2, 1 / 16) if is_above else min(1.02 * share, 1)
            highest, lowest = max(highest, recent), min(lowest, recent)
            least_scatter = min(least_scatter, scatter)
        found.append(share)
    return found


@pytest.mark.parametrize(
    "losses",
    [
        [2.0, 1.0, 3.0, 3.0, 1.0, 1.0],
        [2.0] + 9 * [5.0] + 30 * [1.0],
        [NAN, 2.0, INF, 2.6, NAN, 2.7, -INF, 1.0],
        [-1.0, -0.99, -0.7, -2.0],
        [0.0, 0.0, 1e-9, -1.0],
    ],
)
def test_shares_are_the_formula(losses):
    np.testing.assert_allclose(shares(losses), shares_in_float64(losses), rtol=1e-6)


@pytest.mark.parametrize(
    "losses",
    [
        [0.0, *np.linspace(3.0, 2.0, 200)],
        [*(60 * [1.0]), *(49 * [9.0]), NAN, *(9 * [9.0]), *(60 * [20.0])],
    ],
)
def test_shares_are_the_formula_where_a_level_lasts(losses):
    """To a rounding of float32 in each of up to 201 updates."""
    expected, found = shares_in_float64(losses), shares(losses)
    np.testing.assert_allclose(found, expected, rtol=len(losses) * 2**-23)


@pytest.mark.parametrize(
    "before",
    [
        pytest.param([0.0], id="a first loss of 0"),
        pytest.param(10 * [0.3], id="easy batches first"),
        pytest.param([*np.linspace(4, 3, 50), -1e4], id="one that is far too low"),
    ],
)
def test_a_loss_that_is_higher_for_good_comes_to_count_as_usual(before):
    found = shares([*before, *np.linspace(3, 2, 250)])
    assert min(found) == 1 / 16
    assert found[-1] == 1


@pytest.mark.parametrize(("lasts", "is_usual"), [(49, False), (50, True)])
def test_fifty_losses_in_a_row_make_a_level(lasts, is_usual):
    found = shares([*(30 * [1.0]), *(lasts * [5.0]), 6.0])
    assert (found[-1] > found[-2]) == is_usual


@pytest.mark.parametrize("arguments", [(1.5,), (1.25, 0.5), (1.0, 0.0), (1.25, 1.0)])
def test_a_limit_and_a_rise_of_its_own(arguments):
    falling = np.linspace(1.0, 0.1, 40)
    losses = [1.0, 1.4, 1.01, *falling, *(20 * [0.4]), 0.6, 0.8, 1.01, 1.4, 0.1]
    expected = shares_in_float64(losses, *arguments)
    np.testing.assert_allclose(shares(losses, *arguments), expected, rtol=1e-6)
    assert shares(losses, *arguments) != shares(losses)


def test_a_network_thrown_out_to_where_it_began_is_seen():
    """One that guesses again has the loss of the first one, and no more."""
    losses = [2.3] * 3 + 60 * [0.3] + 3 * [2.3]
    assert shares(losses)[-4:] == [1, 1, 0.5, 0.25]
    assert shares(losses, 1.25, 1.0)[-4:] == [1, 1, 1, 1]


def test_a_single_loss_that_rises_changes_nothing():
    assert set(shares([2.3] * 3 + 60 * [0.3] + [2.3] + 20 * [0.3])) == {1.0}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("deviation", [0.01, 0.05, 0.1])
def test_on_a_plateau_chance_changes_nothing(deviation, seed):
    """Whatever the first loss is: every other one is above it, or nearly all are."""
    varied = 1 + deviation * np.random.default_rng(seed).standard_normal(200)
    assert np.mean(np.array(shares(varied)) == 1) > 0.9


def test_a_loss_that_varies_where_it_is_changes_nothing():
    varied = 0.3 + 0.1 * np.sin(np.arange(200.0))
    assert set(shares([2.3, *varied])) == {1.0}


GIVEN_THE_LOSS = [
    optax_lena.lena_amplified,
    optax_lena.lena_adamw,
    optax_lena.lena_muon,
]


def train(losses, make=optax_lena.lena_amplified):
    tx = make(0.1, batch_scale=4)
    state = tx.init(GRADS)
    for loss in losses:
        given = {} if loss is None else {"value": loss}
        updates, state = tx.update(GRADS, state, GRADS, moments=MOMENTS, **given)
    return updates, state


def test_the_rule_sees_that_share_of_the_noise():
    _, state = train([1.0, 2.0, 2.0])
    numbers = optax_lena.metrics(state)
    assert numbers["model/noise_share"] == 0.25
    estimate = optax_lena.Estimate(numbers["model/noise"], numbers["model/signal"])
    # A quarter of four times the noise: the gain itself.
    expected = estimate.gain(4)
    np.testing.assert_allclose(numbers["model/trust_ratio"], expected, rtol=1e-6)
    np.testing.assert_allclose(numbers["model/gain"], expected, rtol=1e-6)


@helpers.PLAIN_MOMENTS
@pytest.mark.parametrize("make", [optax_lena.lena_adamw, optax_lena.lena_muon])
def test_the_rule_of_normalised_updates_sees_it_too(make):
    """After so many updates as growth by a tenth takes, first."""
    _, state = train(8 * [1.0] + 2 * [2.0], make)
    numbers = optax_lena.metrics(state)
    assert numbers["model/noise_share"] == 0.25
    noise, signal = numbers["model/noise"], numbers["model/signal"]
    expected = oracle.normalised(0.25 * noise, signal, 4)
    np.testing.assert_allclose(numbers["model/trust_ratio"], expected, rtol=1e-6)
    assert expected < 0.99 * oracle.normalised(noise, signal, 4)


@helpers.PLAIN_MOMENTS
@pytest.mark.parametrize("make", GIVEN_THE_LOSS)
def test_a_loss_that_does_not_rise_changes_nothing(make):
    with_loss, without = train([2.0, 1.0, 1.9], make), train(3 * [None], make)
    helpers.assert_trees_equal(with_loss[0], without[0])


@pytest.mark.parametrize("loss", [None, NAN, INF])
def test_a_loss_that_is_not_there_leaves_the_share(loss):
    _, before = train([1.0, 2.0])
    _, after = train([1.0, 2.0, loss])
    limits = [helpers.lena_state(s).loss_limit for s in (before, after)]
    helpers.assert_trees_equal(*limits)
    assert optax_lena.metrics(after)["model/noise_share"] == 0.5


def mean_loss(params, batch):
    return jnp.mean((params["w"] - batch) ** 2)


@pytest.mark.parametrize("weights", [[1.0, 2, 0, 3], [0.0, 0, 0, 0]])
def test_padding_alone_has_no_loss(weights):
    """Its mean is 0, above which every later one would be."""
    params, batch = {"w": jnp.zeros(())}, jnp.arange(4.0)
    gather = optax_lena.value_and_grad(mean_loss, 4)
    loss, grads, moments = gather(params, batch, weights=jnp.array(weights))
    tx = optax_lena.lena_amplified(0.1, batch_scale=4)
    state = tx.init(params)
    _, state = tx.update(grads, state, params, moments=moments, value=loss)
    limit = helpers.lena_state(state).loss_limit
    assert limit.losses.has_started == any(weights)
    assert limit.highest == loss


def test_other_optimizers_take_a_loss_and_leave_it():
    for make in (optax_lena.lena, optax_lena.adascale, optax_lena.lena_lars):
        tx = make(0.1, batch_scale=4)
        state = tx.init(GRADS)
        one = tx.update(GRADS, state, GRADS, moments=MOMENTS, value=1.0)
        other = tx.update(GRADS, state, GRADS, moments=MOMENTS)
        helpers.assert_trees_equal(one, other)
        assert optax_lena.metrics(one[1])["model/noise_share"] == 1


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.int32])
def test_losses_of_any_dtype_in_one_program(dtype):
    tx = optax_lena.lena_amplified(0.1, batch_scale=4)

    @helpers.jit
    def step(state, loss):
        return tx.update(GRADS, state, GRADS, moments=MOMENTS, value=loss)[1]

    state = tx.init(GRADS)
    signature = helpers.signature(state)
    for loss in (1, 3, 1):
        state = step(state, jnp.asarray(loss, dtype))
    assert helpers.signature(state) == signature
    assert step._cache_size() == 1
    assert optax_lena.metrics(state)["model/noise_share"] == pytest.approx(0.51)


def test_accumulated_calls_give_the_mean_of_their_losses():
    """Weighted as the gradients are, and without the calls that are left out."""
    tx = optax_lena.accumulate(optax_lena.lena_amplified(0.1, batch_scale=4), 2)
    state = tx.init(GRADS)
    broken = jax.tree.map(lambda g: g * NAN, GRADS)
    calls = [
        (GRADS, 1.0, 1.0),
        (broken, 50.0, 1.0),
        (GRADS, 4.0, 2.0),  # the first update's loss: (1 + 2 * 4) / 3
        (GRADS, 4.0, 1.0),
        (GRADS, 4.0, 1.0),  # the second's: 4
    ]
    for grads, value, weight in calls:
        _, state = tx.update(grads, state, GRADS, value=value, weight=weight)
    limit = helpers.lena_state(state).loss_limit
    # The least scatter is then that of one loss that was where the average was.
    assert limit.highest == pytest.approx(3 + 0.1 * 2 * 0.9 * 0.3)
    assert limit.noise_share == 0.5


def test_each_devices_own_loss_is_an_error_that_says_what_to_do():
    """Inside `shard_map`, where types tell; the rates would drift apart."""
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    tx = optax_lena.lena_amplified(0.1, batch_scale=4)
    batch = jnp.arange(8.0)

    def step(is_mean, params, state, batch):
        gather = optax_lena.value_and_grad(mean_loss, 4, axis_name="data")
        loss, grads, moments = gather(params, batch)
        value = loss if is_mean else mean_loss(params, batch)
        return tx.update(grads, state, params, moments=moments, value=value)[1]

    def run(is_mean):
        params = {"w": jnp.zeros(())}
        where = {"in_specs": (P(), P(), P("data")), "out_specs": P()}
        own = functools.partial(step, is_mean)
        return helpers.jit(jax.shard_map(own, mesh=mesh, **where))(
            params, tx.init(params), batch
        )

    limit = helpers.lena_state(run(True)).loss_limit
    assert limit.highest == jnp.mean(batch**2)
    with pytest.raises(ValueError, match=helpers.says("`value`", "'data'", "pmean")):
        run(False)


@pytest.mark.parametrize("under_jit", [False, True])
def test_a_loss_with_its_auxiliary_data_is_an_error_that_says_what_to_do(under_jit):
    tx = optax_lena.lena_amplified(0.1, batch_scale=4)

    def step(loss):
        value = (loss, {"accuracy": loss})
        return tx.update(GRADS, tx.init(GRADS), GRADS, moments=MOMENTS, value=value)

    with pytest.raises(ValueError, match=helpers.says("`value`", "real number")):
        (jax.jit(step) if under_jit else step)(jnp.ones(()))


def test_a_vector_of_losses_is_an_error_that_says_what_to_do():
    message = helpers.says("`value`", "(4,)", "mean")
    with pytest.raises(ValueError, match=message):
        train([jnp.ones(4)])


def test_losses_near_the_largest_float_leave_a_state_that_still_sees():
    limit = optax_lena.LossLimit()
    state = limit.init()
    for loss in (3e38, -3e38, 1.0):
        state = limit.update(state, loss)
    assert all(np.isfinite(x) for x in jax.tree.leaves(state))


def test_calls_of_which_none_with_a_weight_has_a_loss_have_none():
    tx = optax_lena.accumulate(optax_lena.lena_amplified(0.1, batch_scale=4), 2)
    state = tx.init(GRADS)
    for given in ({}, {"value": 3.0, "weight": 0.0}):
        _, state = tx.update(GRADS, state, GRADS, **given)
    assert helpers.lena_state(state).loss_limit.losses.has_started == 0


@pytest.mark.parametrize("factory", [optax_lena.lena_amplified, optax_lena.lena])
def test_a_loss_by_another_name_is_told_where_one_is_read(factory):
    tx = factory(0.1, 4)
    grads, moments = helpers.example_moments()
    given = {"moments": moments, "loss": 1.0}
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        tx.update(grads, tx.init(grads), grads, **given)
        tx.update(grads, tx.init(grads), grads, value=1.0, **given)
    messages = [str(warning.message) for warning in record]
    assert len(messages) == (factory is optax_lena.lena_amplified)
    assert all("as `value`" in message for message in messages)
