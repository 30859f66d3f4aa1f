"""LENA in NumPy float64, written down from the paper's formulas: the tests' referee.

It imports neither JAX nor the library, and is plain where the library is fast: every
microbatch's gradient is looked at by itself, layer by layer.
"""

import numpy as np


def capped(gain, batch_scale):
    return min(gain, batch_scale)


def square_root(gain, batch_scale):
    return np.sqrt(min(gain, batch_scale))


def linear(gain, batch_scale):
    return batch_scale


def amplified(gain, batch_scale):
    """The gain at eight times the noise scale b; gain = (1 + b) / (1 + b/S)."""
    if gain == batch_scale:
        return batch_scale
    b = 8 * (gain - 1) / (1 - gain / batch_scale)
    return (1 + b) / (1 + b / batch_scale)


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


def gain_ratio(noise, signal, batch_scale):
    signal = max(signal, 0)
    if noise + signal == 0:
        return 1.0
    ratio = (noise + signal) / (noise / batch_scale + signal)
    return min(max(ratio, 1), batch_scale)


def replay(
    params,
    stacks,
    layers,
    *,
    learning_rate,
    batch_scale=None,
    weights=None,
    rule=capped,
    warmup_steps=0,
    warmup="state_aware",
    clock="base_steps",
    averages="absolute",
    momentum=0.9,
    nesterov=False,
    weight_decay=0.0,
    horizon=1000,
    spike_limit=None,
    rate_enters_buffer=False,
):
    """Trains T updates with torch's SGD, every layer at LENA's rate.

    Args:
      params: {parameter: array}.
      stacks: {parameter: `[T, n, ...]`}, the microbatches' gradients.
      layers: {layer: [(parameter, index)]}; `array[index]` is what the layer has of it.
      learning_rate: a function of the clock.
      weights: `[T, n]`, or None.
      rate_enters_buffer: whether the rate is in front of the momentum, or behind it.
      Others: as in `optax_lena.lena`.

    Returns:
      {"params": {parameter: `[T, ...]`}, "gain": {layer: `[T]`}, ..., and per update
      "model_gain" and the clocks}.
    """
    params = {p: np.array(x, np.float64) for p, x in params.items()}
    stacks = {p: np.asarray(x, np.float64) for p, x in stacks.items()}
    momenta = {p: np.zeros_like(x) for p, x in params.items()}
    updates, n = next(iter(stacks.values())).shape[:2]
    per_layer = ("gain", "trust_ratio", "warmup_factor", "progress", "noise", "signal")
    per_update = (
        "model_gain",
        "spike_factor",
        "base_steps",
        "gain_steps",
        "rate_steps",
    )
    trace = {field: {layer: [] for layer in layers} for field in per_layer}
    trace |= {field: [] for field in per_update}
    trace["params"] = {p: [] for p in params}
    average = {layer: np.zeros(2) for layer in layers}
    weight = 0.0
    recent, recent_weight = np.zeros(2), 0.0
    clocks = dict.fromkeys(per_update[2:], 0.0)
    progress = dict.fromkeys(layers, 0.0)

    for t in range(updates):
        w = np.ones(n) if weights is None else np.asarray(weights[t], np.float64)
        shares = w / w.sum()
        scale = np.count_nonzero(shares) if batch_scale is None else batch_scale
        step = min(1, scale / horizon)
        weight = (1 - step) * weight + step
        rate_now = learning_rate(clocks[clock])
        rates = {p: np.full_like(x, np.nan) for p, x in params.items()}

        measured = {}
        for layer, members in layers.items():
            grads = np.stack(
                [
                    np.concatenate(
                        [stacks[p][t, i][index].ravel() for p, index in members]
                    )
                    for i in range(n)
                ]
            )
            measured[layer] = np.array(noise_and_signal(grads, shares, scale))
        total = sum(value.sum() for value in measured.values())
        for layer in layers:
            new = measured[layer] / (total if averages == "relative" else 1)
            average[layer] = (1 - step) * average[layer] + step * new
        model_gain = gain_ratio(*sum(average.values()), scale)

        cut, whole = 1.0, sum(measured.values())
        if spike_limit is not None and recent_weight > 0:
            usual_noise, usual_signal = recent / recent_weight
            usual = usual_noise / scale + max(usual_signal, 0)
            cut = min(1, np.sqrt(spike_limit * usual / (whole[0] / scale + whole[1])))
        recent = 0.9 * recent + 0.1 * cut**2 * whole
        recent_weight = 0.9 * recent_weight + 0.1

        for layer, members in layers.items():
            noise, signal = average[layer]
            gain = gain_ratio(noise, signal, scale)
            counted = {"state_aware": gain, "fixed": scale}
            progress[layer] += counted[warmup]
            factor = min(1, progress[layer] / warmup_steps) if warmup_steps else 1.0
            trust_ratio = max(1, cut * rule(gain, scale))
            for p, index in members:
                rates[p][index] = rate_now * trust_ratio * factor
            now = (gain, trust_ratio, factor, progress[layer], noise / weight)
            for field, value in zip(per_layer, (*now, signal / weight), strict=True):
                trace[field][layer].append(value)

        clocks["base_steps"] += scale
        clocks["gain_steps"] += model_gain
        progressed = clocks["base_steps" if warmup == "fixed" else "gain_steps"]
        factor = min(1, progressed / warmup_steps) if warmup_steps else 1.0
        clocks["rate_steps"] += max(1, cut * rule(model_gain, scale)) * factor
        now = (model_gain, cut, *clocks.values())
        for field, value in zip(per_update, now, strict=True):
            trace[field].append(value)

        for p, x in params.items():
            mean = np.tensordot(shares, stacks[p][t], axes=1)
            grad = (mean + weight_decay * x) * (rates[p] if rate_enters_buffer else 1)
            momenta[p] = momentum * momenta[p] + grad
            direction = grad + momentum * momenta[p] if nesterov else momenta[p]
            params[p] = x - direction * (1 if rate_enters_buffer else rates[p])
            trace["params"][p].append(params[p])

    return trace


class Layer:
    """What LENA remembers of one layer: averages and progress, at a constant S."""

    def __init__(self, rule, batch_scale, warmup_steps=0, horizon=1000):
        self.rule, self.scale, self.warmup_steps = rule, batch_scale, warmup_steps
        self.step = min(1, batch_scale / horizon)
        self.average, self.progress = np.zeros(2), 0.0

    def rate(self, grads):
        """Returns the gain and the factor on the rate, of gradients `[n, ...]`."""
        grads = grads.reshape(len(grads), -1)
        shares = np.full(len(grads), 1 / len(grads))
        measured = np.array(noise_and_signal(grads, shares, self.scale))
        self.average = (1 - self.step) * self.average + self.step * measured
        gain = gain_ratio(*self.average, self.scale)
        self.progress += gain
        warmup = min(1, self.progress / self.warmup_steps) if self.warmup_steps else 1.0
        return gain, self.rule(gain, self.scale) * warmup


def replay_adamw(
    w,
    stacks,
    layer,
    *,
    learning_rate,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    weight_decay=0.0,
    preconditioned=True,
):
    """Trains one parameter on gradients `[T, n, ...]`; returns parameters and gains."""
    w, stacks = np.array(w, np.float64), np.asarray(stacks, np.float64)
    m, v, trace = np.zeros_like(w), np.zeros_like(w), []
    for t, stack in enumerate(stacks):
        p = np.ones_like(w)
        if preconditioned:
            p = np.zeros_like(w)
            seen = (v > 0) & (t >= 5)
            p[seen] = 1 / (np.sqrt(v[seen] / (1 - b2**t)) + eps)
        gain, rate = layer.rate(stack * p)
        grad = stack.mean(0)
        m, v = b1 * m + (1 - b1) * grad, b2 * v + (1 - b2) * grad**2
        m_hat, v_hat = m / (1 - b1 ** (t + 1)), v / (1 - b2 ** (t + 1))
        direction = m_hat / (np.sqrt(v_hat) + eps) + weight_decay * w
        w = w - learning_rate(t * layer.scale) * rate * direction
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
