r"""The curve: how many examples a target costs at each batch scale.

In: measured (batch scale, examples) points. Out: $E_0$ and $b$ of

$$E(S) = E_0 \, (1 + S / b)$$

Linear in $S$: small batches cost $E_0$ examples whatever their number of updates,
large ones $E_0 / b$ updates whatever their number of examples.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import overload

import numpy as np
from numpy.typing import ArrayLike

from optax_lena._checks import check_number

# 20 % more examples: the definition of the critical batch in Zhang et al. (2024).
EFFICIENCY = 1 / 1.2


@dataclasses.dataclass(frozen=True)
class Curve:
    r"""Examples to a target, $E(S) = E_0 (1 + S/b) = E_0 + U_0 S$.

    Attributes:
      base_examples: $E_0$, the examples that ever smaller batches approach. The base
        batch itself takes `examples(1)`, $1 + 1/b$ times as many.
      least_updates: $U_0 = E_0 / b$, the updates that ever larger batches approach, in
        examples per unit of S.
      points: the measured (S, examples) pairs by rising S; none if it was predicted.

    Raises:
      ValueError: if a coefficient is negative or not finite.

    Example:
      >>> from optax_lena import fit_curve
      >>> curve = fit_curve([(8, 13824), (32, 16640), (128, 26112)])
      >>> round(curve.noise_scale), round(curve.examples(64))
      (128, 19680)
    """

    base_examples: float
    least_updates: float
    points: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        """Checks the coefficients."""
        for name in ("base_examples", "least_updates"):
            meaning = "a coefficient of the curve"
            check_number(name, getattr(self, name), meaning, at_least=0)

    @property
    def noise_scale(self) -> float:
        """b, the scale that takes twice $E_0$ examples, in the points' unit of S.

        Infinite if the examples do not grow with S, 0 if they grow in proportion.
        """
        if self.least_updates == 0:
            return math.inf
        return self.base_examples / self.least_updates

    @property
    def errors(self) -> tuple[float, ...]:
        """At each point, the curve over the measurement, minus 1."""
        return tuple(self.examples(s) / e - 1 for s, e in self.points)

    @overload
    def examples(self, batch_scale: float) -> float: ...
    @overload
    def examples(self, batch_scale: ArrayLike) -> float | np.ndarray: ...
    def examples(self, batch_scale: ArrayLike) -> float | np.ndarray:
        """Returns E(S).

        Args:
          batch_scale: S, a positive number or an array of them, in the points' unit.

        Returns:
          The examples at each scale, in the points' unit.

        Raises:
          ValueError: if a scale is not positive.
        """
        scale = _positive(batch_scale)
        examples = self.base_examples + self.least_updates * scale
        return examples if examples.ndim else float(examples)

    @overload
    def efficiency(self, batch_scale: float) -> float: ...
    @overload
    def efficiency(self, batch_scale: ArrayLike) -> float | np.ndarray: ...
    def efficiency(self, batch_scale: ArrayLike) -> float | np.ndarray:
        r"""Returns $E_0 / E(S) = 1 / (1 + S/b)$, the use of an example, in (0, 1].

        Args:
          batch_scale: S, a positive number or an array of them.

        Returns:
          The efficiency at each scale.

        Raises:
          ValueError: if a scale is not positive.
        """
        return self.base_examples / self.examples(batch_scale)

    def critical_scale(self, efficiency: float = EFFICIENCY) -> float:
        r"""Returns the S at which an example is worth `efficiency` of what it could be.

        $$S_\text{crit} = b \, (1 / \text{efficiency} - 1)$$

        At the default $0.2\,b$, where $E(S) = 1.2\,E_0$. Against the base batch, which
        takes $E(1) = E_0 (1 + 1/b)$, the same 20 % are reached 1.2 base batches later,
        at $0.2\,b + 1.2$.

        Args:
          efficiency: in (0, 1).

        Returns:
          The scale, in the points' unit.

        Raises:
          ValueError: if `efficiency` is outside (0, 1).
        """
        return self.noise_scale * (1 / checked_efficiency(efficiency) - 1)


def fit_curve(
    points: Iterable[Sequence[float]] | Mapping[float, float] | ArrayLike,
) -> Curve:
    r"""Fits the curve to measured points of any origin.

    $$\min_{E_0, U_0 \ge 0} \sum_i
      \left( \frac{E_0 + U_0 S_i}{E_i} - 1 \right)^2$$

    Errors count relative to each measurement: a target's examples span a factor of
    ten, and seeds scatter in proportion.

    Args:
      points: (batch scale, examples to the target) pairs in any order, a mapping of the
        one to the other, or an array `[points, 2]`. Both in units of your choice:
        base batches or examples, examples or epochs. A scale may occur several times,
        once for each seed.

    Returns:
      The curve; its `noise_scale` is in the unit of the scales.

    Raises:
      ValueError: if a number is not positive and finite, or fewer than two scales
        differ.

    Example:
      MLPerf's reference convergence points of Llama-3.1-405B, in sequences:

      >>> from optax_lena import fit_curve
      >>> curve = fit_curve([(1008, 324576), (2304, 384000), (9216, 691200)])
      >>> print(f"{curve.noise_scale:.0f}, {100 * max(map(abs, curve.errors)):.1f} %")
      6273, 0.3 %

    References:
      McCandlish et al., 2018, "An Empirical Model of Large-Batch Training", equation
      2.11 and Section 2.3, with $E_0 = E_\min$ and $U_0 = S_\min$.
    """
    scale, examples = _checked(points)
    # In units of the largest scale, so that both columns are of similar size.
    unit = scale.max()
    columns = np.stack([1 / examples, scale / unit / examples], axis=1)
    free, *_ = np.linalg.lstsq(columns, np.ones(len(columns)))
    base, rise = min(
        [free] if (free >= 0).all() else _edges(columns),
        key=lambda x: np.sum((columns @ x - 1) ** 2),
    )
    # A zero that rounding has changed would be another curve.
    base, rise = (x if x > 1e-12 * max(base, rise) else 0.0 for x in (base, rise))
    pairs = tuple(zip(scale.tolist(), examples.tolist(), strict=True))
    return Curve(float(base), float(rise / unit), pairs)


def checked_efficiency(efficiency: float) -> float:
    """Returns the efficiency, if it is in (0, 1)."""
    meaning = "the least worth of an example; 1/1.2 allows 20 % more examples"
    check_number("efficiency", efficiency, meaning, above=0, below=1)
    return float(efficiency)


def _edges(columns: np.ndarray) -> list[np.ndarray]:
    """Returns the best fits with one coefficient 0: the constrained optimum is one."""
    best = columns.sum(axis=0) / (columns**2).sum(axis=0)
    return [np.array([best[0], 0.0]), np.array([0.0, best[1]])]


def check_points(points: object) -> np.ndarray:
    """Returns (scale, value) pairs as an array `[points, 2]`, if all are positive."""
    if isinstance(points, Mapping):
        points = points.items()
    try:
        table = np.array([[float(x) for x in point] for point in points])  # pyrefly: ignore
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            "`points` must be (batch scale, examples) pairs of numbers, got "
            f"{points!r}: {error}."
        ) from error
    if table.ndim != 2 or table.shape[1] != 2:
        raise ValueError(
            "`points` must be (batch scale, examples) pairs, got an array of shape "
            f"{table.shape}."
        )
    for number, point in enumerate(table.tolist()):
        if not all(math.isfinite(x) and x > 0 for x in point):
            raise ValueError(
                "`points` must be positive and finite, got "
                f"({point[0]:g}, {point[1]:g}) at place {number}: leave out a run that "
                "did not reach the target."
            )
    return table


def _checked(points: object) -> tuple[np.ndarray, np.ndarray]:
    table = check_points(points)
    scales = np.unique(table[:, 0])
    if len(scales) < 2:
        raise ValueError(
            "`points` must have at least two different batch scales, got "
            f"{', '.join(f'{s:g}' for s in scales)}: one does not determine the slope."
        )
    table = table[np.argsort(table[:, 0], kind="stable")]
    return table[:, 0], table[:, 1]


def _positive(batch_scale: ArrayLike) -> np.ndarray:
    scale = np.asarray(batch_scale)
    is_number = scale.dtype.kind in "iuf"
    if not is_number or not ((scale > 0) & (scale < np.inf)).all():
        raise ValueError(
            f"`batch_scale` must be positive and finite, got {batch_scale!r}: it is "
            "the batch in the unit of the points' scales."
        )
    return scale.astype(float)
