"""LENA in NumPy float64, written down from the paper's formulas: the tests' referee.

It imports neither JAX nor the library, and is plain where the library is fast: every
microbatch's gradient is looked at by itself, layer by layer.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np


def gain_ratio(noise, signal, batch_scale):
    signal = max(signal, 0)
    if noise + signal == 0:
        return 1.0
    ratio = (noise + signal) / (noise / batch_scale + signal)
    return np.clip(ratio, min(1, batch_scale), max(1, batch_scale))


# Rules: functions of noise, signal and S. The paper's is the gain itself.
capped = gain_ratio


def square_root(noise, signal, batch_scale):
    return np.sqrt(gain_ratio(noise, signal, batch_scale))


def linear(noise, signal, batch_scale):
    return batch_scale


def normalised(noise, signal, batch_scale):
    worth = gain_ratio(8 * noise, signal, batch_scale)
    ratio = worth / np.sqrt(gain_ratio(noise, signal, batch_scale))
    root = np.sqrt(batch_scale)
    return np.clip(ratio, min(root, 1), max(root, 1))


def amplified(noise, signal, batch_scale):
    return gain_ratio(4 * noise, signal, batch_scale)


def noise_and_signal(grads, shares, batch_scale):
    """Estimates σ² and ‖μ‖² from the microbatches' gradients of one layer, `[n, size]`.

    A microbatch of share 0 is as good as absent.
    """
    n = np.count_nonzero(shares)
    mean = shares @ grads
    micro_sq_norm = sum(share * (g @ g) for share, g in zip(shares, grads, strict=True))
    batch_sq_norm = mean @ mean
    noise = batch_scale / n * n / (n - 1) * (micro_sq_norm - batch_sq_norm)
    return noise, batch_sq_norm - noise / batch_scale


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What is to be trained with.

    Attributes:
      learning_rate: a function of the clock.
      batch_scale: S; None: the number of microbatches with a weight.
      rule: from noise, signal and S to a trust ratio.
      warmup: "state_aware" counts gains, "fixed" counts S.
      clock: what the learning rate runs on.
      averages: "absolute", or "relative" to the model's squared norm.
      spike_limit: on the squared norm over the usual one; None: no guard.
      compares_steps: whether the limit is lifted by the coherence of the last steps.
      rate_enters_buffer: whether the rate is in front of the momentum, or behind it.
      least_momentum: that a larger batch leads to; None: momentum does not follow S.
    """

    learning_rate: Callable[[float], float]
    batch_scale: float | None = None
    rule: Any = capped
    warmup_steps: float = 0
    warmup: str = "state_aware"
    clock: str = "base_steps"
    averages: str = "absolute"
    horizon: float = 1000
    spike_limit: float | None = None
    compares_steps: bool = False
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    rate_enters_buffer: bool = False
    least_momentum: float | None = None


PER_LAYER = (
    "gain",
    "trust_ratio",
    "warmup_factor",
    "learning_rate",
    "progress",
    "noise",
    "signal",
)
CLOCKS = ("base_steps", "gain_steps", "rate_steps")
PER_UPDATE = ("model_gain", "schedule", "coherence", "spike_factor", *CLOCKS)


def replay(recipe, params, stacks, layers, weights=None):
    """Trains T updates with torch's SGD, every layer at LENA's rate.

    Args:
      recipe: a `Recipe`.
      params: {parameter: array}.
      stacks: {parameter: `[T, n, ...]`}, the microbatches' gradients.
      layers: {layer: [(parameter, index)]}; `array[index]` is what the layer has of it.
      weights: `[T, n]`, or None.

    Returns:
      {"params": {parameter: `[T, ...]`}, "gain": {layer: `[T]`}, ..., and per update
      "model_gain", "schedule" and the clocks}.
    """
    params = {p: np.array(x, np.float64) for p, x in params.items()}
    stacks = {p: np.asarray(x, np.float64) for p, x in stacks.items()}
    momenta = {p: np.zeros_like(x) for p, x in params.items()}
    updates, n = next(iter(stacks.values())).shape[:2]
    trace = {field: {layer: [] for layer in layers} for field in PER_LAYER}
    trace |= {field: [] for field in PER_UPDATE}
    trace["params"] = {p: [] for p in params}
    average = {layer: np.zeros(2) for layer in layers}
    weight, spikes = 0.0, Spikes(recipe.spike_limit)
    coherence, apart, last_schedule = 1.0, 0.0, 0.0
    clocks = dict.fromkeys(CLOCKS, 0.0)
    progress = dict.fromkeys(layers, 0.0)

    for t in range(updates):
        w = np.ones(n) if weights is None else np.asarray(weights[t], np.float64)
        shares = w / w.sum()
        scale = recipe.batch_scale
        scale = np.count_nonzero(shares) if scale is None else scale
        step = min(1, scale / recipe.horizon)
        weight = (1 - step) * weight + step
        schedule = recipe.learning_rate(clocks[recipe.clock])
        rates = {p: np.full_like(x, np.nan) for p, x in params.items()}

        now = {p: x[t] for p, x in stacks.items()}
        measured = measure(now, layers, shares, scale)
        total = sum(value.sum() for value in measured.values())
        unit = total if recipe.averages == "relative" and total > 0 else 1
        for layer in layers:
            new = measured[layer] / unit
            average[layer] = (1 - step) * average[layer] + step * new
        cut = spikes.cut(sum(measured.values()), scale, max(1, coherence))

        for layer, members in layers.items():
            noise, signal = average[layer]
            gain = gain_ratio(noise, signal, scale)
            progress[layer] += {"state_aware": gain, "fixed": scale}[recipe.warmup]
            factor = warmup_factor(recipe, progress[layer])
            trust_ratio = guarded(recipe.rule(noise, signal, scale), cut, scale)
            rate = schedule * trust_ratio * factor
            for p, index in members:
                rates[p][index] = rate
            values = (gain, trust_ratio, factor, rate, progress[layer])
            values += (noise / weight, signal / weight)
            for field, value in zip(PER_LAYER, values, strict=True):
                trace[field][layer].append(value)

        model = sum(average.values())
        model_gain = gain_ratio(*model, scale)
        clocks["base_steps"] += scale
        clocks["gain_steps"] += model_gain
        passed = clocks["base_steps" if recipe.warmup == "fixed" else "gain_steps"]
        model_ratio = guarded(recipe.rule(*model, scale), cut, scale)
        clocks["rate_steps"] += model_ratio * warmup_factor(recipe, passed)
        values = (model_gain, schedule, coherence, cut, *clocks.values())
        for field, value in zip(PER_UPDATE, values, strict=True):
            trace[field].append(value)

        kept = recipe.momentum
        if recipe.least_momentum is not None:
            kept = max(kept**scale, min(kept, recipe.least_momentum))
        longer = (1 - kept) / (1 - recipe.momentum)
        held = kept  # of the buffer, which follows some changes of the schedule
        is_followed = schedule < 0.22 * last_schedule or scale <= 1
        if recipe.compares_steps and last_schedule > 0 and is_followed:
            held *= schedule / last_schedule
        last_schedule = schedule
        apart *= held**2
        for p, x in params.items():
            mean = np.tensordot(shares, now[p], axes=1)
            before, behind = longer * rates[p], 1.0
            if not recipe.rate_enters_buffer:
                before, behind = behind, before
            grad = (mean + recipe.weight_decay * x) * before
            momenta[p] = held * momenta[p] + grad
            apart += np.sum((mean * before) ** 2)  # of the gradient, without decay
            ahead = grad + kept * momenta[p]
            params[p] = x - (ahead if recipe.nesterov else momenta[p]) * behind
            trace["params"][p].append(params[p])
        if recipe.compares_steps:
            together = sum(np.sum(x**2) for x in momenta.values())
            coherence = together / apart if apart > 0 else 1.0

    return trace


def measure(stacks, layers, shares, batch_scale):
    """Returns σ² and ‖μ‖² of every layer, from gradients `[n, ...]`."""
    measured = {}
    for layer, members in layers.items():
        rows = [
            np.concatenate([stacks[p][i][index].ravel() for p, index in members])
            for i in range(len(shares))
        ]
        measured[layer] = np.array(
            noise_and_signal(np.stack(rows), shares, batch_scale)
        )
    return measured


def warmup_factor(recipe, progress):
    return min(1, progress / recipe.warmup_steps) if recipe.warmup_steps else 1.0


def guarded(ratio, cut, batch_scale):
    """A spike cuts a ratio to 1 / S at least."""
    return min(ratio, max(1 / batch_scale, cut * ratio))


class Spikes:
    """What a gradient usually has, in the geometric mean, and what cuts a spike."""

    def __init__(self, limit):
        self.limit, self.usual, self.weight = limit, np.zeros(2), 0.0

    def cut(self, whole, batch_scale, lifted):
        sq_norm = whole[0] / batch_scale + whole[1]
        usual = self.usual[0] / batch_scale + self.usual[1]
        factor = 1.0
        if self.limit is not None and 0 < lifted * self.limit * usual < sq_norm:
            factor = np.sqrt(lifted * self.limit * usual / sq_norm)
        if sq_norm > 0:
            share = whole[0] / batch_scale / sq_norm
            self.remember(share, factor**2 * sq_norm, usual, batch_scale)
        return factor

    def remember(self, share, seen, usual, batch_scale):
        """Logarithms of norms and the noise's share are averaged, each by itself."""
        self.weight = 0.9 * self.weight + 0.1
        mean = seen
        if usual > 0:
            step, seen = 0.1 / self.weight, max(seen, usual / 100)
            mean = np.exp((1 - step) * np.log(usual) + step * np.log(seen))
            share = (1 - step) * self.usual[0] / batch_scale / usual + step * share
        share = min(share, 1)
        self.usual = mean * np.array([share * batch_scale, 1 - share])


class Layer:
    """What LENA remembers of one layer: averages and progress."""

    def __init__(self, rule, batch_scale, warmup_steps=0, horizon=1000, growth=np.inf):
        self.rule, self.warmup_steps, self.horizon = rule, warmup_steps, horizon
        self.growth, self.ratio, self.last_scale = growth, 1.0, 0.0
        self.average, self.progress = np.zeros(2), 0.0
        self.at(batch_scale)

    def at(self, batch_scale):
        """From now on S is another."""
        self.scale, self.step = batch_scale, min(1, batch_scale / self.horizon)

    def rate(self, grads):
        """Returns the gain and the factor on the rate, of gradients `[n, ...]`."""
        grads = grads.reshape(len(grads), -1)
        shares = np.full(len(grads), 1 / len(grads))
        measured = np.array(noise_and_signal(grads, shares, self.scale))
        self.average = (1 - self.step) * self.average + self.step * measured
        gain = gain_ratio(*self.average, self.scale)
        self.progress += gain
        warmup = warmup_factor(self, self.progress)
        ratio = self.rule(*self.average, self.scale)
        ratio = min(ratio, self.growth * self.ratio)
        is_shorter, self.last_scale = self.scale < self.last_scale, self.scale
        self.ratio = max(ratio, self.ratio) if is_shorter else ratio
        return gain, ratio * warmup


def forget(beta, batch_scale, floor):
    """Returns the decay of an average at S."""
    if batch_scale > 1 and beta > floor:
        return max(beta**batch_scale, floor)
    return beta ** min(batch_scale, 1)


def replay_adamw(
    w,
    stacks,
    layer,
    *,
    learning_rate,
    batch_scales=None,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    weight_decay=0.0,
    preconditioned=True,
):
    """Trains one parameter on gradients `[T, n, ...]`; returns parameters and gains.

    `batch_scales` holds S of every update; None: the layer's own, throughout.
    """
    w, stacks = np.array(w, np.float64), np.asarray(stacks, np.float64)
    m, v, trace = np.zeros_like(w), np.zeros_like(w), []
    left1 = left2 = 1.0  # of the start at zero
    clock, eps_before = 0.0, eps
    for t, stack in enumerate(stacks):
        if batch_scales is not None:
            layer.at(batch_scales[t])
        scale = layer.scale
        p = np.ones_like(w)
        if preconditioned:
            p = np.zeros_like(w)
            seen = (v > 0) & (t >= 5)
            p[seen] = 1 / (np.sqrt(v[seen] / (1 - left2)) + eps_before)
        gain, rate = layer.rate(stack * p)
        grad = stack.mean(0)
        beta1, beta2 = forget(b1, scale, 0.8), forget(b2, scale, 0.9)
        m = beta1 * m + (1 - beta1) * grad
        v = beta2 * v + (1 - beta2) * grad**2
        left1, left2 = left1 * beta1, left2 * beta2
        m_hat, v_hat = m / (1 - left1), v / (1 - left2)
        eps_before = eps / np.sqrt(scale)
        direction = m_hat / (np.sqrt(v_hat) + eps_before) + weight_decay * w
        w = w - learning_rate(clock) * rate * direction
        clock += scale
        trace.append((w, gain))
    return [np.stack(x) for x in zip(*trace, strict=True)]


def replay_lars(
    w,
    stacks,
    layer,
    *,
    learning_rate,
    trust_coefficient=0.001,
    eps=0.0,
    momentum=0.9,
    nesterov=False,
    weight_decay=0.0,
    has_trust_ratio=True,
):
    """Trains one parameter on gradients `[T, n, ...]`; returns parameters and gains."""
    w, stacks = np.array(w, np.float64), np.asarray(stacks, np.float64)
    buffer, trace = np.zeros_like(w), []
    for t, stack in enumerate(stacks):
        gain, rate = layer.rate(stack)
        grad = stack.mean(0) + weight_decay * w
        ratio = trust_coefficient * np.linalg.norm(w) / (np.linalg.norm(grad) + eps)
        scaled = learning_rate(t * layer.scale) * grad
        scaled = scaled * ratio if has_trust_ratio else scaled
        buffer = momentum * buffer + scaled
        w = w - rate * (scaled + momentum * buffer if nesterov else buffer)
        trace.append((w, gain))
    return [np.stack(x) for x in zip(*trace, strict=True)]
