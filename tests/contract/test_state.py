"""What every transformation promises to jit and scan: a state that keeps its types."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_lena
from tests import helpers
from tests.contract.table import (
    CASES,
    PARAMS,
    build,
    every_case,
    jitted,
    moments_of,
    plain,
    plain_step,
)


def makes_a_transformation(signature):
    """`accumulate` and the like wrap one of those, and have tests of their own."""
    kind = optax.GradientTransformationExtraArgs
    return signature.return_annotation is kind and "batch_scale" in signature.parameters


def test_the_table_has_every_transformation():
    public = [getattr(optax_lena, name) for name in vars(optax_lena)]
    factories = {
        f
        for f in public
        if inspect.isfunction(f) and makes_a_transformation(inspect.signature(f))
    }
    # A part of two optimizers that has no rows, and tests of its own.
    factories.remove(optax_lena.scale_by_adam)
    assert factories == {factory for factory, _ in CASES.values()}


@every_case
def test_state_keeps_its_structure_shapes_and_dtypes(case):
    tx = build(case)
    state, _ = plain(case)
    updates, after = plain_step(case)
    expected = helpers.signature(state)
    assert helpers.signature(after) == expected
    assert helpers.signature(jax.eval_shape(tx.init, PARAMS)) == expected
    assert helpers.signature(tx.init(PARAMS)) == expected
    assert helpers.signature(updates) == helpers.signature(PARAMS)
    lena = helpers.lena_state(after)
    assert helpers.float_dtypes(lena) == {jnp.dtype(jnp.float32)}


@every_case
def test_the_first_update_compiles_once_and_the_second_not_at_all(case):
    tx = build(case)
    update = jitted(tx)
    grads, moments = moments_of(case)
    state = tx.init(PARAMS)
    with helpers.count_compilations() as compiled:
        _, state = update(grads, state, moments)
        assert len(compiled) == 1
        update(grads, state, moments)
    assert len(compiled) == 1


@every_case
def test_the_state_keeps_its_dtypes_also_where_the_default_is_float64(case):
    """Whether parameters are float64 or not, statistics are float32."""
    with jax.enable_x64(True):
        tx = build(case)
        for dtype in (jnp.float32, jnp.float64):
            params = helpers.example_params(dtype)
            _, moments = jax.tree.map(jnp.float32, moments_of(case))
            state = jax.eval_shape(tx.init, params)
            updates, after = jax.eval_shape(
                lambda state, params=params, moments=moments: tx.update(
                    params, state, params, moments=moments
                ),
                state,
            )
            assert helpers.signature(after) == helpers.signature(state)
            assert helpers.signature(updates) == helpers.signature(params)
            lena = helpers.lena_state(state)
            assert helpers.float_dtypes(lena) == {np.dtype("f4")}


# Of what it watches, `monitor` changes nothing: optax's own buffer is wider then.
@pytest.mark.parametrize("case", [case for case in CASES if case != "monitor"])
def test_the_state_keeps_its_dtypes_where_gradients_are_wider(case):
    """A buffer that takes theirs is compiled for again, and no carry of a scan."""
    tx, params = build(case), helpers.example_params(jnp.bfloat16)
    grads, moments = moments_of(case)
    state = jax.eval_shape(tx.init, params)
    _, after = jax.eval_shape(
        lambda state: tx.update(grads, state, params, moments=moments), state
    )
    assert helpers.signature(after) == helpers.signature(state)


@every_case
def test_runs_in_a_scan(case):
    tx = build(case)
    grads, moments = moments_of(case)

    @helpers.jit
    def run(state):
        body = lambda state, _: (tx.update(grads, state, PARAMS, moments=moments)[1], 0)
        return jax.lax.scan(body, state, length=3)[0]

    lena = helpers.lena_state(run(tx.init(PARAMS)))
    assert float(lena.clocks.base_steps) == 12


def donate(state):
    """Raises where two leaves are one buffer, which JAX does not donate twice."""
    used = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    jax.block_until_ready(used(state))


@every_case
def test_a_state_made_outside_of_jit_can_be_donated(case):
    factory, arguments = CASES[case]
    donate(build(case).init(PARAMS))
    donate(optax.inject_hyperparams(factory)(**arguments).init(PARAMS))


@pytest.mark.parametrize(
    "wrap",
    [lambda tx: optax_lena.accumulate(tx, 2), optax_lena.from_successive_gradients],
)
def test_so_can_the_state_of_a_gatherer_around_an_optimizer(wrap):
    donate(wrap(optax_lena.lena_amplified(0.1, 4)).init(PARAMS))


@every_case
def test_what_an_update_outside_of_jit_leaves_can_be_donated(case):
    """Two fields may have been one number, or a number that the user still holds."""
    factory, arguments = CASES[case]
    grads, moments = moments_of(case)
    injected = optax.inject_hyperparams(factory)(**arguments)
    for tx in (build(case), injected):
        tx = optax.with_extra_args_support(tx)
        extra = {"moments": moments, "value": jnp.float32(1)}
        _, state = tx.update(grads, tx.init(PARAMS), PARAMS, **extra)
        donate(state)


@pytest.mark.parametrize(
    "make", [optax_lena.lena, optax_lena.lena_lars, optax_lena.linear_scaling]
)
def test_the_users_own_numbers_are_not_donated_with_the_state(make):
    rate, scale = jnp.float32(0.1), jnp.float32(4)
    tx = make(rate, scale)
    grads, moments = moments_of("lena")
    _, state = tx.update(grads, tx.init(PARAMS), PARAMS, moments=moments)
    donate(state)
    assert not rate.is_deleted() and not scale.is_deleted()
