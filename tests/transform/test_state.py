"""The optax state is a named tuple, with names beside its arrays."""

import warnings

import optax_lena
from tests import helpers


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
