"""Bad arguments of what gathers moments, as data."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import BCOO

import optax_lena as ol
from tests.contract.bad.rows import (
    GATHER,
    INCREMENTAL,
    INF,
    LOSS,
    NAN,
    PARAMS,
    STACK,
    SUMS,
    bad,
    over_axis,
)


class Tensor:
    """An array of another library, whose dtype is not NumPy's."""

    class Dtype:
        def __repr__(self):
            return "torch.float32"

    dtype, shape, ndim = Dtype(), (4,), 1


COUNTS = {"w": jnp.arange(2)}
KEY = jax.random.key(0)


def gathered(name, axis_name=None):
    """One call of a gatherer with one argument more."""

    def call(value):
        right = {"params": jnp.ones(()), "batch": jnp.ones(4)}
        gather = ol.value_and_grad(LOSS, 2, axis_name=axis_name)
        return gather(**right | {name: value})

    return call


def with_aux(aux):
    gather = ol.value_and_grad(lambda p, x: (LOSS(p, x), aux), 2, has_aux=True)
    return gather(jnp.ones(()), jnp.ones(4))


def added(**given):
    return INCREMENTAL.add(**{"sums": SUMS, "grads": PARAMS} | given)


WEIGHTS = (
    ([1.0, NAN], "nan"),
    (np.array([-1.0, 2.0]), "-1."),
    (jnp.array([INF, 1.0]), "inf"),
    ([1e39, 1.0], "1e+39"),
    ([10**400, 1], "1000"),
    (["a", "b"], "'a'"),
    ([1.0, 2j], "2j"),
    ([1.0, None], "None"),
)
WEIGHT = (NAN, -1.0, INF, 1e39, 10**400, "4", 2j, np.array(-3.0), jnp.array(NAN))
SHAPES = (([1.0], "(1,)"), (1.0, "()"), (jnp.ones((2, 1)), "(2, 1)"))
WEIGHING, PER = "finite numbers of at least 0", "one weight per microbatch"

OF_GATHERERS = [
    *bad(
        "value_and_grad",
        "loss_fn",
        lambda x: ol.value_and_grad(x, 2),
        "a function",
        None,
        3.0,
    ),
    *bad(
        "value_and_grad",
        "num_microbatches",
        lambda x: ol.value_and_grad(LOSS, x),
        "at least 2",
        NAN,
        INF,
        4.5,
        4.0,
        True,
        1,
        0,
        -2,
        "4",
        None,
        2j,
        np.array(4.5),
        jnp.array(1),
        np.ones(2),
    ),
    *bad(
        "value_and_grad",
        "aux",
        lambda x: ol.value_and_grad(LOSS, 2, has_aux=True, aux=x),
        "'examples'",
        ("average", "'average'"),
        ({"a": 3}, "3"),
    ),
    *bad("value_and_grad", "aux", GATHER("aux"), "has_aux=True", "mean"),
    *bad(
        "value_and_grad",
        "axis_name",
        GATHER("axis_name"),
        "name of the axis",
        3,
        ["a", "b"],
        (),
        ("a", 3),
    ),
    *bad(
        "value_and_grad",
        "axis_name",
        gathered("batch", "nowhere"),
        "a mesh axis",
        (jnp.ones(4), "'nowhere'"),
    ),
    *bad(
        "value_and_grad",
        "axis_name",
        GATHER("spread"),
        "with `spread='space'`",
        ("space", "None"),
    ),
    *bad("value_and_grad", "spread", GATHER("spread"), "'time'", "both", 3, True),
    *bad(
        "value_and_grad",
        "param_specs",
        GATHER("param_specs"),
        "a jax.P",
        "model",
        ({"w": 3}, "3"),
    ),
    *bad("value_and_grad", "weights", gathered("weights"), WEIGHING, *WEIGHTS),
    *bad("value_and_grad", "weights", gathered("weights"), PER, *SHAPES),
    *bad(
        "value_and_grad",
        "key",
        gathered("key"),
        "one PRNG key",
        3,
        "seed",
        jax.random.split(KEY),
        jnp.ones(2),
    ),
    *bad(
        "value_and_grad",
        "batch",
        gathered("batch"),
        "divide into 2",
        (jnp.ones((0, 3)), "(0, 3)"),
        (jnp.ones(3), "(3,)"),
        (2.0, "()"),
        ({"x": [[1.0], [2.0]]}, "() at ['x'][0][0]: pass an array"),
    ),
    *bad(
        "value_and_grad",
        "batch",
        gathered("batch"),
        "arrays",
        ({"y": "b"}, "'y'"),
        ({"y": np.array(["label"] * 300)}, "an array of <U5 at ['y']: leave it out"),
        ({"y": Tensor()}, "an array of torch.float32 at ['y']: leave it out"),
        ({"y": BCOO.fromdense(jnp.eye(4))}, "BCOO at ['y']"),
    ),
    *bad("value_and_grad", "batch", gathered("batch"), "the examples", None, (), {}),
    *bad(
        "value_and_grad",
        "loss_fn",
        with_aux,
        "arrays",
        ({"kind": "mean"}, "'mean' at ['kind']"),
    ),
    *bad(
        "value_and_grad",
        "params",
        gathered("params"),
        "floating-point",
        (jnp.array(1), "int32 at parameter 'model'"),
        (COUNTS, "int32 at parameter 'w'"),
        (KEY, "key<fry> at parameter 'model'"),
        ("relu", "str at parameter 'model'"),
    ),
    *bad(
        "value_and_grad",
        "preconditioner",
        gathered("preconditioner"),
        "",
        (jnp.ones(2), "(2,)"),
        ({"w": 1.0}, "none"),
        (2j, "2j"),
        ("adam", "'adam'"),
        (ol.adam_preconditioner, "call it, such as"),
        (jnp.array(True), "True"),
    ),
    *bad(
        "moments_from_stack",
        "grads",
        ol.moments_from_stack,
        "",
        ({}, "[]"),
        ({"w": jnp.ones(())}, "[()]"),
        ({"w": 3.0}, "[()]"),
        ({"a": jnp.ones((2, 1)), "b": jnp.ones((3, 1))}, "[(2,), (3,)]"),
        ({"w": jnp.ones((2, 1), int)}, "int32 at parameter 'w'"),
    ),
    *bad(
        "moments_from_stack",
        "num_microbatches",
        ol.moments_from_stack,
        "at least 2",
        (jnp.ones((1, 3)), "got 1"),
        (jnp.ones((0, 3)), "got 0"),
    ),
    *bad(
        "moments_from_stack",
        "weights",
        lambda x: ol.moments_from_stack(STACK, weights=x),
        WEIGHING,
        *WEIGHTS,
    ),
    *bad(
        "moments_from_stack",
        "weights",
        lambda x: ol.moments_from_stack(STACK, weights=x),
        PER,
        *SHAPES,
    ),
    *bad(
        "moments_from_stack",
        "preconditioner",
        lambda x: ol.moments_from_stack(STACK, preconditioner=x),
        "",
        (jnp.ones(2), "(2,)"),
        ({"w": jnp.ones(3)}, "(3,)"),
        ({"w": jnp.array([1j, 1])}, "1.j"),
        (ol.Metric, "call it"),
    ),
    *bad(
        "moments_over_axis",
        "axis_name",
        lambda x: over_axis(x),
        "name",
        "other",
        3,
        None,
        ("batch", 3),
    ),
    *bad(
        "moments_over_axis", "weight", lambda x: over_axis(weight=x), WEIGHING, *WEIGHT
    ),
    *bad(
        "moments_over_axis",
        "weight",
        lambda x: over_axis(weight=x),
        PER,
        (jnp.ones(2), "(2,)"),
    ),
    *bad(
        "moments_over_axis",
        "grads",
        lambda x: over_axis(stack=x),
        "floating-point",
        ({"w": jnp.arange(4)}, "int32 at parameter 'w'"),
    ),
    *bad(
        "moments_over_axis",
        "num_microbatches",
        lambda x: over_axis(stack=x),
        "at least 2",
        (jnp.ones((1, 3)), "got 1"),
    ),
    *bad(
        "moments_over_axis",
        "param_specs",
        lambda x: over_axis(param_specs=x),
        "a jax.P",
        "model",
    ),
    *bad(
        "IncrementalMoments",
        "sums",
        lambda x: added(sums=x),
        "IncrementalMoments.init",
        None,
        {},
    ),
    *bad(
        "IncrementalMoments",
        "sums",
        INCREMENTAL.finish,
        "IncrementalMoments.init",
        None,
        {},
    ),
    *bad(
        "IncrementalMoments",
        "grads",
        lambda x: added(grads=x),
        "",
        ({"w": jnp.ones(3)}, "(3,)"),
        ({"v": jnp.ones(2)}, "none"),
        (COUNTS, "int32 at parameter 'w'"),
    ),
    *bad("IncrementalMoments", "weight", lambda x: added(weight=x), WEIGHING, *WEIGHT),
    *bad(
        "IncrementalMoments",
        "weight",
        lambda x: added(weight=x),
        PER,
        (jnp.ones(2), "(2,)"),
    ),
    *bad(
        "IncrementalMoments",
        "moments",
        lambda x: added(moments=x),
        "optax_lena.GradMoments",
        (3.0, "float"),
        ({}, "dict"),
    ),
    *bad(
        "IncrementalMoments",
        "like",
        lambda x: INCREMENTAL.finish(SUMS, x),
        "the parameters that",
        ({"w": jnp.ones(3)}, "(3,)"),
        ({}, "none"),
    ),
    *bad(
        "IncrementalMoments",
        "preconditioner",
        lambda x: ol.IncrementalMoments(preconditioner=x).add(SUMS, PARAMS),
        "",
        ({"w": jnp.ones(3)}, "(3,)"),
        (3.0, "none"),
        (ol.adam_preconditioner, "call it, such as"),
    ),
]
