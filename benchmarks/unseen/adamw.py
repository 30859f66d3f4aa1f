"""Recipes of AdamW."""

import functools
import math
from collections.abc import Callable
from typing import Any

import optax

import optax_lena
from benchmarks.methods.adamw import earlier_lena_adamw, memories
from benchmarks.methods.makers import warmed_up
from benchmarks.methods.rates import FIRST_NORMALISED, NORMALISED
from benchmarks.unseen.catalogue import OF_TESTERS, TASKS
from benchmarks.unseen.family import (
    WARMUP,
    Family,
    Method,
    of_two_microbatches,
    without_loss,
)

# At the base batch, by seeds 100 and 101; of rates that are equally good the largest.
GRID = (0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032)
WEIGHT_DECAY = 0.01
Memories = Callable[[int], dict[str, Any]]


def scalings(
    base: Callable[..., Any], memories: Memories, warmup_steps: float = WARMUP
) -> dict[str, Method]:
    """Multiples of the base recipe's rate after a fixed warm-up, which need no moments.

    Args:
      base: the optimizer, of a schedule and what its averages keep of themselves.
      memories: what they keep at S, if they count examples.
      warmup_steps: in base-batch steps; 0: none.
    """

    def scaled(
        label: str, multiple: Callable[[int], float], *, by_examples: bool = False
    ) -> Method:
        def make(
            schedule: optax.Schedule, batch_scale: int
        ) -> optax.GradientTransformation:
            multiplied = multiple(batch_scale)
            rate = warmed_up(schedule, batch_scale, multiplied, warmup_steps)
            return base(rate, **(memories(batch_scale) if by_examples else {}))

        return Method(label, make, needs_moments=False)

    return {
        "constant": scaled("rate as it is", lambda scale: 1.0),
        "square_root": scaled("square-root scaling", math.sqrt),
        "linear": scaled("linear scaling", float),
        "square_root_memories": scaled(
            "square-root scaling, averages count examples", math.sqrt, by_examples=True
        ),
    }


# Of testers' tasks.
_TRIED = ("denoising", "flow", "addition", "sim_to_real")
_adamw = functools.partial(optax.adamw, weight_decay=WEIGHT_DECAY)
_lena_adamw = functools.partial(optax_lena.lena_adamw, weight_decay=WEIGHT_DECAY)
_growing = functools.partial(earlier_lena_adamw, NORMALISED, weight_decay=WEIGHT_DECAY)
_first = functools.partial(
    earlier_lena_adamw, FIRST_NORMALISED, weight_decay=WEIGHT_DECAY
)
_recommended = Method("LENA + AdamW", _lena_adamw)
_whole_model = Method(
    "LENA + AdamW, one layer: the model",
    functools.partial(_lena_adamw, layers=optax_lena.whole_model),
)

ADAMW = Family(
    label="AdamW (decay 0.01)",
    records="unseen_adamw",
    rate=lambda task: task.adamw_rate,
    grid=lambda task: GRID,
    base=_adamw,
    methods={
        **scalings(_adamw, functools.partial(memories, 0.9)),
        "lena_adamw_model": _whole_model,
        "lena_adamw": _recommended,
        "lena_adamw_without_loss_model": without_loss(_whole_model),
        "lena_adamw_without_loss": without_loss(_recommended),
        "lena_adamw_two": of_two_microbatches(_recommended),
        "lena_adamw_growth": Method("LENA + AdamW, never backing off", _growing),
        "lena_adamw_first_model": Method(
            "first LENA + AdamW, one layer: the model",
            functools.partial(_first, layers=optax_lena.whole_model),
        ),
        "lena_adamw_first": Method("first LENA + AdamW, no ratio limits", _first),
    },
    recommended="lena_adamw",
    own=(
        "lena_adamw",
        "lena_adamw_model",
        "lena_adamw_without_loss",
        "lena_adamw_without_loss_model",
        "lena_adamw_two",
        "lena_adamw_growth",
        "lena_adamw_first",
        "lena_adamw_first_model",
    ),
    # On all others the limit on the loss was tried, on three of these the backing off,
    # and on the last how long a loss is above the limit before it counts as usual.
    developed=tuple(name for name in TASKS if name not in OF_TESTERS or name in _TRIED),
    pairs={
        "LENA + AdamW": ("lena_adamw", "lena_adamw_model"),
        "not given the loss": (
            "lena_adamw_without_loss",
            "lena_adamw_without_loss_model",
        ),
        "first": ("lena_adamw_first", "lena_adamw_first_model"),
    },
)
