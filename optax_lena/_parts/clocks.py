r"""Clocks: exact sums of steps, which schedules and warm-ups read.

In: what one update is worth, in base-batch steps. Out: sums that are accurate to a
millionth after a billion steps, if an update is worth a hundredth of a step or more.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from optax_lena._checks import check_choice


class Count(NamedTuple):
    """A sum of steps as a whole number and a fraction, which float32 alone cannot hold.

    A float32 sum of ones stops at 16,777,216, and one of steps of 1.3 is 2 % off after
    two million updates: each addition is rounded to 24 bits.

    Attributes:
      whole: int32.
      fraction: float32 of the same shape, in [0, 1).
    """

    whole: jax.Array
    fraction: jax.Array

    @classmethod
    def zeros(cls, *shape: int) -> "Count":
        """Returns counts of zero, in float32 also where the default is wider."""
        return cls(jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32))

    def add(self, steps: jax.Array) -> "Count":
        """Adds float32 steps; stays at the largest int32 once there.

        Steps that are negative or NaN, as from an invalid injected S, add nothing: the
        clock could not be read any more.
        """
        steps = jnp.where(steps > 0, steps, 0)
        # 2^30 is exact in float32; larger floats may not fit int32.
        total = jnp.minimum(self.fraction + steps, 2.0**30)
        whole = jnp.floor(total)
        room = jnp.iinfo(jnp.int32).max - self.whole
        added = jnp.minimum(whole.astype(jnp.int32), room)
        return Count(self.whole + added, total - whole)

    def read(self) -> jax.Array:
        """Returns the sum as one float32 number, accurate to a ten-millionth."""
        return self.whole.astype(jnp.float32) + self.fraction

    def __float__(self) -> float:
        """Returns the sum as a Python number, exactly."""
        return float(self.whole) + float(self.fraction)


class Clocks(NamedTuple):
    """What the whole run has seen so far, in base-batch steps.

    Attributes:
      base_steps: Σ S: base batches seen, the clock of small-batch schedules.
      gain_steps: Σ gain of the whole model: AdaScale's scale-invariant clock.
      rate_steps: Σ of what multiplied the whole model's rate, warm-up included.
    """

    base_steps: Count
    gain_steps: Count
    rate_steps: Count

    @classmethod
    def zeros(cls) -> "Clocks":
        """Returns the clocks before the first update."""
        return cls(Count.zeros(), Count.zeros(), Count.zeros())

    def add(self, **steps: jax.Array) -> "Clocks":
        """Adds to each clock what the update is worth on it."""
        return Clocks(**{name: getattr(self, name).add(x) for name, x in steps.items()})


def check_clock(clock: str) -> None:
    """Raises a `ValueError` unless `clock` is the name of a clock."""
    check_choice("clock", clock, Clocks._fields)
