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
    momentum=0.9,
    nesterov=False,
    weight_decay=0.0,
    horizon=1000,
):
    """Trains T updates with torch's SGD, every layer at LENA's rate.

    Args:
      params: {parameter: array}.
      stacks: {parameter: `[T, n, ...]`}, the microbatches' gradients.
      layers: {layer: [(parameter, index)]}; `array[index]` is what the layer has of it.
      learning_rate: a function of the clock.
      weights: `[T, n]`, or None.
      Others: as in `optax_lena.lena`.

    Returns:
      {"params": {parameter: `[T, ...]`}, "gain": {layer: `[T]`}, ..., and per update
      "model_gain", "base_steps", "gain_steps"}.
    """
    params = {p: np.array(x, np.float64) for p, x in params.items()}
    stacks = {p: np.asarray(x, np.float64) for p, x in stacks.items()}
    momenta = {p: np.zeros_like(x) for p, x in params.items()}
    updates, n = next(iter(stacks.values())).shape[:2]
    per_layer = ("gain", "trust_ratio", "warmup_factor", "progress", "noise", "signal")
    per_update = ("model_gain", "base_steps", "gain_steps")
    trace = {field: {layer: [] for layer in layers} for field in per_layer}
    trace |= {field: [] for field in per_update}
    trace["params"] = {p: [] for p in params}
    average = {layer: np.zeros(2) for layer in layers}
    weight = base_steps = gain_steps = 0.0
    progress = dict.fromkeys(layers, 0.0)

    for t in range(updates):
        w = np.ones(n) if weights is None else np.asarray(weights[t], np.float64)
        shares = w / w.sum()
        scale = np.count_nonzero(shares) if batch_scale is None else batch_scale
        step = min(1, scale / horizon)
        weight = (1 - step) * weight + step
        rate_now = learning_rate(base_steps if clock == "base_steps" else gain_steps)
        rates = {p: np.full_like(x, np.nan) for p, x in params.items()}

        for layer, members in layers.items():
            grads = np.stack(
                [
                    np.concatenate(
                        [stacks[p][t, i][index].ravel() for p, index in members]
                    )
                    for i in range(n)
                ]
            )
            measured = np.array(noise_and_signal(grads, shares, scale))
            average[layer] = (1 - step) * average[layer] + step * measured
            noise, signal = average[layer]
            gain = gain_ratio(noise, signal, scale)
            progress[layer] += gain if warmup == "state_aware" else scale
            factor = min(1, progress[layer] / warmup_steps) if warmup_steps else 1.0
            trust_ratio = rule(gain, scale)
            for p, index in members:
                rates[p][index] = rate_now * trust_ratio * factor
            now = (gain, trust_ratio, factor, progress[layer], noise / weight)
            for field, value in zip(per_layer, (*now, signal / weight), strict=True):
                trace[field][layer].append(value)

        model_gain = gain_ratio(*sum(average.values()), scale)
        base_steps, gain_steps = base_steps + scale, gain_steps + model_gain
        now = (model_gain, base_steps, gain_steps)
        for field, value in zip(per_update, now, strict=True):
            trace[field].append(value)

        for p, x in params.items():
            mean = np.tensordot(shares, stacks[p][t], axes=1)
            grad = mean + weight_decay * x
            momenta[p] = momentum * momenta[p] + grad
            direction = grad + momentum * momenta[p] if nesterov else momenta[p]
            params[p] = x - rates[p] * direction
            trace["params"][p].append(params[p])

    return trace
