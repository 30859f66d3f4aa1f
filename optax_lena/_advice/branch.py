r"""The branch test: what a larger batch costs, measured from a checkpoint.

In: a train state, a step and data. Out: for each batch scale the loss after a window
of equally many examples,

$$\bar L_S = \frac{1}{|\text{end}|} \sum_{\text{end of window}} \text{loss}, \qquad
  S_\text{branch} = \max \{ S : \bar L_S \le \bar L_{S_0} + \text{tolerance} \}$$
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from optax_lena._advice.text import fitted, wrapped
from optax_lena._checks import check_callable, check_number, known_number


@dataclasses.dataclass(frozen=True)
class BranchTest:
    """What `branch_test` found.

    Attributes:
      losses: at each scale, the mean loss over the end of the window, or the held-out
        loss there; NaN if the branch diverged.
      updates: at each scale, how many updates the window took.
      window: examples of every branch, in base batches.
      tolerance: on the loss, in the loss's unit.

    Raises:
      ValueError: without losses, or if `updates` has other scales.

    Example:
      >>> import optax_lena
      >>> losses, updates = {1: 2.0, 4: 2.005, 16: 2.2}, {1: 64, 4: 16, 16: 4}
      >>> found = optax_lena.BranchTest(losses, updates, window=64, tolerance=0.01)
      >>> found.scale, found.is_bound
      (4, False)
    """

    losses: dict[float, float]
    updates: dict[float, int]
    window: int
    tolerance: float

    def __post_init__(self) -> None:
        if not self.losses or set(self.losses) != set(self.updates):
            raise ValueError(
                "`losses` must hold a loss at every scale that `updates` has, and one "
                f"at least, got {self.losses!r} and {self.updates!r}."
            )

    @property
    def scale(self) -> float:
        """The largest scale up to which all losses are within the tolerance.

        They are compared with that of the smallest scale; if it diverged, this is NaN.
        A scale that does better again, above one that failed, does so by chance.
        """
        found, *larger = sorted(self.losses)
        if not math.isfinite(self.losses[found]):
            return math.nan
        most = self.losses[found] + self.tolerance
        for scale in larger:
            if not self.losses[scale] <= most:  # also where it is NaN
                break
            found = scale
        return found

    @property
    def is_bound(self) -> bool:
        """Whether every larger batch might do as well: the largest tested did."""
        return self.scale == max(self.losses)

    def __str__(self) -> str:
        reference = self.losses[min(self.losses)]
        rows = [
            f"{s:>8g} {fitted(self.updates[s], ',', 9):>9} "
            f"{fitted(loss, '.4f', 10):>10} {fitted(loss - reference, '+.4f', 10):>10}"
            for s, loss in self.losses.items()
        ]
        head = f"{'S':>8} {'updates':>9} {'loss':>10} {'more':>10}"
        return "\n".join([head, *rows, wrapped(f"Branch test: {self._verdict()}")])

    def _verdict(self) -> str:
        if math.isnan(self.scale):
            return (
                f"S = {min(self.losses):g}, the smallest, diverged: there is nothing "
                "to compare with. Give a checkpoint and rates at which it trains."
            )
        more = " or more" if self.is_bound else ""
        return (
            f"S = {self.scale:g}{more} keeps the loss within {self.tolerance:g} after "
            f"{self.window:,} base batches."
        )


def branch_test(
    step: Callable[[Any, Any, int], tuple[Any, Any]],
    state: Any,
    batches_for: Callable[[int], Iterable[Any]],
    scales: Sequence[int] = (1, 2, 4, 8),
    *,
    window: int = 512,
    end: float = 0.25,
    tolerance: float = 0.01,
    evaluate: Callable[[Any], Any] | None = None,
) -> BranchTest:
    """Trains on from a checkpoint at several batch scales, for equally many examples.

    The measured check on `advise`: it needs no noise scale, and its answer is for the
    optimizer, the rule and the point of the run that it is given.

    Args:
      step: `step(state, batch, batch_scale) -> (state, loss)`, with a mean loss per
        example. It has to set what depends on S (rates, decay per update, momentum per
        update): `optax_lena.lena(..., batch_scale=batch_scale)` does it by our rules.
        Under `jax.jit` make `batch_scale` a static argument, and do not donate
        `state`: every branch starts from it.
      state: any pytree: the checkpoint.
      batches_for: `batches_for(batch_scale)` yields batches of so many base batches;
        best with the same examples in the same order at every scale, because then the
        branches differ only in the batch.
      scales: each divides `window`; the smallest is the reference.
      window: length of every branch, in base batches: long enough that the rate has
        taken effect and the momentum has forgotten that of the checkpoint.
      end: share of the window, at its end, whose losses are averaged. Equal shares
        hold equal numbers of examples, so all means are equally noisy. A step's loss is
        that before its update, so the losses of a large batch are on average half an
        update older: keep that small against `tolerance`, or give `evaluate`.
      tolerance: how much larger a loss still counts as equal, in units of the loss.
      evaluate: `evaluate(state) -> loss` on held-out data; if given, its loss at the
        window's end takes the place of the mean over training losses.

    Returns:
      Losses by scale, and the largest scale within the tolerance; NaN if the reference
      diverged.

    Raises:
      ValueError: if an option is out of its range, or a scale does not divide the
        window into updates, or the batches run out before its end.

    Example:
      >>> import jax, jax.numpy as jnp, optax_lena
      >>> def step(x, noise, batch_scale):
      ...     loss, rate = (x**2).mean(), 0.2 * batch_scale
      ...     return x - rate * (x + 0.1 * noise), loss
      >>> def batches_for(batch_scale):
      ...     keys = jax.random.split(jax.random.key(0), 64).reshape(-1, batch_scale)
      ...     for group in keys:
      ...         yield jnp.stack([jax.random.normal(k, (500,)) for k in group]).mean(0)
      >>> found = optax_lena.branch_test(
      ...     step, jnp.ones(500), batches_for, scales=(1, 4, 16), window=64
      ... )
      >>> found.scale
      4

    References:
      Merrill et al., 2025, "Critical Batch Size Revisited", 2505.23971:
      branched training.
    """
    _check_functions(step, batches_for, evaluate)
    _check(scales, window, end, tolerance)
    losses, updates = {}, {}
    for scale in sorted(scales):
        branch, batches, count = state, iter(batches_for(scale)), int(window // scale)
        history = []
        for number in range(count):
            branch, loss = step(branch, _next(batches, number, scale, count), scale)
            history.append(loss)  # not yet a float: the device may run ahead
        last = history[-max(round(end * count), 1) :]
        last = last if evaluate is None else [evaluate(branch)]
        mean = float(np.mean([float(loss) for loss in last]))
        losses[scale] = mean if math.isfinite(mean) else math.nan
        updates[scale] = count
    return BranchTest(losses, updates, window, tolerance)


def _next(batches: Iterator[Any], number: int, scale: int, count: int) -> Any:
    try:
        return next(batches)
    except StopIteration:
        raise ValueError(
            f"`batches_for({scale})` must yield {count} batches, got {number}: give "
            "more data or a shorter `window`."
        ) from None


def _check_functions(step: Any, batches_for: Any, evaluate: Any) -> None:
    check_callable("step", step, "step(state, batch, batch_scale)")
    check_callable("batches_for", batches_for, "batches_for(batch_scale)")
    if evaluate is not None:
        check_callable("evaluate", evaluate, "evaluate(state)")


def _check(scales: Sequence[int], window: int, end: float, tolerance: float) -> None:
    known = [known_number(s) for s in scales] if np.iterable(scales) else []
    is_whole = [s is not None and 1 <= s < math.inf and s == int(s) for s in known]
    if len(set(known)) < 2 or not all(is_whole):
        raise ValueError(
            f"`scales` must hold two or more different whole numbers from 1, got "
            f"{scales!r}: the smallest is what the others are compared with."
        )
    meaning = "the length of every branch, in base batches"
    check_number("window", window, meaning, at_least=1, integer=True)
    meaning = "the share of the window whose losses are averaged"
    check_number("end", end, meaning, above=0, at_most=1)
    meaning = "how much larger a loss still counts as equal"
    check_number("tolerance", tolerance, meaning, at_least=0)
    if uneven := [s for s in scales if window < s or window % s]:
        raise ValueError(
            f"`window` must be a multiple of every scale, got {window} for {uneven}: "
            "only then do all branches see equally many examples."
        )
