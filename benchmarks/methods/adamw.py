"""Methods for recipes of AdamW."""

import functools
import math
from typing import Any

import optax

import optax_lena
from benchmarks.methods.makers import at_scale, fixed_warmup
from benchmarks.methods.method import Method
from benchmarks.tasks.recipe import ADAMW


def _lena_adamw(
    learning_rate: optax.ScalarOrSchedule,
    batch_scale: int,
    *,
    momentum: float,
    **options: Any,
) -> optax.GradientTransformation:
    return optax_lena.lena_adamw(learning_rate, batch_scale, b1=momentum, **options)


_adamw = functools.partial(optax.adamw, b1=0.9)
ADAMW_METHODS = {
    "adamw_linear": Method(
        "AdamW, linear scaling", fixed_warmup(_adamw, float), needs_moments=False
    ),
    "adamw_square_root": Method(
        "AdamW, square-root scaling",
        fixed_warmup(_adamw, math.sqrt),
        "#D55E00",
        needs_moments=False,
    ),
    "lena_adamw": Method(
        "LENA + AdamW",
        at_scale(_lena_adamw, optimizer=ADAMW),
        "#009E73",
        preconditioned=True,
    ),
    "lena_adamw_no_warmup": Method(
        "LENA + AdamW, no warm-up",
        at_scale(_lena_adamw, warms_up=False, optimizer=ADAMW),
        preconditioned=True,
    ),
    "adamw_tuned": Method(
        "AdamW, re-tuned",
        fixed_warmup(_adamw),
        needs_moments=False,
        rates=(0.002, 0.004, 0.008, 0.016, 0.032, 0.064),
    ),
}
