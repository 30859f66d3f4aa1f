"""Bad numbers, as data: what each argument that is one number refuses."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_lena as ol
from tests.contract.bad.rows import (
    ADAM,
    ADVICE,
    CURVE,
    FROM_ONE,
    HISTORY,
    INF,
    LENA,
    MOMENTS,
    NAN,
    NOT_NEGATIVE,
    OPEN,
    PARAMS,
    POSITIVE,
    SCHEDULE,
    SHARE,
    WHOLE,
    branch,
)

# No argument that is one number takes any of these.
NO_NUMBERS = (
    None,
    "4",
    True,
    2j,
    [4.0],
    {},
    NAN,
    INF,
    1e39,  # beyond float32
    10**400,  # beyond float64
    np.array(NAN),
    np.float32(-INF),
    np.ones(2),
    np.array(True),
    jnp.array(NAN),
    jnp.ones((1,)),
    jnp.array(1j),
    jax.ShapeDtypeStruct((2,), jnp.float32),
)


def arrays(*values):
    """The same number in the three ways that a loop may hand it over."""
    return [f(v) for v in values for f in (float, np.array, jnp.array)]


@dataclasses.dataclass(frozen=True)
class Number:
    """An argument that is one number.

    Attributes:
      function: whose it is.
      name: of the argument.
      call: with the argument alone.
      allowed: what a message says of the range.
      good: a value that it takes.
      bad: values outside the range.
      takes: of `NO_NUMBERS`, what has a meaning here.
      traced: whether it may be a hyperparameter under `jit`.
    """

    function: str
    name: str
    call: Callable[[Any], Any]
    allowed: str
    good: float
    bad: list[Any]
    takes: tuple[Any, ...] = ()
    traced: bool = True

    def refuses(self):
        others = [x for x in NO_NUMBERS if not any(x is y for y in self.takes)]
        return [*self.bad, *others]


def of_optimizers(name, allowed, good, bad, *functions, **options):
    """The same argument of several optimizers."""

    def call(function):
        given = {"batch_scale": 4} if name != "batch_scale" else {}
        rate = () if function == "scale_by_lena" else (0.1,)
        return lambda x: getattr(ol, function)(*rate, **given | {name: x})

    return [Number(f, name, call(f), allowed, good, bad, **options) for f in functions]


SGD = ("lena", "lena_amplified", "adascale", "linear_scaling", "lena_lars")
ALL = (*SGD, "lena_adamw", "lena_muon")


def of_rate(function):
    return Number(
        function,
        "learning_rate",
        lambda x: getattr(ol, function)(x, batch_scale=4),
        NOT_NEGATIVE,
        0.1,
        arrays(-0.1),
    )


NUMBERS = [
    *map(of_rate, ALL),
    Number(
        "scale_by_lena",
        "schedule",
        lambda x: ol.scale_by_lena(4, schedule=x),
        NOT_NEGATIVE,
        0.1,
        arrays(-0.1),
        takes=(None,),
    ),
    Number("LayerRate", "learning_rate", ol.LayerRate, NOT_NEGATIVE, 0.1, arrays(-1)),
    *of_optimizers(
        "batch_scale",
        POSITIVE,
        4,
        arrays(-3, -0.5, 0),
        *ALL,
        "scale_by_lena",
        takes=(None,),
    ),
    Number(
        "scale_by_layer_rate",
        "batch_scale",
        lambda x: ol.scale_by_layer_rate(ol.LayerRate(), x),
        POSITIVE,
        4,
        arrays(-3, 0),
        takes=(None,),
    ),
    Number(
        "monitor",
        "batch_scale",
        lambda x: ol.monitor(optax.sgd(0.1), batch_scale=x),
        POSITIVE,
        4,
        arrays(-3, 0),
        takes=(None,),
    ),
    *of_optimizers("warmup_steps", NOT_NEGATIVE, 8, arrays(-1), *ALL, "scale_by_lena"),
    Number(
        "StateAwareWarmup", "steps", ol.StateAwareWarmup, NOT_NEGATIVE, 8, arrays(-1)
    ),
    Number("FixedWarmup", "steps", ol.FixedWarmup, NOT_NEGATIVE, 8, arrays(-1)),
    *of_optimizers("momentum", SHARE, 0.9, arrays(-0.1, 1, 2), *SGD, takes=(None,)),
    *of_optimizers("weight_decay", NOT_NEGATIVE, 1e-4, arrays(-1e-4), *ALL),
    *of_optimizers("b1", SHARE, 0.9, arrays(-0.1, 1), "lena_adamw"),
    *of_optimizers("b2", SHARE, 0.99, arrays(-0.1, 1), "lena_adamw"),
    *of_optimizers("beta", SHARE, 0.9, arrays(-0.1, 1), "lena_muon"),
    *of_optimizers("adam_b1", SHARE, 0.9, arrays(-0.1, 1), "lena_muon"),
    *of_optimizers("adam_b2", SHARE, 0.99, arrays(-0.1, 1), "lena_muon"),
    *of_optimizers("adam_weight_decay", NOT_NEGATIVE, 1e-4, arrays(-1e-4), "lena_muon"),
    *of_optimizers(
        "eps",
        NOT_NEGATIVE,
        1e-8,
        arrays(-1e-8),
        "lena_adamw",
        "lena_muon",
        "lena_lars",
    ),
    *(
        Number(
            "scale_by_adam",
            name,
            lambda x, name=name: ol.scale_by_adam(4, **{name: x}),
            SHARE,
            0.9,
            arrays(-0.1, 1),
        )
        for name in ("b1", "b2", "b1_floor", "b2_floor")
    ),
    Number("decay_at", "decay", lambda x: ol.decay_at(x, 4), SHARE, 0.9, arrays(1)),
    Number(
        "decay_at", "batch_scale", lambda x: ol.decay_at(0.9, x), POSITIVE, 4, arrays(0)
    ),
    Number(
        "decay_at", "floor", lambda x: ol.decay_at(0.9, 4, x), SHARE, 0.8, arrays(1)
    ),
    *of_optimizers("trust_coefficient", NOT_NEGATIVE, 0.1, arrays(-1), "lena_lars"),
    Number(
        "adam_preconditioner",
        "b2",
        lambda x: ol.adam_preconditioner(ADAM, PARAMS, b2=x),
        SHARE,
        0.99,
        arrays(-0.1, 1),
    ),
    Number(
        "adam_preconditioner",
        "eps",
        lambda x: ol.adam_preconditioner(ADAM, PARAMS, eps=x),
        NOT_NEGATIVE,
        1e-8,
        arrays(-1),
    ),
    Number("Averages", "horizon", ol.Averages, FROM_ONE, 100, arrays(-1, 0.5)),
    Number("SpikeLimit", "limit", ol.SpikeLimit, FROM_ONE, 2, arrays(-1, 0.5)),
    Number("LossLimit", "limit", ol.LossLimit, FROM_ONE, 2, arrays(-1, 0.5)),
    Number(
        "LossLimit",
        "rise",
        lambda x: ol.LossLimit(rise=x),
        "a finite number in [0, 1]",
        0.5,
        arrays(-0.1, 1.5),
    ),
    Number("GrowthLimit", "growth", ol.GrowthLimit, FROM_ONE, 1.2, arrays(-1, 0.5)),
    Number("Backoff", "growth", ol.Backoff, FROM_ONE, 1.2, arrays(-1, 0.5)),
    Number(
        "Backoff",
        "limit",
        lambda x: ol.Backoff(limit=x),
        FROM_ONE,
        2,
        arrays(-1, 0.5),
    ),
    Number("GradMoments", "factor", MOMENTS.rescale, "a finite number", 0.5, []),
    Number(
        "accumulate",
        "every_k",
        lambda x: ol.accumulate(LENA, x),
        WHOLE,
        2,
        arrays(0, -2, 2.5),
    ),
    Number(
        "Curve",
        "least_updates",
        lambda x: ol.Curve(1.0, x),
        NOT_NEGATIVE,
        1,
        arrays(-1),
        traced=False,
    ),
    Number(
        "Curve",
        "efficiency",
        CURVE.critical_scale,
        OPEN,
        0.5,
        arrays(0, 1),
        traced=False,
    ),
    Number(
        "advise",
        "efficiency",
        lambda x: ol.advise(HISTORY, efficiency=x),
        OPEN,
        0.5,
        arrays(0, 1, -3),
        traced=False,
    ),
    Number(
        "advise",
        "base_batch",
        lambda x: ol.advise(HISTORY, base_batch=x),
        WHOLE,
        32,
        arrays(0, 2.5),
        takes=(None,),
        traced=False,
    ),
    Number(
        "advise",
        "until",
        lambda x: ol.advise(HISTORY, until=x),
        POSITIVE,
        1e6,
        arrays(0, -3),
        takes=(None,),
        traced=False,
    ),
    Number(
        "Advice",
        "base_updates",
        lambda x: ADVICE.time(8, x),
        NOT_NEGATIVE,
        1,
        arrays(-1),
        traced=False,
    ),
    *(
        Number("branch_test", name, lambda x, name=name: branch(**{name: x}), *rest)
        for name, *rest in (
            ("window", WHOLE, 4, arrays(0, 2.5), (), False),
            ("end", "a finite number in (0, 1]", 0.5, arrays(0, 1.5), (), False),
            ("tolerance", NOT_NEGATIVE, 0.1, arrays(-1), (), False),
        )
    ),
    *(
        Number("BatchRamp", name, lambda x, name=name: ol.BatchRamp(**{name: x}), *rest)
        for name, *rest in (
            ("batch_scale", WHOLE, 4, arrays(0, 2.5), (), False),
            ("max_scale", WHOLE, 16, arrays(0, 2.5), (), False),
            ("theta", POSITIVE, 0.5, arrays(0, -1), (), False),
            ("start", NOT_NEGATIVE, 8, arrays(-1), (), False),
        )
    ),
    Number(
        "BatchSchedule",
        "base_steps",
        SCHEDULE,
        NOT_NEGATIVE,
        8,
        arrays(-1),
        traced=False,
    ),
    Number(
        "seesaw",
        "steps",
        lambda x: ol.seesaw(optax.constant_schedule(0.1), x),
        WHOLE,
        8,
        arrays(0, 2.5),
        traced=False,
    ),
    Number(
        "seesaw",
        "max_scale",
        lambda x: ol.seesaw(optax.constant_schedule(0.1), 8, max_scale=x),
        FROM_ONE,
        8,
        arrays(0.5),
        traced=False,
    ),
    Number(
        "levanter_config",
        "base_batch",
        lambda x: ol.levanter_config(SCHEDULE, x),
        WHOLE,
        8,
        arrays(0, 2.5),
        traced=False,
    ),
    Number(
        "maxtext_config",
        "num_devices",
        lambda x: ol.maxtext_config(SCHEDULE, 8, x),
        WHOLE,
        8,
        arrays(0, 2.5),
        traced=False,
    ),
]
