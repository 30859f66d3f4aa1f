"""Verdicts: who is best by the protocol's two measures, and what that says of one."""

from collections.abc import Callable, Mapping

import numpy as np

from benchmarks.methods.registry import METHODS
from benchmarks.pages.outcomes import Key, Outcome, gap, gap_error, is_level

# A number per seed, to be maximised.
Measure = Callable[[Outcome], np.ndarray]
Found = Mapping[Key, Outcome]
# AdaScale as its authors run it, and as LENA's paper does.
PEERS = {
    "adascale": "AdaScale",
    "adascale_base_clock": "AdaScale on the base clock",
    "adascale_warmup": "AdaScale on the base clock with LENA's warm-up",
}


def accuracy(outcome: Outcome) -> np.ndarray:
    """The first measure, in percent, at equal examples."""
    return 100 * outcome.accuracy


def speed(outcome: Outcome) -> np.ndarray:
    """The second measure, updates to the target, to be maximised as the first is."""
    return -outcome.counted


def best(found: Found, scale: int, measure: Measure) -> str | None:
    """The method without re-tuning that is best at one S.

    One of fewer seeds than the base run's is not, where there is another.
    """
    own = {
        method: outcome
        for (method, of), outcome in found.items()
        if of == scale and method != "base" and not METHODS[method].rates
    }
    whole = {m: one for m, one in own.items() if one.seeds >= found["base", 1].seeds}
    values = {method: measure(outcome) for method, outcome in (whole or own).items()}
    return max(values, key=lambda method: values[method].mean()) if values else None


def is_bold(found: Found, key: Key, measure: Measure) -> bool:
    """Whether a method is best without re-tuning, or level with the best.

    Nobody is best at never reaching a target.
    """
    method, scale = key
    leader = best(found, scale, measure)
    if leader is None or METHODS[method].rates:
        return False
    if found[key].seeds < found[leader, scale].seeds:
        return False
    if measure is speed and not found[key].reached:
        return False
    return method == leader or is_level(
        measure(found[key]), measure(found[leader, scale])
    )


def verdicts(found: Found, recommended: str) -> list[str]:
    """What the two measures say of the recommended optimizer, a sentence for each S."""
    label = METHODS[recommended].label
    scales = sorted(scale for method, scale in found if method == recommended)
    return [
        f"S = {scale}, {label}: " + "; ".join(_clauses(found, recommended, scale)) + "."
        for scale in scales
    ]


def _clauses(found: Found, recommended: str, scale: int) -> list[str]:
    own, key = found[recommended, scale], (recommended, scale)
    below = 100 * gap(own.accuracy, found["base", 1].accuracy)
    side = "below" if round(below, 1) >= 0 else "above"
    return [
        _verdict(found, key, accuracy, "accuracy after equal examples"),
        _verdict(found, key, speed, "updates to the target"),
        f"it ends {abs(below):.1f} points {side} the base run",
        *(
            _fewer(own, found[peer, scale], name)
            for peer, name in PEERS.items()
            if own.reached and (peer, scale) in found
        ),
    ]


def _verdict(found: Found, key: Key, measure: Measure, name: str) -> str:
    method, scale = key
    leader = best(found, scale, measure)
    assert leader is not None
    if measure is speed and not found[leader, scale].reached:
        return f"{name}: no method without re-tuning gets there"
    if leader == method:
        return f"best without re-tuning in {name}"
    own, top = measure(found[key]), measure(found[leader, scale])
    rival = METHODS[leader].label
    if is_level(own, top):
        return f"level with the best in {name} ({rival})"
    digits, unit = (".2f", "points") if measure is accuracy else (",.0f", "updates")
    distance = f"{gap(own, top):{digits}}"
    if len(own) > 1 and len(top) > 1:
        distance += f" ± {gap_error(own, top):{digits}}"
    return f"{distance} {unit} behind {rival} in {name}"


def _fewer(own: Outcome, peer: Outcome, name: str) -> str:
    """Compares updates to the target; seeds that never reach it make a bound of it."""
    fewer = 100 * (1 - own.counted.mean() / peer.counted.mean())
    is_bound = own.reached == own.seeds and peer.reached < peer.seeds
    if round(fewer) == 0:
        return f"takes as many updates as {name}"
    share = f"{'at least ' if is_bound else ''}{abs(fewer):.0f} %"
    return f"takes {share} {'fewer' if fewer >= 0 else 'more'} updates than {name}"
