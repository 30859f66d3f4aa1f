"""Edges of what is measured: what only a mutation test has asked about."""

import jax.numpy as jnp
import numpy as np
import pytest

import optax_lena


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_multiplied_gradients_are_widened_first(dtype):
    """1000 times 300 is beyond float16, and 257 times 3 beyond bfloat16's 8 bits."""
    for gradient, multiplier in ((300.0, 1000.0), (257.0, 3.0)):
        given = jnp.array([gradient], dtype)
        metric = optax_lena.Metric(multipliers={"w": jnp.array([multiplier])})
        norm = metric.sq_norms({"w": given})["w"]
        expected = (float(given[0]) * multiplier) ** 2
        np.testing.assert_allclose(norm, expected, rtol=1e-6)
        assert norm.dtype == jnp.float32
