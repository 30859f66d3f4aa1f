r"""The interval: a median over a run, and how far chance may have moved it.

In: positive values over time, `[T]`, with weights. Out: their median and a 95 %
interval from a block bootstrap of their logarithms about a straight trend.
"""

import math

import numpy as np

Interval = tuple[float, float]

RESAMPLES = 400
# An interval from fewer entries says more about the method than about the run.
LEAST_ENTRIES = 8
# The factors by which even a perfectly known noise scale may miss a measured curve.
# Upward: on nine tasks the b of the runs was 1.4 to 17 times that of the log until the
# target (an 80 % interval by Student's t, docs/batch_size.md): b weighs all directions
# alike, but noise in the steep ones limits the rate of a small batch. Downward no task
# needs a margin; 1.5 is for averages that lag, and logs that end after the target.
MODEL_ERROR = (1.5, 17.0)
_MOST_ENTRIES = 1000
_BLOCKS = 5
_TAIL, _NORMAL = 0.025, 1.96


def median(values: np.ndarray, weights: np.ndarray) -> float:
    """Returns the weighted median; NaN if every value is NaN.

    Args:
      values: `[T]`, may hold infinities; NaN does not count.
      weights: `[T]`, positive.

    Returns:
      The value with half of the weight on either side, interpolated if need be.
    """
    kept = ~np.isnan(values)
    if not kept.any():
        return math.nan
    order = np.argsort(values[kept], kind="stable")
    values, weights = values[kept][order], weights[kept][order]
    upto = (np.cumsum(weights) - weights / 2) / weights.sum()
    after = int(np.searchsorted(upto, 0.5))
    before = max(after - 1, 0)
    after = min(after, len(values) - 1)
    if before == after or values[before] == values[after]:
        return float(values[after])
    if not np.isfinite(values[after]):
        return float(values[before])  # half a run without signal is still a bound
    return float(np.interp(0.5, upto[[before, after]], values[[before, after]]))


def median_interval(values: np.ndarray, weights: np.ndarray) -> tuple[float, Interval]:
    r"""Returns the weighted median and its 95 % interval.

    The logarithms are taken as a linear trend plus a residual. Blocks of the residual,
    as long as its memory, are drawn at random and joined on the trend; the median of
    each such series is one draw. A block cannot show what lasts longer than itself, so
    the spread of the draws is widened by what blocks of this length miss in an
    autoregression of order 1 with the residual's $\varphi$, and by Student's quantile
    for so few blocks, but never beyond the values in the log.

    In simulations it covers the truth in 80 to 98 % of logs, and in 70 to 80 % of those
    that are hardly longer than their memory.

    Args:
      values: `[T]`, not negative, in order of time; zeros and infinities are allowed.
      weights: `[T]`, positive.

    Returns:
      The median, and (low, high) around it: (0, inf) for fewer than
      `LEAST_ENTRIES` values, which say nothing about their own spread.

    References:
      Künsch, 1989, "The Jackknife and the Bootstrap for General Stationary
      Observations" (blocks).
    """
    estimate = median(values, weights)
    finite = np.isfinite(values) & (values > 0)
    if finite.sum() < LEAST_ENTRIES or not 0 < estimate < math.inf:
        return estimate, (0.0, math.inf)
    values, weights = _grouped(values, weights)
    # Zeros and infinities become finite values, through which a line can be fitted.
    seen = np.log(values[np.isfinite(values) & (values > 0)])
    floor, ceiling = seen.min() - 1, seen.max() + 1
    with np.errstate(divide="ignore"):
        logs = np.clip(np.log(values), floor, ceiling)
    middle = median(logs, weights)
    below, above = _spread(logs, weights, middle)
    return estimate, (
        estimate * math.exp(-below) if below < middle - floor else 0.0,
        estimate * math.exp(above) if above < ceiling - middle else math.inf,
    )


def with_model_error(estimate: float, interval: Interval) -> Interval:
    """Widens a statistical interval by `MODEL_ERROR`, as independent errors add up.

    Args:
      estimate: inside the interval.
      interval: (low, high).

    Returns:
      (low, high), wider on both sides, and more so above.
    """
    low, high = interval
    if not 0 < estimate < math.inf:
        return interval
    below, above = MODEL_ERROR
    return (
        estimate / _together(estimate / low, below) if low > 0 else 0.0,
        estimate * _together(high / estimate, above) if high < math.inf else math.inf,
    )


def _together(ratio: float, other: float) -> float:
    """Joins two independent errors, given as factors."""
    return math.exp(math.hypot(math.log(ratio), math.log(other)))


def _grouped(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Replaces long logs by medians of neighbours: draws would fill the memory."""
    if len(values) <= _MOST_ENTRIES:
        return values, weights
    groups = np.array_split(np.arange(len(values)), _MOST_ENTRIES)
    medians = [median(values[group], weights[group]) for group in groups]
    return np.array(medians), np.array([weights[group].sum() for group in groups])


def _spread(
    logs: np.ndarray, weights: np.ndarray, middle: float
) -> tuple[float, float]:
    """Returns how far the 95 % interval of the logarithms is below and above."""
    count = len(logs)
    time = np.linspace(-1, 1, count)
    # The first entries average over few updates: as outliers they would hide how alike
    # neighbours are. To medians the distance of an outlier does not matter.
    reach = 3 * float(np.median(np.abs(logs - middle)))
    tame = np.clip(logs, middle - reach, middle + reach)
    trend = np.polyval(np.polyfit(time, tame, 1), time)
    rest = tame - trend
    phi = _autocorrelation(rest)
    memory = (1 + phi) / (1 - phi)
    block = max(min(math.ceil(memory), count // _BLOCKS), 1)
    blocks = -(-count // block)
    generator = np.random.default_rng(0)  # the same log, the same interval
    starts = generator.integers(0, count - block + 1, (RESAMPLES, blocks))
    places = (starts[:, :, None] + np.arange(block)).reshape(RESAMPLES, -1)[:, :count]
    draws = [median(trend + rest[place], weights) for place in places]
    low, high = np.quantile(draws, [_TAIL, 1 - _TAIL])
    missed = _mean_variance(count, phi)
    shown = (_mean_variance(block, phi) - missed) * block / count
    freedom = max(count / max(block, memory) - 1, 1)
    wider = math.sqrt(missed / shown) * _student(freedom) / _NORMAL
    # Near a random walk the widening has no bound, but the log has.
    return (
        min(max(middle - low, 0) * wider, middle - logs.min()),
        min(max(high - middle, 0) * wider, logs.max() - middle),
    )


def _autocorrelation(rest: np.ndarray) -> float:
    """Returns the lag-one correlation of the residual, corrected for a short series.

    About a fitted line it comes out too small by about (2 + 4 phi) / T (Marriott and
    Pope, 1954); the correction is half as much again, because memory that a short
    series cannot show is the danger: with it the intervals cover in simulations.
    """
    count, power = len(rest), float(np.sum(rest**2))
    if power <= 1e-20 * count:
        return 0.0
    phi = float(np.sum(rest[1:] * rest[:-1])) / power
    return min(max((count * phi + 3) / (count - 6), 0.0), 1 - 1 / count)


def _mean_variance(count: int, phi: float) -> float:
    """Returns the variance of the mean of `count` values of an AR(1) of variance 1."""
    memory = (1 + phi) / (1 - phi)
    ends = 2 * phi * (1 - phi**count) / (count * (1 - phi) ** 2)
    return (memory - ends) / count


def _student(freedom: float) -> float:
    """Returns Student's 97.5 % quantile by the Cornish-Fisher series (Fisher, 1925)."""
    z = _NORMAL
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
