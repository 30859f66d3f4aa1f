"""What recipes of every optimizer share."""

import optax


def around(rate: float | None) -> list[float]:
    """The rates that a base rate was chosen from; none for no rate."""
    if rate is None:
        return []
    return [multiple * rate for multiple in (0.5, 1, 2)]


def clipped(
    tx: optax.GradientTransformation, largest: float | None
) -> optax.GradientTransformation:
    """The optimizer, of gradients whose norm is at most `largest`; None: of all."""
    if largest is None:
        return tx
    return optax.chain(optax.clip_by_global_norm(largest), tx)


def constant(rate: float) -> optax.Schedule:
    """The rate, for all of the run."""
    return optax.constant_schedule(rate)
