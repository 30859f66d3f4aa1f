"""Methods for recipes of AdamW, as `methods.py` has them for SGD.

In: a recipe, S and the base run's length. Out: an optax optimizer.
"""

import functools
import math
from typing import Any

import optax

import optax_lena
from benchmarks.methods import GREY, Make, Method, at_scale, fixed_warmup
from benchmarks.workloads import ADAMW


def _lena_adamw(
    learning_rate: optax.ScalarOrSchedule,
    batch_scale: int,
    *,
    momentum: float,
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    return optax_lena.lena_adamw(learning_rate, batch_scale, b1=momentum, **options)


def _lena(*, warms_up: bool) -> Make:
    return at_scale(_lena_adamw, warms_up=warms_up, optimizer=ADAMW)


_adamw = functools.partial(optax.adamw, b1=0.9)
ADAM_METHODS = {
    "adamw_linear": Method(
        "AdamW, linear scaling", GREY, fixed_warmup(_adamw, float), needs_moments=False
    ),
    "adamw_square_root": Method(
        "AdamW, square-root scaling",
        "#D55E00",
        fixed_warmup(_adamw, math.sqrt),
        needs_moments=False,
    ),
    "lena_adamw": Method(
        "LENA + AdamW", "#009E73", _lena(warms_up=True), preconditioned=True
    ),
    "lena_adamw_no_warmup": Method(
        "LENA + AdamW, no warm-up", GREY, _lena(warms_up=False), preconditioned=True
    ),
    "adamw_tuned": Method(
        "AdamW, re-tuned",
        GREY,
        fixed_warmup(_adamw),
        needs_moments=False,
        rates=(0.002, 0.004, 0.008, 0.016, 0.032, 0.064),
    ),
}
# LAMB is re-tuned here as in the tables of SGD: it takes no rate from the recipe.
COMPARED = ("base", *ADAM_METHODS, "lamb_tuned")
