"""Bad parts, flags, masks, moments, gradients and states, as data."""

import jax.numpy as jnp
import numpy as np
import optax

import optax_lena as ol
from tests.contract.bad.rows import (
    ADAM,
    FLAG,
    GATHER,
    INF,
    LENA,
    MEAN,
    MOMENTS,
    NAN,
    NOISY,
    PARAMS,
    RULE,
    STACK,
    bad,
    of,
    over_axis,
    same,
)

OPTIMIZERS = {
    f: of(f, 0.1, 4)
    for f in (
        "lena",
        "lena_amplified",
        "adascale",
        "linear_scaling",
        "lena_lars",
        "lena_adamw",
    )
}
SOME = {f: OPTIMIZERS[f] for f in ("lena", "lena_adamw")}
COUNTS = {"w": jnp.arange(2)}
LIMIT = ol.SpikeLimit()
LARS = ol.lena_lars(0.1, 2)


def initialised(call):
    """Calls of optimizers whose state is made: a mask meets the parameters there."""
    return lambda name: lambda x: call(name)(x).init(PARAMS)


def updated(**given):
    """One update of LENA with something in it that is not right."""
    tx = ol.scale_by_lena(2)
    right = {"updates": MEAN, "state": tx.init(PARAMS), "moments": MOMENTS}
    given = right | given
    return tx.update(given["updates"], given["state"], moments=given["moments"])


def updated_at(schedule):
    """One update, at which a schedule is called for the first time."""
    tx = ol.lena(schedule, 2)
    return tx.update(MEAN, tx.init(PARAMS), PARAMS, moments=MOMENTS)


TREE = "must be a pytree of booleans"
NO_LAYERS = ("per_parameter", None, ol.by_regex, lambda p: p)

OF_UPDATES = [
    # What is one layer.
    *same(
        "layers",
        RULE,
        {f: c for f, c in OPTIMIZERS.items() if f != "adascale"}
        | {
            "scale_by_lena": of("scale_by_lena", 4),
            "scale_by_layer_rate": of("scale_by_layer_rate", ol.LayerRate(), 4),
            "monitor": of("monitor", optax.sgd(0.1)),
            "accumulate": of("accumulate", LENA, 2),
            "from_successive_gradients": of("from_successive_gradients", LENA),
            "value_and_grad": GATHER,
            "moments_from_stack": of("moments_from_stack", STACK),
            "IncrementalMoments": of("IncrementalMoments"),
            "Metric": of("Metric"),
        },
        "whole_model",
        None,
    ),
    *bad(
        "moments_over_axis", "layers", lambda x: over_axis(layers=x), RULE, *NO_LAYERS
    ),
    *bad("stacked", "others", lambda x: ol.stacked("b", others=x), RULE, 3, "b"),
    *bad(
        "stacked",
        "axis",
        lambda x: ol.stacked("b", x),
        "an integer",
        "x",
        True,
        0.5,
        None,
    ),
    *bad("stacked", "regex", ol.stacked, "a regular expression", "(", 3, None),
    *bad("by_regex", "patterns", ol.by_regex, "a regular expression", "[a", 3, None),
    *bad("by_regex", "patterns", lambda x: ol.by_regex(*x), "at least one", ([], "()")),
    # Flags, dtypes and masks.
    *same("nesterov", FLAG, OPTIMIZERS, "no", 0.9, None),
    *same(
        "reference",
        FLAG,
        {f: OPTIMIZERS[f] for f in ("lena", "adascale", "linear_scaling")},
        "yes",
        None,
    ),
    *bad(
        "scale_by_lena",
        "reference",
        lambda x: ol.scale_by_lena(4, reference=x),
        FLAG,
        1,
    ),
    *bad(
        "lena",
        "reference=True",
        lambda x: ol.lena(0.1, x, reference=True),
        "at most 1000",
        (np.array(2000.0), "2000"),
        (jnp.array(1001), "1001"),
    ),
    *bad("Averages", "relative", lambda x: ol.Averages(relative=x), FLAG, "yes", 300),
    *bad("value_and_grad", "has_aux", GATHER("has_aux"), FLAG, "mean", None),
    *same(
        "accumulator_dtype",
        "floating-point dtype",
        {
            f: OPTIMIZERS[f]
            for f in (
                "lena",
                "lena_amplified",
                "adascale",
                "linear_scaling",
                "lena_lars",
            )
        },
        "float33",
        jnp.int32,
        16,
    ),
    *bad(
        "lena_adamw",
        "mu_dtype",
        OPTIMIZERS["lena_adamw"]("mu_dtype"),
        "floating-point dtype",
        "float33",
        jnp.int8,
        bool,
    ),
    *same(
        "weight_decay_mask",
        TREE,
        OPTIMIZERS,
        "bias",
        True,
        jnp.array(True),
        {"w": "yes"},
        {"w": None},
    ),
    *bad(
        "lena_lars",
        "trust_ratio_mask",
        OPTIMIZERS["lena_lars"]("trust_ratio_mask"),
        TREE,
        "bias",
        jnp.array(True),
        {"w": 1.0},
    ),
    *same(
        "weight_decay_mask",
        TREE,
        {f: initialised(call) for f, call in OPTIMIZERS.items()},
        {"v": True},
        (lambda params: {"v": True}, "{'v': True}"),
        (lambda params: params, "float32"),
        (lambda params: {"w": "yes"}, "{'w': 'yes'}"),
    ),
    *bad(
        "lena_lars",
        "trust_ratio_mask",
        initialised(OPTIMIZERS["lena_lars"])("trust_ratio_mask"),
        TREE,
        {"w": True, "v": False},
    ),
    # The parts of a rate.
    *bad(
        "LayerRate",
        "clock",
        lambda x: ol.LayerRate(clock=x),
        "'base_steps'",
        "updates",
        None,
        3,
    ),
    *bad(
        "LayerRate",
        "rule",
        lambda x: ol.LayerRate(rule=x),
        "capped_gain",
        "linear",
        lambda e, s: s,
    ),
    *bad(
        "LayerRate",
        "warmup",
        lambda x: ol.LayerRate(warmup=x),
        "StateAwareWarmup(",
        320,
        ol.FixedWarmup,
        None,
    ),
    *bad(
        "LayerRate",
        "estimator",
        lambda x: ol.LayerRate(estimator=x),
        "Averages(",
        500,
        LIMIT,
        None,
    ),
    *bad(
        "LayerRate",
        "guard",
        lambda x: ol.LayerRate(guard=x),
        "SpikeLimit(",
        2.0,
        ol.SpikeLimit,
    ),
    *bad(
        "LayerRate",
        "loss_limit",
        lambda x: ol.LayerRate(loss_limit=x),
        "LossLimit(",
        2.0,
        ol.LossLimit,
        LIMIT,
    ),
    *bad("Rule", "trust_ratio", ol.Rule, "a function", 2.0, None, "linear"),
    *bad("Rule", "needs_moments", lambda x: ol.Rule(max, needs_moments=x), FLAG, "no"),
    *bad(
        "scale_by_lena",
        "rule",
        lambda x: ol.scale_by_lena(4, rule=x),
        "capped_gain",
        "linear",
        None,
    ),
    *bad(
        "scale_by_layer_rate",
        "rate",
        lambda x: ol.scale_by_layer_rate(x, 4),
        "LayerRate",
        0.1,
        None,
        ol.LayerRate,
    ),
    *bad(
        "linear_scaling",
        "batch_scale",
        lambda x: ol.linear_scaling(0.1, x),
        "given with `linear_scaling`",
        None,
    ),
    *bad("Estimate", "batch_scale", NOISY.gain, "above 0", -3, 0, NAN, "4", None),
    *bad("Estimate", "batch_scale", NOISY.sq_norm, "above 0", -3, 0, INF),
    # Schedules, at their first call.
    *bad(
        "lena",
        "learning_rate",
        lambda x: updated_at(x),
        "a finite number",
        (lambda t: None, "None"),
        (lambda t: jnp.ones(2), "Array([1., 1.]"),
        (lambda t: NAN, "nan"),
        (lambda t: "0.1", "'0.1'"),
    ),
    # Moments, gradients and states.
    *bad(
        "GradMoments",
        "moments",
        lambda x: updated(moments=x),
        "optax_lena.GradMoments",
        (None, "got none"),
        ((MEAN, MEAN), "got tuple"),
        (3.0, "got float"),
    ),
    *bad(
        "GradMoments",
        "moments.num_microbatches",
        lambda x: updated(moments=MOMENTS._replace(num_microbatches=x)),
        "must be an integer",
        (2.0, "2.0"),
        (jnp.float32(2), "float32"),
        (jnp.array([2, 2]), "(2,)"),
        (None, "None"),
        ("2", "2"),
    ),
    *bad(
        "GradMoments",
        "num_microbatches",
        lambda x: updated(moments=MOMENTS._replace(num_microbatches=x)),
        "at least 2",
        1,
        0,
        -3,
        True,
    ),
    *bad(
        "GradMoments",
        "moments.micro_sq_norm",
        lambda x: updated(moments=MOMENTS._replace(micro_sq_norm=x)),
        "",
        ({"v": 1.0}, "v"),
        (PARAMS, "(2,)"),
        ({"w": jnp.array(1j)}, "complex64"),
        ({"w": jnp.array(1)}, "int32"),
        ({"w": 2.0}, "*"),
        (None, "None"),
    ),
    *bad(
        "scale_by_lena",
        "state",
        lambda x: updated(state=x),
        "ScaleByLenaState",
        None,
        {},
        3,
    ),
    *bad(
        "scale_by_lena",
        "updates",
        lambda x: updated(updates=x),
        "floating-point",
        (COUNTS, "int32 at parameter 'w'"),
    ),
    *bad(
        "scale_by_lena",
        "params",
        ol.scale_by_lena(4).init,
        "floating-point",
        (COUNTS, "int32 at parameter 'w'"),
        ({"a": {"b": jnp.ones(2, bool)}}, "bool at parameter 'a/b'"),
        ({"w": 3}, "int"),
    ),
    *bad(
        "metrics",
        "opt_state",
        ol.metrics,
        "the state of a LENA transformation",
        (None, "none in"),
        ({}, "none in"),
        (ADAM, "none in"),
    ),
    *bad(
        "layer_report",
        "opt_state",
        ol.layer_report,
        "the state of a LENA transformation",
        (None, "none in"),
        (3, "none in"),
    ),
    *bad(
        "adam_preconditioner",
        "opt_state",
        lambda x: ol.adam_preconditioner(x, PARAMS),
        "scale_by_adam",
        (None, "none in"),
        (optax.sgd(0.1).init(PARAMS), "none in"),
    ),
    *bad(
        "adam_preconditioner",
        "params",
        lambda x: ol.adam_preconditioner(ADAM, x),
        "those of `opt_state`",
        ({"w": jnp.ones(3)}, "(3,)"),
        ({"v": jnp.ones(2)}, "none"),
    ),
    # As a whole Equinox model has functions among its leaves.
    *bad(
        "adam_preconditioner",
        "params",
        lambda x: ol.adam_preconditioner(ADAM, x),
        "arrays",
        ({"w": jnp.ones(2), "f": jnp.tanh}, "parameter 'f': pass what is"),
    ),
    *bad(
        "lena_lars",
        "params",
        lambda x: LARS.update(MEAN, LARS.init(MEAN), x, moments=MOMENTS),
        "floating-point",
        ({"w": jnp.tanh}, "parameter 'w'"),
    ),
]
