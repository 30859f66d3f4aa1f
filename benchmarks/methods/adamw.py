"""Methods for recipes of AdamW."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import optax_lena
from benchmarks.methods.makers import at_scale, fixed_warmup
from benchmarks.methods.method import Make, Method
from benchmarks.methods.rates import FIRST_NORMALISED, NORMALISED
from benchmarks.tasks.recipe import ADAMW, Recipe

B2, EPS = 0.999, 1e-8
# The floors of `lena_adamw`; a floor of the decay itself leaves it as it is.
FLOORS = {"b1": 0.8, "b2": 0.9}


def _lena_adamw(
    learning_rate: optax.ScalarOrSchedule,
    batch_scale: int,
    *,
    momentum: float,
    **options: Any,
) -> optax.GradientTransformation:
    return optax_lena.lena_adamw(learning_rate, batch_scale, b1=momentum, **options)


def memories(
    b1: float,
    batch_scale: int,
    b1_floor: float = FLOORS["b1"],
    *,
    b2: float = B2,
    eps: float = EPS,
) -> dict[str, Any]:
    """What Adam's averages keep of themselves at S, if they count examples."""
    return {
        "b1": float(optax_lena.decay_at(b1, batch_scale, b1_floor)),
        "b2": float(optax_lena.decay_at(b2, batch_scale, FLOORS["b2"])),
        "eps": eps / math.sqrt(batch_scale),
    }


def _transferred(
    gain: Callable[[int], float], b1_floor: float | None = FLOORS["b1"]
) -> Make:
    """Averages that count examples, at a multiple of the recipe's rate.

    Args:
      gain: the multiple at S.
      b1_floor: of β1; None: β1 counts updates.
    """

    def make(
        recipe: Recipe, batch_scale: int, base_steps: int
    ) -> optax.GradientTransformation:
        floor = recipe.momentum if b1_floor is None else b1_floor
        own = memories(recipe.momentum, batch_scale, floor)
        make = fixed_warmup(optax.adamw, gain, **own)
        return make(recipe, batch_scale, base_steps)

    return make


def _root_gain(*, warms_up: bool) -> Make:
    """The square root of the gain, and averages that count updates."""

    def make(
        recipe: Recipe, batch_scale: int, base_steps: int
    ) -> optax.GradientTransformation:
        length = recipe.warmup_steps(base_steps) if warms_up else 0
        rate = optax_lena.LayerRate(
            recipe.rate(base_steps),
            rule=optax_lena.square_root_gain,
            warmup=optax_lena.StateAwareWarmup(length),
        )
        return optax.chain(
            optax.scale_by_adam(recipe.momentum),
            optax.add_decayed_weights(recipe.weight_decay),
            optax_lena.scale_by_layer_rate(rate, batch_scale),
            optax.scale(-1.0),
        )

    return make


def _ablated(*, b1: bool, b2: bool, decay: bool) -> Make:
    """`lena_adamw` of which each of three parts counts examples or updates.

    Args:
      b1: whether β1 counts examples.
      b2: whether β2 does.
      decay: whether the weight decay does; else it has the update's rate.
    """

    def make(
        recipe: Recipe, batch_scale: int, base_steps: int
    ) -> optax.GradientTransformation:
        schedule, weight_decay = recipe.rate(base_steps), recipe.weight_decay
        adam = optax_lena.scale_by_adam(
            batch_scale,
            b1=recipe.momentum,
            b2=B2,
            b1_floor=FLOORS["b1"] if b1 else recipe.momentum,
            b2_floor=FLOORS["b2"] if b2 else B2,
        )
        rate = dataclasses.replace(NORMALISED, learning_rate=schedule)
        scale = optax_lena.scale_by_layer_rate(rate, batch_scale)
        by_rate = optax.add_decayed_weights(weight_decay)
        by_examples = _decay_by_examples(schedule, weight_decay, batch_scale)
        links = (scale, by_examples) if decay else (by_rate, scale)
        return optax.chain(adam, *links, optax.scale(-1.0))

    return make


def _first(
    recipe: Recipe, batch_scale: int, base_steps: int
) -> optax.GradientTransformation:
    """`lena_adamw` without limits on its ratios."""
    return earlier_lena_adamw(
        FIRST_NORMALISED,
        recipe.rate(base_steps),
        batch_scale,
        b1=recipe.momentum,
        weight_decay=recipe.weight_decay,
    )


def earlier_lena_adamw(
    rate: optax_lena.LayerRate,
    learning_rate: optax.ScalarOrSchedule,
    batch_scale: int,
    *,
    weight_decay: float,
    b1: float = 0.9,
    layers: optax_lena.Layers = optax_lena.per_parameter,
) -> optax.GradientTransformation:
    """What `lena_adamw` was with other limits on its ratios.

    Args:
      rate: with these limits.
      learning_rate: as `lena_adamw` takes it.
      batch_scale: likewise.
      weight_decay: likewise.
      b1: likewise.
      layers: likewise.
    """
    rate = dataclasses.replace(rate, learning_rate=learning_rate)
    return optax.chain(
        optax_lena.scale_by_adam(batch_scale, b1=b1, b2=B2),
        optax.add_decayed_weights(weight_decay),
        optax_lena.scale_by_layer_rate(rate, batch_scale, layers=layers),
        optax.scale(-1.0),
    )


def _decay_by_examples(
    schedule: optax.ScalarOrSchedule, weight_decay: float, batch_scale: int
) -> optax.GradientTransformation:
    """Decays in every update as S base batches would, whatever its rate is."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, jax.Array]:
        rate = schedule(state * batch_scale) if callable(schedule) else schedule
        decay = rate * batch_scale * weight_decay
        return jax.tree.map(lambda u, w: u + decay * w, updates, params), state + 1

    return optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)


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
    "adamw_transferred": Method(
        "AdamW, square-root scaling, averages count examples",
        _transferred(math.sqrt),
        needs_moments=False,
    ),
    "adamw_root_gain": Method(
        "AdamW at √gain",
        _root_gain(warms_up=True),
        preconditioned=True,
    ),
    "adamw_root_gain_no_warmup": Method(
        "AdamW at √gain, no warm-up",
        _root_gain(warms_up=False),
        preconditioned=True,
    ),
    "lena_adamw": Method(
        "LENA + AdamW",
        at_scale(_lena_adamw, warms_up=False, optimizer=ADAMW),
        "#009E73",
        preconditioned=True,
    ),
    "lena_adamw_whole_model": Method(
        "LENA + AdamW, one gain for the model",
        at_scale(
            functools.partial(_lena_adamw, layers=optax_lena.whole_model),
            warms_up=False,
            optimizer=ADAMW,
        ),
        preconditioned=True,
    ),
    "lena_adamw_first": Method(
        "first LENA + AdamW, no ratio limits", _first, preconditioned=True
    ),
    "adamw_tuned": Method(
        "AdamW, re-tuned",
        fixed_warmup(_adamw),
        needs_moments=False,
        rates=(0.002, 0.004, 0.008, 0.016, 0.032, 0.064),
    ),
    "adamw_transferred_tuned": Method(
        "AdamW, re-tuned, averages count examples",
        _transferred(lambda scale: 1.0),
        needs_moments=False,
        rates=(0.004, 0.008, 0.016, 0.032, 0.064),
    ),
    "adamw_b2_tuned": Method(
        "AdamW, re-tuned, β2 counts examples",
        _transferred(lambda scale: 1.0, b1_floor=None),
        needs_moments=False,
        rates=(0.004, 0.008, 0.016, 0.032, 0.064),
    ),
    "adamw_low_b1_tuned": Method(
        "AdamW, re-tuned, averages count examples, β1 down to 0.6",
        _transferred(lambda scale: 1.0, b1_floor=0.6),
        needs_moments=False,
        rates=(0.004, 0.008, 0.016, 0.032, 0.064),
    ),
}


def _ablation_name(**by_examples: bool) -> str:
    return "_".join(["lena_adamw", *(k for k, v in by_examples.items() if v)])


def _ablation_label(**by_examples: bool) -> str:
    what = {"b1": "β1", "b2": "β2", "decay": "decay"}
    counting = [what[k] for k, v in by_examples.items() if v]
    return f"count examples: {', '.join(counting) or 'nothing'}"


# On the rule of `lena_adamw`: what counts examples, and what updates.
ADAMW_ABLATIONS = {
    f"{_ablation_name(**given)}_by_examples": Method(
        _ablation_label(**given), _ablated(**given), preconditioned=True
    )
    for given in (
        dict(zip(("b1", "b2", "decay"), flags, strict=True))
        for flags in itertools.product((False, True), repeat=3)
    )
}
