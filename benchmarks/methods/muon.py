"""Methods for recipes of Muon."""

import functools
import math
from collections.abc import Callable
from typing import Any

import optax

import optax_lena
from benchmarks.methods import adamw
from benchmarks.methods.base import MUON_OPTIONS, muon
from benchmarks.methods.makers import at_scale, fixed_warmup
from benchmarks.methods.method import Make, Method
from benchmarks.tasks.recipe import MUON, Recipe

# The floor of `lena_muon`.
FLOOR = 0.9


def memories(beta: float, batch_scale: int, floor: float = FLOOR) -> dict[str, Any]:
    """What Muon and its Adam keep of their averages, if these count examples."""
    adam = adamw.memories(0.9, batch_scale)
    return {
        "momentum": float(optax_lena.decay_at(beta, batch_scale, floor)),
        "adam_b1": adam["b1"],
        "adam_b2": adam["b2"],
    }


def _at_rate(gain: Callable[[int], float], floor: float | None = None) -> Make:
    """Muon at a multiple of the recipe's rate.

    Args:
      gain: the multiple at S.
      floor: of the momentum, if averages count examples; None: they count updates.
    """

    def make(
        recipe: Recipe, batch_scale: int, base_steps: int
    ) -> optax.GradientTransformation:
        options: dict[str, Any] = {"momentum": recipe.momentum}
        if floor is not None:
            options = memories(recipe.momentum, batch_scale, floor)
        make = fixed_warmup(muon, gain, **options)
        return make(recipe, batch_scale, base_steps)

    return make


def _lena_muon(
    learning_rate: optax.ScalarOrSchedule,
    batch_scale: int,
    *,
    momentum: float,
    weight_decay: float,
    **options: Any,
) -> optax.GradientTransformation:
    return optax_lena.lena_muon(
        learning_rate,
        batch_scale,
        beta=momentum,
        weight_decay=weight_decay,
        adam_weight_decay=weight_decay,
        options=MUON_OPTIONS,
        **options,
    )


MUON_METHODS = {
    "muon_constant": Method(
        "Muon, rate as it is", _at_rate(lambda scale: 1.0), needs_moments=False
    ),
    "muon_square_root": Method(
        "Muon, square-root scaling", _at_rate(math.sqrt), "#D55E00", needs_moments=False
    ),
    "muon_linear": Method("Muon, linear scaling", _at_rate(float), needs_moments=False),
    "muon_transferred": Method(
        "Muon, square-root scaling, averages count examples",
        _at_rate(math.sqrt, FLOOR),
        needs_moments=False,
    ),
    "lena_muon": Method(
        "LENA + Muon",
        at_scale(_lena_muon, warms_up=False, optimizer=MUON),
        "#009E73",
        preconditioned=True,
    ),
    "lena_muon_whole_model": Method(
        "LENA + Muon, one gain for the model",
        at_scale(
            functools.partial(_lena_muon, layers=optax_lena.whole_model),
            warms_up=False,
            optimizer=MUON,
        ),
        preconditioned=True,
    ),
    "muon_tuned": Method(
        "Muon, re-tuned",
        _at_rate(lambda scale: 1.0),
        needs_moments=False,
        rates=(0.004, 0.008, 0.016, 0.032),
    ),
    "muon_transferred_tuned": Method(
        "Muon, re-tuned, averages count examples",
        _at_rate(lambda scale: 1.0, FLOOR),
        needs_moments=False,
        rates=(0.004, 0.008, 0.016, 0.032),
    ),
}
# With other floors under the momentum. The recipes' own is 0.95.
MUON_ABLATIONS = {
    f"muon_transferred_{100 * floor:.0f}": Method(
        f"Muon, square-root scaling, averages count examples, momentum ≥ {floor}",
        _at_rate(math.sqrt, floor),
        needs_moments=False,
    )
    for floor in (0.8, 0.95)
}
