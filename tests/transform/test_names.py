"""The names of layers in a state's structure."""

import jax
import jax.numpy as jnp
import pytest

import optax_lena
from optax_lena._transform.names import NamesInStructure

TX = optax_lena.scale_by_lena(4, warmup_steps=8)


@pytest.mark.parametrize(("known", "unknown"), [(("a", "b"), ()), ((), ("a", "b"))])
def test_unknown_names_become_the_known_ones_on_either_side(known, unknown):
    left, right = NamesInStructure(known), NamesInStructure(unknown)
    assert left == right
    assert left.names == right.names == ("a", "b")


def test_names_of_other_layers_differ():
    assert NamesInStructure(("a",)) != NamesInStructure(("b",))
    assert NamesInStructure(("a",)) != ("a",)


def test_a_structure_with_names_can_be_a_key():
    state = TX.init({"a": jnp.ones(2)})
    same, other = TX.init({"a": jnp.zeros(2)}), TX.init({"b": jnp.ones(2)})
    known = {jax.tree.structure(state): "known"}
    assert known[jax.tree.structure(same)] == "known"
    assert jax.tree.structure(other) not in known
    assert hash(NamesInStructure(("a",))) == hash(NamesInStructure(("a",)))
