"""What the tables of bad arguments share: a row, and right arguments beside one."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_lena as ol

NAN, INF = float("nan"), float("inf")
# What messages say is allowed.
FROM_ONE, SHARE = "a finite number of at least 1", "a finite number in [0, 1)"
NOT_NEGATIVE, POSITIVE = "a finite number of at least 0", "a finite number above 0"
WHOLE, OPEN = "an integer of at least 1", "a finite number in (0, 1)"
RULE = "a rule such as optax_lena.per_parameter"
FLAG = "True or False"


@dataclasses.dataclass(frozen=True)
class Bad:
    """One bad argument.

    Attributes:
      function: whose it is.
      name: of the argument.
      call: with the value.
      value: that is refused.
      allowed: what the message says is allowed.
      got: what the message says was got; None: the value's `repr`.
    """

    function: str
    name: str
    call: Callable[[Any], Any]
    value: Any
    allowed: str
    got: str | None = None


def bad(function, name, call, allowed, *values):
    """Rows of one argument; a pair is a value and what is said to be got."""
    is_pair = lambda v: isinstance(v, tuple) and len(v) == 2 and isinstance(v[1], str)
    pairs = [v if is_pair(v) else (v, None) for v in values]
    return [Bad(function, name, call, v, allowed, got) for v, got in pairs]


def of(function, *positional, **given):
    """Calls a function of the library with one argument more."""
    target = getattr(ol, function)
    return lambda name: lambda x: target(*positional, **given | {name: x})


def same(name, allowed, calls, *values):
    return [
        row
        for f, call in calls.items()
        for row in bad(f, name, call(name), allowed, *values)
    ]


LOSS = lambda params, batch: jnp.mean(params * batch)
STACK = {"w": jnp.array([[1.0, 2.0], [3.0, 5.0]])}
PARAMS = {"w": jnp.ones(2)}
HISTORY = {"model/noise": np.full(9, 50.0), "model/signal": np.ones(9)}
SCHEDULE = ol.BatchSchedule(((0, 8), (800, 16)))
CURVE = ol.fit_curve({1: 10, 8: 20})
RAMP, ADVICE = ol.BatchRamp(), ol.advise(HISTORY, seconds={1: 0.1, 8: 0.2})
NOISY = ol.Estimate(noise=jnp.ones(1), signal=jnp.ones(1))
MEAN, MOMENTS = ol.moments_from_stack(STACK)
LENA = ol.lena(0.1, 2)
INCREMENTAL = ol.IncrementalMoments()
SUMS = INCREMENTAL.init(PARAMS)
ADAM = optax.adam(0.1).init(PARAMS)


def branch(**options):
    step = lambda state, batch, batch_scale: (state, 1.0)
    return ol.branch_test(
        **{"step": step, "state": 0, "batches_for": lambda s: range(99)}
        | {"scales": (1, 2), "window": 4}
        | options
    )


def over_axis(axis_name="batch", named="batch", stack=STACK, **options):
    gather = lambda grads: ol.moments_over_axis(grads, axis_name, **options)
    return jax.vmap(gather, axis_name=named, out_axes=None)(stack)


def accumulated(grads, tx=LENA, **given):
    tx = ol.accumulate(tx, 2)
    return tx.update(grads, tx.init(PARAMS), PARAMS, **given)


GATHER = of("value_and_grad", LOSS, 2)
