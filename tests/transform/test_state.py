"""The optax state is a named tuple, with names beside its arrays."""

import warnings

import jax.numpy as jnp

import optax_lena
from tests import helpers


def test_before_the_first_update_nothing_was_gained_cut_or_limited():
    state = optax_lena.scale_by_lena(4).init(helpers.example_params())
    ones = {
        name: jnp.all(getattr(state.applied, name) == 1)
        for name in (
            "noise_share",
            "gain",
            "trust_ratio",
            "warmup_factor",
            "coherence",
            "spike_factor",
            "base_batches",
        )
    }
    assert all(ones.values()), ones
    zeros = state.applied.noise, state.applied.signal, state.applied.layer_rate
    assert not any(map(jnp.any, zeros))


def test_the_state_is_a_named_tuple_to_programs_that_take_it_apart():
    state = optax_lena.scale_by_lena(4).init(helpers.example_params())
    names = state.layer_names()
    assert type(state)(**state._asdict()).layer_names() == names
    assert type(state)._make([*state, state.names]).layer_names() == names
    without = type(state)._make(state)
    assert without.layer_names() == ()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        helpers.assert_trees_equal(tuple(without), tuple(state))
        optax_lena.metrics(without)
