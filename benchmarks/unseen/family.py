"""A family: base recipes of one optimizer, and the methods that take them to S."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import optax

from benchmarks.unseen.run import (
    BASE_STEPS,
    Gradient,
    measured,
    measured_for_adam,
    plain,
)
from benchmarks.unseen.task import Task

# Of every method that warms up.
WARMUP = 0.05 * BASE_STEPS


def cosine(rate: float) -> optax.Schedule:
    """A cosine over the base run."""
    return optax.cosine_decay_schedule(rate, BASE_STEPS)


class Method(NamedTuple):
    """One way to train at S.

    Attributes:
      label: for people.
      make: `make(schedule, batch_scale)` returns the optimizer; the schedule is over
        base batches.
      needs_moments: whether its update reads the gradient's moments.
      num_microbatches: that these are measured on; None: S.
    """

    label: str
    make: Callable[[optax.Schedule, int], optax.GradientTransformation]
    needs_moments: bool = True
    num_microbatches: int | None = None


def of_two_microbatches(method: Method) -> Method:
    """The same method, whose moments are those of two microbatches."""
    label = f"{method.label}, two microbatches"
    return method._replace(label=label, num_microbatches=2)


def without_loss(method: Method) -> Method:
    """The same method, whose updates are not given the loss."""

    def make(
        schedule: optax.Schedule, batch_scale: int
    ) -> optax.GradientTransformation:
        tx = optax.with_extra_args_support(method.make(schedule, batch_scale))

        def update(
            updates: Any, state: Any, params: Any = None, **extra: Any
        ) -> tuple[Any, Any]:
            kept = {name: one for name, one in extra.items() if name != "value"}
            return tx.update(updates, state, params, **kept)

        return optax.GradientTransformationExtraArgs(tx.init, update)

    return Method(f"{method.label}, not given the loss", make)


@dataclasses.dataclass(frozen=True)
class Family:
    """What is compared with each other.

    Attributes:
      label: of the base recipes, for people.
      records: the name of the file of records.
      rate: of a task's base recipe; None where the family does not run the task.
      grid: the rates it was chosen from.
      base: the optimizer at the base batch, of a schedule.
      methods: by name.
      recommended: the method that is held against all others.
      own: no rivals of the recommended one, but what it was or could be, and others
        with a part of it.
      developed: tasks on which its rules may be chosen, with seeds of their own.
      pairs: by the label of a row, two methods: one gain for each layer, and one for
        the model.
      preconditioned: whether moments are those of the gradient as Adam divides it.
      schedule: of a rate, over base batches.
    """

    label: str
    records: str
    rate: Callable[[Task], float | None]
    grid: Callable[[Task], Sequence[float]]
    base: Callable[[optax.Schedule], optax.GradientTransformation]
    methods: Mapping[str, Method]
    recommended: str
    own: Sequence[str]
    developed: Sequence[str]
    pairs: Mapping[str, tuple[str, str]]
    preconditioned: bool = True
    schedule: Callable[[float], optax.Schedule] = cosine

    @property
    def rivals(self) -> Sequence[str]:
        """The methods that the recommended one is held against."""
        own = {self.recommended, *self.own}
        return [method for method in self.methods if method not in own]

    @property
    def compared(self) -> Sequence[str]:
        """The recommended method and its rivals."""
        return [*self.rivals, self.recommended]

    @property
    def of_two(self) -> str:
        """The recommended method, of two microbatches; empty where there is none."""
        counts = {name: one.num_microbatches for name, one in self.methods.items()}
        return next((name for name, count in counts.items() if count == 2), "")

    def optimizer(
        self, method: str, rate: float, batch_scale: int
    ) -> optax.GradientTransformation:
        """The optimizer of a method, with the family's schedule."""
        schedule = self.schedule(rate)
        if method == "base":
            return self.base(schedule)
        return self.methods[method].make(schedule, batch_scale)

    def trains(self, method: str, task: Task) -> bool:
        """Whether a task's microbatches may be those of a method.

        Where examples of one batch meet, they are base batches.
        """
        return not (task.mixes_examples and self.methods[method].num_microbatches)

    def gradient(self, method: str) -> Gradient:
        """How a method gets its gradient, and what else it reads."""
        if method == "base" or not self.methods[method].needs_moments:
            return plain
        gradient = measured_for_adam if self.preconditioned else measured
        count = self.methods[method].num_microbatches
        if count is None:
            return gradient
        return lambda task, batch_scale, *rest: gradient(task, count, *rest)
