"""What several test files need: trees, streams of gradients, a jitted training run."""

import contextlib
import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_lena
from optax_lena._parts.clocks import Count
from optax_lena._parts.estimate import Measured

SHAPES = {
    "blocks": {"kernel": (3, 2, 2)},
    "conv1": {"bias": (4,), "kernel": (3, 4)},
    "head": {"kernel": (4, 2)},
}
# Mean and spread of a parameter's gradient: from nearly all signal to nearly all noise.
GRADIENTS = {
    "blocks/kernel": (0.5, 1.0),
    "conv1/bias": (1.0, 0.4),
    "conv1/kernel": (0.2, 1.0),
    "head/kernel": (0.02, 0.5),
}

# For tests that are about something else, whose moments are of the plain gradient.
PLAIN_MOMENTS = pytest.mark.filterwarnings(
    "ignore:`moments` must be taken with Adam:RuntimeWarning"
)

# These tests compile a lot and compute little.
FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
jit = functools.partial(jax.jit, compiler_options=FAST)


def is_shape(x):
    return isinstance(x, tuple)


def example_params(dtype=jnp.float32):
    return jax.tree.map(lambda s: jnp.ones(s, dtype), SHAPES, is_leaf=is_shape)


def measured(estimate, batch_scale, *, overflows=False):
    """What an update says of a model of one layer."""
    rows = optax_lena.Estimate(*(jnp.stack([x, x]) for x in estimate))
    yes = jnp.ones(2, bool)
    return Measured(rows, yes, yes, jnp.bool(overflows), jnp.float32(batch_scale))


def random_stacks(seed, *leading):
    """Gradients of `SHAPES` with further leading axes, say (updates, microbatches)."""
    rng = np.random.default_rng(seed)

    def draw(path, shape):
        mean, spread = GRADIENTS["/".join(key.key for key in path)]
        centre = mean * rng.standard_normal(shape)
        noise = spread * rng.standard_normal((*leading, *shape))
        return (centre + noise).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, SHAPES, is_leaf=is_shape)


def example_moments(seed=0, n=4, layers=optax_lena.per_parameter):
    return optax_lena.moments_from_stack(random_stacks(seed, n), layers=layers)


def flat(tree):
    """Returns {"conv1/kernel": leaf} for nested dictionaries."""
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(key.key for key in path): leaf for path, leaf in paths}


def row(tree, t):
    """Returns entry t of every leaf."""
    return jax.tree.map(lambda x: x[t], tree)


PAPER = optax_lena.LayerRate()


def momentum_sgd(
    learning_rate,
    batch_scale=None,
    *,
    rate=PAPER,
    layers=optax_lena.per_parameter,
    momentum=0.9,
    nesterov=False,
    weight_decay=0.0,
    rate_enters_buffer=False,
):
    """SGD around any `LayerRate`: what a user writes one level below the optimizers."""
    rate = dataclasses.replace(rate, learning_rate=learning_rate)
    scale = optax_lena.scale_by_layer_rate(rate, batch_scale, layers=layers)
    buffer = optax.trace(momentum, nesterov)
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        *((scale, buffer) if rate_enters_buffer else (buffer, scale)),
        optax.scale(-1.0),
    )


def amplified_rate(**parts):
    """The parts of `lena_amplified` without a warm-up, or others in their place."""
    own = dict(
        estimator=optax_lena.Averages(300.0, relative=True),
        rule=optax_lena.amplified_gain,
        warmup=optax_lena.FixedWarmup(0),
        guard=optax_lena.SpikeLimit(1.25),
    )
    return optax_lena.LayerRate(**(own | parts))


def train(
    tx,
    params,
    stacks,
    *,
    weights=None,
    layers=optax_lena.per_parameter,
    preconditioner=None,
):
    """Runs T updates in one `lax.scan`.

    Returns the last optimizer state, the parameters `[T, ...]` and metrics `[T]` after
    every update.
    """

    def update(carry, x):
        params, state = carry
        stack, weight = x
        grads, moments = optax_lena.moments_from_stack(
            stack,
            weights=weight,
            layers=layers,
            preconditioner=preconditioner and preconditioner(state, params),
        )
        updates, state = tx.update(grads, state, params, moments=moments)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, lena_state(state))

    @jit
    def run(params, xs):
        return jax.lax.scan(update, (params, tx.init(params)), xs)

    (_, state), (params, lena_states) = run(params, (stacks, weights))
    to_numpy = lambda tree: jax.tree.map(np.asarray, tree)
    return state, to_numpy(params), to_numpy(metrics_over_time(lena_states))


train_adam = functools.partial(train, preconditioner=optax_lena.adam_preconditioner)


def first_update(tx, stack, weights=None):
    """Returns the first updates, and the state after them."""
    grads, moments = optax_lena.moments_from_stack(stack, weights=weights)
    return tx.update(grads, tx.init(grads), grads, moments=moments)


updated = jit(first_update, static_argnums=0)


# Outside the scan, and on the state alone, it compiles once for all transformations.
metrics_over_time = jit(jax.vmap(optax_lena.metrics))


def lena_state(opt_state):
    """Returns the only `ScaleByLenaState` in an optax state."""
    is_lena = lambda x: isinstance(x, optax_lena.ScaleByLenaState)
    leaves = jax.tree.leaves(opt_state, is_leaf=is_lena)
    (state,) = [leaf for leaf in leaves if is_lena(leaf)]
    return state


def read_counts(tree):
    """Replaces counts by their sums, which are close where their parts need not be."""
    is_count = lambda x: isinstance(x, Count)
    return jax.tree.map(
        lambda x: x.read() if is_count(x) else x, tree, is_leaf=is_count
    )


def counts_as_arrays(tree):
    """Makes leaves of plain counts in moments, which else are structure."""
    is_moments = lambda x: isinstance(x, optax_lena.GradMoments)
    to_array = lambda m: m._replace(num_microbatches=jnp.int32(m.num_microbatches))
    return jax.tree.map(
        lambda x: to_array(x) if is_moments(x) else x, tree, is_leaf=is_moments
    )


def rows(metrics, field):
    """Returns {layer: value} of one field of `optax_lena.metrics`."""
    prefix = f"{field}/"
    return {
        k.removeprefix(prefix): v for k, v in metrics.items() if k.startswith(prefix)
    }


def float_dtypes(tree):
    """Returns the dtypes of all leaves but counts and digests, which are integers."""
    dtypes = {x.dtype for x in map(jax.typeof, jax.tree.leaves(tree))}
    return {d for d in dtypes if not jnp.issubdtype(d, jnp.integer)}


def says(*parts):
    """A pattern that finds all parts, in this order."""
    return "(?s)" + ".*".join(re.escape(part) for part in parts)


def signature(tree):
    """Returns what `jit` compiles for: structure, shapes, dtypes and weak types."""
    leaves, treedef = jax.tree.flatten(tree)
    return treedef, [(x.shape, x.dtype, x.weak_type) for x in map(jax.typeof, leaves)]


def assert_trees_equal(actual, desired):
    assert jax.tree.structure(actual) == jax.tree.structure(desired)
    jax.tree.map(np.testing.assert_array_equal, actual, desired)


def assert_trees_close(actual, desired, rtol=1e-6, atol=0.0):
    assert jax.tree.structure(actual) == jax.tree.structure(desired)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)
    jax.tree.map(close, actual, desired)


@contextlib.contextmanager
def count_compilations():
    """Yields a list that gets one entry for everything that XLA compiles meanwhile."""
    compiled = []

    def listen(event, duration, **kwargs):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
