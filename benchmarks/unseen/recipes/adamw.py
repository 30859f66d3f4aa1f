"""Recipes of Adam and AdamW other than (0.9, 0.999) with a cosine."""

import dataclasses
import functools
from typing import Any

import optax

import optax_lena
from benchmarks.methods.adamw import memories
from benchmarks.unseen.adamw import scalings
from benchmarks.unseen.family import WARMUP, Method
from benchmarks.unseen.recipes.recipe import Recipe, constant
from benchmarks.unseen.run import BASE_STEPS

# Of recipes that have a warm-up of their own.
_OWN_WARMUP = BASE_STEPS // 20


def _warm_cosine(rate: float) -> optax.Schedule:
    return optax.warmup_cosine_decay_schedule(
        0.0, rate, _OWN_WARMUP, BASE_STEPS, end_value=0.1 * rate
    )


def _linear(rate: float) -> optax.Schedule:
    return optax.linear_schedule(rate, 0.0, BASE_STEPS)


def _exponential(rate: float) -> optax.Schedule:
    return optax.exponential_decay(rate, BASE_STEPS, 0.1)


def _trapezoid(rate: float) -> optax.Schedule:
    fifth = BASE_STEPS // 5
    rises = optax.linear_schedule(0.0, rate, _OWN_WARMUP)
    falls = optax.linear_schedule(rate, 0.0, fifth)
    return optax.join_schedules(
        [rises, optax.constant_schedule(rate), falls], [_OWN_WARMUP, BASE_STEPS - fifth]
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamRecipe(Recipe):
    """A recipe of Adam or AdamW.

    Attributes:
      warmup_steps: of the rivals that warm up; 0 where the schedule does.
      b1: β1.
      b2: β2.
      eps: ε.
    """

    warmup_steps: float = WARMUP
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    recommended = "lena_adamw"
    preconditioned = True

    def base(
        self, schedule: optax.ScalarOrSchedule, **own: Any
    ) -> optax.GradientTransformation:
        """Plain optax.

        Args:
          schedule: of the rate.
          own: what replaces β1, β2 and ε.
        """
        options = self._options | own
        return self.clipped(optax.adamw(schedule, **options))

    def lena(
        self, schedule: optax.Schedule, batch_scale: int
    ) -> optax.GradientTransformation:
        """Our optimizer with this recipe."""
        return self.clipped(
            optax_lena.lena_adamw(schedule, batch_scale, **self._options)
        )

    def methods(self) -> dict[str, Method]:
        """Those that take the recipe to S, by name."""
        kept = functools.partial(memories, self.b1, b2=self.b2, eps=self.eps)
        return {
            **scalings(self.base, kept, self.warmup_steps),
            "lena_adamw": Method("LENA + AdamW", self.lena),
        }

    @property
    def _options(self) -> dict[str, Any]:
        names = "b1", "b2", "eps", "nesterov", "weight_decay"
        return {name: getattr(self, name) for name in names}


RECIPES = {
    "language": AdamRecipe(
        label="AdamW (0.9, 0.95), decay 0.1, clipped at 1, warm-up, cosine to a tenth",
        schedule=_warm_cosine,
        warmup_steps=0,
        b2=0.95,
        weight_decay=0.1,
        clip=1.0,
        rates={
            "two losses of unequal size": 0.008,
            "hashing by triplets": 0.002,
            "who dies first": 0.004,
            "neurons that spike": 0.008,
            "states of rest": 0.004,
            "words in a gap": 0.004,
            "lists to be ordered": 0.004,
            "digits by a book of codes": 0.008,
        },
    ),
    "control": AdamRecipe(
        label="Adam (0.9, 0.999), ε 1e-5, clipped at 0.5, linear to zero",
        schedule=_linear,
        eps=1e-5,
        clip=0.5,
        rates={
            "two losses of unequal size": 0.004,
            "hashing by triplets": 0.004,
            "who dies first": 0.004,
            "neurons that spike": 0.008,
            "states of rest": 0.004,
            "words in a gap": 0.004,
            "lists to be ordered": 0.016,
            "digits by a book of codes": 0.016,
        },
    ),
    "constant": AdamRecipe(
        label="AdamW (0.9, 0.999), decay 0.01, constant rate",
        schedule=constant,
        weight_decay=0.01,
        rates={
            "two losses of unequal size": 0.002,
            "hashing by triplets": 0.002,
            "who dies first": 0.004,
            "neurons that spike": 0.002,
            "states of rest": 0.001,
            "words in a gap": 0.002,
            "lists to be ordered": 0.002,
            "digits by a book of codes": 0.002,
        },
    ),
    "adversarial": AdamRecipe(
        label="Adam (0.5, 0.9), rate to a tenth",
        schedule=_exponential,
        b1=0.5,
        b2=0.9,
        rates={
            "two losses of unequal size": 0.008,
            "hashing by triplets": 0.008,
            "who dies first": 0.004,
            "neurons that spike": 0.016,
            "states of rest": 0.008,
            "words in a gap": 0.008,
            "lists to be ordered": 0.016,
            "digits by a book of codes": 0.016,
        },
    ),
    "nesterov": AdamRecipe(
        label="NAdamW (0.9, 0.99), decay 0.1, warm-up, trapezoid",
        schedule=_trapezoid,
        warmup_steps=0,
        b2=0.99,
        nesterov=True,
        weight_decay=0.1,
        rates={
            "two losses of unequal size": 0.004,
            "hashing by triplets": 0.002,
            "who dies first": 0.002,
            "neurons that spike": 0.004,
            "states of rest": 0.002,
            "words in a gap": 0.002,
            "lists to be ordered": 0.002,
            "digits by a book of codes": 0.016,
        },
    ),
}
