"""Specs of parameters: along what is stacked nothing may be sharded."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

import optax_lena
from optax_lena._gather import shards
from optax_lena._measure.metric import Metric
from tests import helpers

PARAMS = {"blocks": jnp.ones((4, 6)), "head": jnp.ones(6)}


def check(spec, axis):
    metric = Metric(layers=optax_lena.stacked("blocks", axis=axis))
    specs = {"blocks": spec, "head": P("model")}
    found = []

    def bound():
        found.append(shards.metric_of_shards(metric, PARAMS, ("data",), specs))

    jax.make_jaxpr(bound, axis_env=[("data", 2), ("model", 2)])()
    return found[0]


@pytest.mark.parametrize(
    "spec, axis", [(P("model"), 1), (P(), 0), (P(None, "model"), 0)]
)
def test_a_spec_may_end_before_the_axis_that_is_stacked(spec, axis):
    assert check(spec, axis).axes == (("model",) if spec else (), ("model",))


def test_a_spec_names_an_axis_that_is_bound():
    gather = optax_lena.value_and_grad(
        lambda params, x: jnp.sum(params["head"] * x), 2, param_specs=P("model")
    )
    message = helpers.says("`param_specs`", "'model'", "not bound", "jax.shard_map")
    with pytest.raises(ValueError, match=message):
        gather(PARAMS, jnp.ones((4, 6)))


@pytest.mark.parametrize("spec, axis", [(P("model"), 0), (P(None, "model"), -1)])
def test_what_is_stacked_stays_whole(spec, axis):
    message = helpers.says("`param_specs` must leave axis", "'blocks'", "got")
    with pytest.raises(ValueError, match=message):
        check(spec, axis)
