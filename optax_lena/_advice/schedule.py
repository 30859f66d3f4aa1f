r"""The batch schedule: which batch scale a run uses from which base step on.

In: recorded or planned changes. Out: the scale at any base step, and at any update,

$$\text{update}_{k+1} = \text{update}_k +
  \lceil (\text{base step}_{k+1} - \text{base step}_k) / S_k \rceil$$
"""

import dataclasses
import math

from optax_lena._checks import check_number


@dataclasses.dataclass(frozen=True)
class BatchSchedule:
    """Batch scales over base steps; call it with a step for the scale there.

    Attributes:
      changes: (base step, batch scale) pairs by rising base step, the first at 0; from
        that base step on the batch has that scale.

    Raises:
      ValueError: if the changes do not start at 0 and rise, or a scale is below 1.

    Example:
      >>> from optax_lena import BatchSchedule
      >>> schedule = BatchSchedule(((0, 8), (800, 16), (4000, 32)))
      >>> schedule(799), schedule(800)
      (8, 16)
      >>> schedule.updates()
      ((0, 8), (100, 16), (300, 32))
    """

    changes: tuple[tuple[float, int], ...]

    def __post_init__(self) -> None:
        try:
            steps = [step for step, _ in self.changes]
        except (TypeError, ValueError):
            raise ValueError(
                "`changes` must hold pairs of a base step and a batch scale, got "
                f"{self.changes!r}."
            ) from None
        for step, scale in self.changes:
            check_number("changes", step, "a base step", at_least=0)
            meaning = "the batch over the base batch"
            check_number("changes", scale, meaning, at_least=1, integer=True)
        if not steps or steps[0] != 0 or sorted(set(steps)) != steps:
            raise ValueError(
                f"`changes` must start at base step 0 and rise, got base steps {steps}."
            )

    def __call__(self, base_steps: float) -> int:
        """Returns the batch scale at a base step.

        Args:
          base_steps: base batches seen, not negative.

        Returns:
          S.

        Raises:
          ValueError: if they are negative.
        """
        check_number("base_steps", base_steps, "base batches seen", at_least=0)
        return [scale for step, scale in self.changes if step <= base_steps][-1]

    def updates(self) -> tuple[tuple[int, int], ...]:
        """Returns the (update, batch scale) pairs, for loops that count updates.

        A change inside an update happens after it.
        """
        update, before, pairs = 0, 0.0, [(0, self.changes[0][1])]
        for (_, old), (step, new) in zip(self.changes, self.changes[1:], strict=False):
            count = max(math.ceil((step - before) / old), 0)
            update, before = update + count, before + count * old
            pairs.append((update, new))
        # Of changes that fall into one update only the last one is kept.
        return tuple(dict(pairs).items())
