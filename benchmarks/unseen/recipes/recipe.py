"""A recipe: what a user's program says of training at the base batch."""

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import optax

from benchmarks.unseen.family import Family, Method, cosine


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe(abc.ABC):
    """What recipes of every optimizer share.

    Attributes:
      label: for people.
      rates: at S = 1, by the name of a task.
      schedule: of a rate, over base batches.
      nesterov: whether it looks ahead.
      weight_decay: λ.
      clip: the largest norm of a gradient, or None.
      developed: tasks on which a rule was chosen with this recipe.
      recommended: the method that is held against all others.
      preconditioned: whether moments are those of the gradient as Adam divides it.
    """

    label: str
    rates: Mapping[str, float]
    schedule: Callable[[float], optax.Schedule] = cosine
    nesterov: bool = False
    weight_decay: float = 0.0
    clip: float | None = None
    developed: Sequence[str] = ()
    recommended: ClassVar[str]
    preconditioned: ClassVar[bool]

    @abc.abstractmethod
    def base(self, schedule: Any) -> optax.GradientTransformation:
        """Plain optax, at the base batch."""

    @abc.abstractmethod
    def methods(self) -> dict[str, Method]:
        """Those that take the recipe to S, by name."""

    def family(self, records: str) -> Family:
        """The recipe and its methods, whose records are in a file of this name."""
        return Family(
            label=self.label,
            records=records,
            rate=lambda task: self.rates.get(task.name),
            grid=lambda task: _around(self.rates.get(task.name)),
            base=self.base,
            schedule=self.schedule,
            methods=self.methods(),
            recommended=self.recommended,
            own=(self.recommended,),
            developed=self.developed,
            pairs={},
            preconditioned=self.preconditioned,
        )

    def clipped(self, tx: optax.GradientTransformation) -> optax.GradientTransformation:
        """The optimizer, of gradients that are clipped if the recipe clips them."""
        if self.clip is None:
            return tx
        return optax.chain(optax.clip_by_global_norm(self.clip), tx)


def _around(rate: float | None) -> list[float]:
    """The rates that a base rate was chosen from; none for no rate."""
    return [] if rate is None else [multiple * rate for multiple in (0.5, 1, 2)]


def constant(rate: float) -> optax.Schedule:
    """The rate, for all of the run."""
    return optax.constant_schedule(rate)
