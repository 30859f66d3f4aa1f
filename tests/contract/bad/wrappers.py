"""Bad arguments of optimizers around optimizers, and of flax, as data."""

import flax.linen as nn
import jax.numpy as jnp
import optax
from flax import nnx

import optax_lena as ol
import optax_lena.flax as ol_flax
from tests.contract.bad.gatherers import COUNTS, PER, WEIGHING, WEIGHT, WEIGHTS
from tests.contract.bad.rows import (
    FLAG,
    LENA,
    MOMENTS,
    NAN,
    PARAMS,
    accumulated,
    bad,
)

MODEL = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
_MULTI = optax.MultiSteps(LENA, 2)
MULTI_STEPS = [
    (tx, "got optax.MultiSteps") for tx in (_MULTI, _MULTI.gradient_transformation())
]
WITH_KEY = lambda model, x, key: model(x).mean()


def every(k):
    tx = ol.accumulate(LENA, k)
    return tx.update(PARAMS, tx.init(PARAMS), PARAMS)


def successive(grads, tx=LENA, **given):
    tx = ol.from_successive_gradients(tx)
    return tx.update(grads, tx.init(PARAMS), PARAMS, **given)


def flax_gather(loss_fn=lambda model, x: model(x).mean(), n=2, **options):
    return ol_flax.value_and_grad(loss_fn, n, **options)


def train_state(tx):
    return ol_flax.TrainState.create(apply_fn=None, params=PARAMS, tx=tx)


def updated_from(state, tx):
    return tx.update(PARAMS, state, PARAMS, moments=MOMENTS)


OF_WRAPPERS = [
    *bad(
        "accumulate",
        "state",
        lambda x: updated_from(x, ol.accumulate(LENA, 2)),
        "AccumulateState",
        None,
        (LENA.init(PARAMS), "an object of type tuple"),
    ),
    *bad(
        "from_successive_gradients",
        "state",
        lambda x: ol.from_successive_gradients(LENA).update(PARAMS, x, PARAMS),
        "SuccessiveState",
        None,
    ),
    *bad(
        "monitor",
        "state",
        lambda x: updated_from(x, ol.monitor(optax.adam(0.1))),
        "MonitorState",
        None,
    ),
    *bad(
        "lena_amplified",
        "state",
        lambda x: updated_from(x, ol.lena_amplified(0.1, 2)),
        "LayerRateWithMomentumState",
        (ol.lena_amplified(0.1, 2, momentum=None).init(PARAMS), "ScaleByLenaState"),
    ),
    *bad(
        "lena_lars",
        "state",
        lambda x: updated_from(x, ol.lena_lars(0.1, 2)),
        "LenaLarsState",
        (LENA.init(PARAMS), "an object of type tuple"),
    ),
    *bad(
        "scale_by_adam",
        "state",
        lambda x: updated_from(x, ol.scale_by_adam(2)),
        "AdamState",
        (optax.scale_by_adam().init(PARAMS), "ScaleByAdamState"),
    ),
    *bad(
        "accumulate",
        "tx",
        lambda x: ol.accumulate(x, 2),
        "GradientTransformation",
        None,
        ol.lena,
        "lena",
    ),
    *bad(
        "accumulate",
        "tx",
        lambda x: ol.accumulate(x, 2),
        "optax_lena.accumulate",
        *MULTI_STEPS,
    ),
    *bad(
        "from_successive_gradients",
        "tx",
        lambda x: ol.from_successive_gradients(x),
        "optax_lena.accumulate",
        *MULTI_STEPS,
    ),
    *bad(
        "accumulate",
        "preconditioner",
        lambda x: ol.accumulate(LENA, 2, preconditioner=x),
        "a function",
        PARAMS,
        3.0,
    ),
    *bad(
        "accumulate",
        "every_k",
        lambda x: every(x),
        "an integer of at least 1",
        (lambda n: 2.5, "2.5"),
        (lambda n: None, "None"),
        (lambda n: 0, "0"),
        (lambda n: jnp.ones(2), "Array([1., 1.]"),
    ),
    *bad(
        "accumulate",
        "weight",
        lambda x: accumulated(PARAMS, weight=x),
        WEIGHING,
        *WEIGHT,
    ),
    *bad(
        "accumulate",
        "weight",
        lambda x: accumulated(PARAMS, weight=x),
        PER,
        ([1.0, 2.0], "(2,)"),
    ),
    *bad(
        "accumulate",
        "moments",
        lambda x: accumulated(PARAMS, moments=x),
        "optax_lena.GradMoments",
        (3.0, "float"),
        (PARAMS, "dict"),
    ),
    *bad(
        "accumulate",
        "grads",
        accumulated,
        "",
        (COUNTS, "int32 at parameter 'w'"),
        ({"w": jnp.ones(3)}, "(3,)"),
    ),
    *bad(
        "from_successive_gradients",
        "tx",
        ol.from_successive_gradients,
        "GradientTransformation",
        None,
        ol.lena,
        0.1,
    ),
    *bad(
        "from_successive_gradients",
        "preconditioner",
        lambda x: ol.from_successive_gradients(LENA, preconditioner=x),
        "a function",
        PARAMS,
    ),
    *bad(
        "from_successive_gradients",
        "moments",
        lambda x: successive(PARAMS, moments=x),
        "without",
        (MOMENTS, "got `moments`"),
    ),
    *bad(
        "from_successive_gradients",
        "grads",
        lambda x: successive(x),
        "floating-point",
        (COUNTS, "int32 at parameter 'w'"),
    ),
    *bad(
        "from_successive_gradients",
        "batch_scale",
        lambda x: successive(PARAMS, tx=ol.lena(0.1, x)),
        "given with",
        None,
    ),
    *bad("monitor", "tx", ol.monitor, "GradientTransformation", None, optax.sgd, 0.1),
    *bad(
        "monitor",
        "only",
        lambda x: ol.monitor(optax.sgd(0.1), only=x),
        "a regular expression",
        "(",
        3,
    ),
    *bad(
        "monitor",
        "only",
        lambda x: ol.monitor(optax.sgd(0.1), only=x).init(PARAMS),
        "found in a parameter's name",
        "norm",
    ),
]


OF_FLAX = [
    *bad("flax.value_and_grad", "loss_fn", flax_gather, "a function", None, 3.0),
    *bad(
        "flax.value_and_grad",
        "num_microbatches",
        lambda x: flax_gather(n=x),
        "at least 2",
        1,
        NAN,
        4.5,
        True,
        None,
    ),
    *bad(
        "flax.value_and_grad", "has_aux", lambda x: flax_gather(has_aux=x), FLAG, "mean"
    ),
    *bad(
        "flax.value_and_grad",
        "aux",
        lambda x: flax_gather(aux=x),
        "has_aux=True",
        "mean",
    ),
    *bad(
        "flax.value_and_grad",
        "aux",
        lambda x: flax_gather(has_aux=True, aux=x),
        "'examples'",
        ("average", "'average'"),
    ),
    *bad(
        "flax.value_and_grad",
        "axis_name",
        lambda x: flax_gather(axis_name=x),
        "name of the axis",
        3,
    ),
    *bad(
        "flax.value_and_grad",
        "spread",
        lambda x: flax_gather(spread=x),
        "'time'",
        "both",
    ),
    *bad(
        "flax.value_and_grad",
        "layers",
        lambda x: flax_gather(layers=x),
        "a rule such as",
        "per_module",
    ),
    *bad(
        "flax.value_and_grad",
        "weights",
        lambda x: flax_gather()(MODEL, jnp.ones((4, 2)), weights=x),
        WEIGHING,
        *WEIGHTS[:3],
    ),
    *bad(
        "flax.value_and_grad",
        "batch",
        lambda x: flax_gather()(MODEL, x),
        "divide into 2",
        (jnp.ones((3, 2)), "(3, 2)"),
        (jnp.ones((0, 2)), "(0, 2)"),
    ),
    *bad(
        "flax.value_and_grad",
        "batch",
        lambda x: flax_gather(lambda model, x: model(jnp.ones(2)).mean())(MODEL, x),
        "must hold the examples",
        None,
    ),
    *bad(
        "flax.value_and_grad",
        "key",
        lambda x: flax_gather(WITH_KEY)(MODEL, jnp.ones((4, 2)), key=x),
        "one PRNG key",
        3,
        "seed",
    ),
    *bad(
        "flax.value_and_grad",
        "model",
        lambda x: flax_gather()(x, jnp.ones((4, 2))),
        "an nnx.Module",
        None,
        3.0,
        nn.Dense(1),
    ),
    *bad(
        "flax.TrainState",
        "moments",
        lambda x: train_state(LENA).apply_gradients(grads=PARAMS, moments=x),
        "optax_lena.GradMoments",
        (None, "none"),
        (3.0, "float"),
    ),
]
