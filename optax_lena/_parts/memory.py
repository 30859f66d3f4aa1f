r"""Memories: how much moving averages forget per update, so that they count examples.

In: the decay of an average that was tuned at the base batch, and S. Out: its decay at
S. An average that keeps β of itself at each base batch remembers $1 / (1 - \beta)$ base
batches. An update of S base batches has to forget as much as S steps of one:

$$\beta(S) = \beta^{r}, \qquad
  r = \min\bigl(S, \max(1, \log(\text{floor}) / \log\beta)\bigr)$$

r is how many base-batch steps the update forgets. The floor is the least decay that a
larger batch may lead to: an average over updates needs a few of them.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from optax_lena._checks import check_beta, check_number

FIRST_FLOOR = 0.8
"""The floor of Adam's first moment, and of the momentum of SGD."""
MOMENTUM_FLOOR = 0.9
"""The floor of Muon's momentum."""
SECOND_FLOOR = 0.9
"""The floor of Adam's second moment, which without one lets single updates spike."""


def decay_at(
    decay: ArrayLike, batch_scale: ArrayLike, floor: ArrayLike = 0.0
) -> jax.Array:
    r"""Returns the decay by which an average remembers the same number of examples.

    It is $\beta^S$, but at least the floor, or β where that is lower. The optimizers of
    this library do this themselves; the function is for an average of your own, such as
    that of the parameters.

    Args:
      decay: β, the share of the average that a step with the base batch keeps, in
        [0, 1).
      batch_scale: S, the batch in base batches, above 0.
      floor: the least decay that a larger batch leads to, in [0, 1).

    Returns:
      float32 `()`.

    Raises:
      ValueError: where an argument is out of its range.

    Example:
      >>> import optax_lena
      >>> print(f"{optax_lena.decay_at(0.999, 64):.4f}")  # 1,000 base batches, still
      0.9380
      >>> print(f"{optax_lena.decay_at(0.9, 64, floor=0.8):.4f}")
      0.8000

    References:
      Malladi et al., *On the SDEs and Scaling Rules for Adaptive Gradient Algorithms*,
      NeurIPS 2022; Busbridge et al., *How to Scale Your EMA*, NeurIPS 2023; Marek et
      al., *Small Batch Size Training for Language Models*, 2025.
    """
    check_beta("decay", decay)
    check_number("floor", floor, "the least decay", at_least=0, below=1)
    meaning = "the global batch over the base batch"
    check_number("batch_scale", batch_scale, meaning, above=0)
    return jnp.asarray(Memory(decay, floor).forget(batch_scale).kept, jnp.float32)


class Forgotten(NamedTuple):
    """What one update does to an average: `kept * average + added * new`.

    Attributes:
      kept: `()`, the decay.
      added: `()`, the weight of what is new, `1 - kept`.
      steps: `()`, how many base-batch steps it forgets.
    """

    kept: ArrayLike
    added: ArrayLike
    steps: ArrayLike


class Memory(NamedTuple):
    """A moving average's decay at the base batch, and its floor.

    Attributes:
      decay: β.
      floor: the least decay at a larger batch.
    """

    decay: ArrayLike
    floor: ArrayLike

    def forget(self, batch_scale: ArrayLike) -> Forgotten:
        """Returns what an update of S base batches keeps and adds.

        Args:
          batch_scale: S.

        Returns:
          Decay and weight: numbers if all that they depend on are, else float32 arrays.
          At S = 1 they are the base batch's, to the last bit.
        """
        numbers = (*self, batch_scale)
        xp: Any = np if all(isinstance(x, (int, float)) for x in numbers) else jnp
        with np.errstate(divide="ignore", invalid="ignore"):
            log_decay = xp.log(self.decay)
            limit = xp.log(self.floor) / log_decay
            # A decay of 0, no memory, has no floor; its limit may be 0 over 0.
            has_floor = xp.greater(self.decay, self.floor)
            steps = xp.minimum(batch_scale, xp.where(has_floor, limit, 1))
            log_kept = steps * log_decay
        is_base = steps == 1
        return Forgotten(
            kept=xp.where(is_base, self.decay, xp.exp(log_kept)),
            # By expm1: 1 - kept would lose digits in float32.
            added=xp.where(is_base, xp.subtract(1, self.decay), -xp.expm1(log_kept)),
            steps=steps,
        )
