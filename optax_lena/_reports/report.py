"""Reports: what a LENA state says, for people and for loggers.

In: any optax state with a LENA state somewhere inside. Out: dictionaries. Pure
functions of the state; `metrics` also works under `jit` and in `lax.scan`.
"""

import functools
import math
import warnings
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import DictKey, tree_leaves_with_path

from optax_lena._measure.entries import entries_of
from optax_lena._parts.estimate import Estimate
from optax_lena._transform.rows import follows
from optax_lena._transform.state import ScaleByLenaState

LAYER_FIELDS = (
    "gain",
    "trust_ratio",
    "learning_rate",
    "progress",
    "warmup_factor",
    "warmup_end",
    "noise",
    "signal",
    "noise_scale",
)
# Updates that may measure nothing, as Adam's preconditioner is zero for the first five,
# or little: estimates are averages over five updates or more.
_FIRST_UPDATES = 10
# Signal over the noise of the whole batch, below which chance does not bring it. Of
# batches in the order of their classes it is near -0.7, shuffled above -0.2.
_LEAST_SIGNAL = -0.5


def lena_states(opt_state: Any) -> dict[str, ScaleByLenaState]:
    """Returns the LENA states inside `opt_state`, at any depth, by a short name.

    Args:
      opt_state: an optax state, or the `opt_state` of a flax optimizer.

    Returns:
      One entry per `scale_by_lena`. A single one is named `""`; several are named by
      the labels that lead to them (`optax.partition`, `optax.named_chain`), or
      numbered.

    Raises:
      ValueError: if there is none.
    """
    found = [
        (path, state)
        for path, state in tree_leaves_with_path(opt_state, is_leaf=_is_lena)
        if _is_lena(state)
    ]
    if not found:
        raise ValueError(
            "`opt_state` must hold the state of a LENA transformation, got none in "
            f"{jax.tree.structure(opt_state)}. A checkpoint restored without a target "
            "comes back as plain dictionaries: restore it into `tx.init(params)`."
        )
    if len(found) == 1:
        return {"": _plain(found[0][1])}
    labels = [
        "/".join(str(k.key) for k in path if isinstance(k, DictKey))
        for path, _ in found
    ]
    if len(set(labels)) < len(labels):
        labels = [str(i) for i in range(len(labels))]
    return {
        label: _plain(state)
        for label, (_, state) in zip(labels, found, strict=True)
        if state.layer_names()  # a label of optax.partition may have no parameters
    }


def layer_report(opt_state: Any, params: Any = None) -> dict[str, dict[str, Any]]:
    r"""Reports what LENA does with every layer, and why.

    Args:
      opt_state: an optax state with a LENA state at any depth.
      params: not read, since the state knows its layers; a call may pass them.

    Returns:
      For each layer's name a dictionary of numbers:

      - `gain`: base-batch steps that one update is worth to it, between 1 and S (where
        S is below 1, between S and 1);
      - `trust_ratio`: the factor on the learning rate, by the rule and the guard;
      - `learning_rate`: the product of schedule, trust ratio and warm-up factor;
      - `progress`: how far its warm-up has come, in base-batch steps;
      - `warmup_factor`: its warm-up's factor on the learning rate, in [0, 1];
      - `warmup_end`: the base-batch step at which its warm-up ended; None before;
        without a warm-up the step of the first update;
      - `noise`: $\sigma^2$, trace of the covariance of a base-batch gradient;
      - `signal`: $\lVert\mu\rVert^2$, squared norm of the true gradient;
      - `noise_scale`: noise / signal, the batch (in base batches) at which half of
        the gradient's squared norm is noise.

    Raises:
      ValueError: if `opt_state` holds no LENA state, or a stack of them; or if its
        values are not known yet, inside of `jax.jit`.

    Warns:
      RuntimeWarning: if no layer shows noise: most likely gradients were averaged
        before their norms were taken; if after more than ten updates no layer shows any
        gradient, or the model's signal is far below zero, as with sorted batches; if
        after the second update the learning rate is 0 or negative: the schedule was
        built for another number of steps; or if rows are out of order.

    Example:
      >>> import jax.numpy as jnp, optax_lena
      >>> stack = {"calm": jnp.array([3.0, 3.0]), "noisy": jnp.array([1.0, -1.0])}
      >>> grads, moments = optax_lena.moments_from_stack(stack)
      >>> tx = optax_lena.lena(0.1, batch_scale=2)
      >>> _, state = tx.update(grads, tx.init(grads), grads, moments=moments)
      >>> for layer, row in optax_lena.layer_report(state).items():
      ...     print(layer, row["gain"], row["noise_scale"])
      calm 1.0 0.0
      noisy 2.0 inf
    """
    del params
    report: dict[str, dict[str, Any]] = {}
    for label, state in lena_states(opt_state).items():
        _check_is_one(state)
        _check_is_known(state)
        columns = _columns(state)
        columns, model = jax.device_get((columns, _model(state, columns)))
        scale, base_steps = (float(model[x]) for x in ("batch_scale", "base_steps"))
        _warn_of_summed_gradients(columns, scale)
        if base_steps > scale:  # more than one update
            _warn_of_schedule(float(model["schedule"]))
        if base_steps > _FIRST_UPDATES * scale:
            _warn_of_no_gradients(label, columns, scale)
            _warn_of_negative_signal(model)
        for i, name in enumerate(state.layer_names()):
            row: dict[str, Any]
            row = {field: float(column[i]) for field, column in columns.items()}
            if row["warmup_end"] < 0:
                row["warmup_end"] = None
            # Infinite for people; logs need finite numbers: the largest float32.
            if row["noise"] > 0 >= row["signal"]:
                row["noise_scale"] = math.inf
            report[f"{label}/{name}" if label else name] = row
    return report


def metrics(opt_state: Any) -> dict[str, jax.Array]:
    """Returns a flat dictionary of scalars for a logger.

    The keys depend on the model only, so the dictionary can leave `jit` and be
    stacked by `lax.scan`.

    Args:
      opt_state: an optax state with a LENA state at any depth.

    Returns:
      float32 scalars: `model/...` with the whole model's gain, noise scale and clocks,
      how far a spike cut the rate, how much of the noise counts after the loss has
      risen, the share of layers still warming up and the extremes over layers; then
      `<field>/<layer>` for each field of `layer_report` (there, a `warmup_end` of -1
      stands for "not yet").

    Raises:
      ValueError: if `opt_state` holds no LENA state.

    Example:
      >>> import jax.numpy as jnp, optax_lena
      >>> tx = optax_lena.lena(0.1, batch_scale=8, warmup_steps=100)
      >>> numbers = optax_lena.metrics(tx.init({"w": jnp.zeros(3)}))
      >>> print(numbers["model/warming_up"], numbers["warmup_factor/w"])
      1.0 0.0
    """
    flat: dict[str, jax.Array] = {}
    for label, state in lena_states(opt_state).items():
        prefix = f"{label}/" if label else ""
        columns = _columns(state)
        for field, value in _model(state, columns).items():
            flat[f"{prefix}model/{field}"] = value
        names = state.layer_names()
        entries = _entries(columns, len(names))
        for field in columns:
            for name, entry in zip(names, entries, strict=True):
                flat[f"{prefix}{field}/{name}"] = entry[field]
    return flat


@functools.partial(jax.jit, static_argnums=1)
def _entries(columns: dict[str, Any], count: int) -> list[dict[str, jax.Array]]:
    """Returns the entries of each layer, without the last row, the model's."""
    return entries_of(columns, range(count))


def _is_lena(node: Any) -> bool:
    return isinstance(node, ScaleByLenaState)


def _plain(state: ScaleByLenaState) -> ScaleByLenaState:
    """Takes leaves out of nnx.Optimizer's variables, and out of host memory."""

    def unwrap(node: Any) -> Any:
        leaves = jax.tree.leaves(node)
        return _on_device(leaves[0]) if len(leaves) == 1 else node

    is_inside = lambda node: not isinstance(node, tuple)  # noqa: E731
    return jax.tree.map(unwrap, state, is_leaf=is_inside)


def _on_device(leaf: Any) -> Any:
    """Returns the array in device memory: computations take no offloaded arrays."""
    if not isinstance(leaf, jax.Array) or isinstance(leaf, jax.core.Tracer):
        return leaf
    usual = next(iter(leaf.sharding.device_set)).default_memory().kind
    if leaf.sharding.memory_kind in (None, usual):
        return leaf
    return jax.device_put(leaf, leaf.sharding.with_memory_kind(usual))


def _check_is_known(state: ScaleByLenaState) -> None:
    """Raises a `ValueError` for a state whose values `jax.jit` does not know yet."""
    if isinstance(state.applied.schedule, jax.core.Tracer):
        raise ValueError(
            "`opt_state` must hold values for a report, got a state that jax.jit, "
            "jax.lax.scan or another transformation is tracing: return it and report "
            "outside, or take optax_lena.metrics(opt_state) inside."
        )


def _check_is_one(state: ScaleByLenaState) -> None:
    """Raises for a stack of states, as of pmap or an ensemble; warns of moved rows."""
    axes = jnp.shape(state.applied.base_batches)
    if axes:
        raise ValueError(
            f"`opt_state` must be one state, got a stack of shape {axes}: take one, "
            "jax.tree.map(lambda x: x[0], opt_state) (of replicas any: "
            "flax.jax_utils.unreplicate), or read all with optax_lena.metrics, whose "
            "numbers then have that shape."
        )
    if not follows(state):
        warnings.warn(
            "The rows of `opt_state` belong to other layers than its names say: it was "
            "restored from a checkpoint of a model whose layers had other names or "
            "another order. The next update sorts them by name, and starts afresh what "
            "it does not know.",
            RuntimeWarning,
            stacklevel=3,
        )


def _warn_of_summed_gradients(columns: dict[str, Any], batch_scale: float) -> None:
    """Warns of a trap that types do not show in pmap, or without `check_vma`."""
    noise, signal = columns["noise"], columns["signal"]
    # Rounding leaves a millionth; a real gradient without noise has no use for LENA.
    silent = (signal > 0) & (noise <= 1e-5 * batch_scale * signal)
    if batch_scale > 1 and silent.size and silent.all():
        warnings.warn(
            "Every layer's gradient is free of noise, so every gain is 1. Most likely "
            "the gradients were averaged over the devices before their norms were "
            "taken: give `moments_over_axis` each device's own gradients, or use "
            "`value_and_grad(loss_fn, n, axis_name=...)`. Or the loss reads a batch "
            "that it closes over, and not the microbatch that it is given; or all "
            "microbatches hold the same examples.",
            RuntimeWarning,
            stacklevel=3,
        )


def _warn_of_no_gradients(
    label: str, columns: dict[str, Any], batch_scale: float
) -> None:
    """Warns of many updates that measured nothing, by a rule that asks for it."""
    is_unmeasured = (columns["noise"] == 0) & (columns["signal"] == 0)
    is_unmeasured &= columns["trust_ratio"] == 1
    if batch_scale > 1 and is_unmeasured.all():
        warnings.warn(
            f"No layer{f' of {label!r}' if label else ''} has had a gradient to "
            "measure yet, so every gain is 1: gradients were zero or not finite, or "
            "each update had one microbatch. Or their `preconditioner` is that of the "
            "first state, which has seen no gradient: call "
            "optax_lena.adam_preconditioner(opt_state, params) in every step.",
            RuntimeWarning,
            stacklevel=3,
        )


def _warn_of_negative_signal(model: dict[str, Any]) -> None:
    """Warns of microbatches that differ by more than chance."""
    noise = model["noise"] / model["batch_scale"]
    if noise > 0 and model["signal"] < _LEAST_SIGNAL * noise:
        warnings.warn(
            "The microbatches differ by more than chance, so that noise and gains are "
            "too high. Most likely the examples of a batch are in the order of their "
            'classes, sources or lengths: shuffle them, or take `spread="time"`, where '
            "each microbatch has examples from all over the batch. With "
            "`from_successive_gradients`, the gradient changes much from batch to "
            "batch: take microbatches, or a lower rate.",
            RuntimeWarning,
            stacklevel=3,
        )


def _warn_of_schedule(schedule: float) -> None:
    """Warns of a schedule that ended too early, as if it counted updates."""
    if schedule <= 0:
        warnings.warn(
            f"The schedule gave a learning rate of {schedule:.3g}: most likely it has "
            "ended. It is called with the number of base batches seen: give it as many "
            "steps as the base run has, and not the updates with the large batch.",
            RuntimeWarning,
            stacklevel=3,
        )


# Compiled: outside of jax.jit every constant would be a transfer to the device, which
# jax.transfer_guard may forbid.
@jax.jit
def _columns(state: ScaleByLenaState) -> dict[str, jax.Array]:
    applied = state.applied
    columns = {
        **applied._asdict(),
        "learning_rate": applied.layer_rate,
        "progress": state.progress.read(),
        "warmup_end": state.warmup_end,
        "noise_scale": Estimate(applied.noise, applied.signal).noise_scale(),
    }
    return {field: columns[field] for field in LAYER_FIELDS}


@jax.jit
def _model(
    state: ScaleByLenaState, columns: dict[str, jax.Array]
) -> dict[str, jax.Array]:
    applied = state.applied
    fields = ("gain", "trust_ratio", "learning_rate", "noise", "signal", "noise_scale")
    factor, ratio = applied.warmup_factor[..., :-1], applied.trust_ratio[..., :-1]
    return {
        **{field: columns[field][..., -1] for field in fields},
        "schedule": applied.schedule,
        "coherence": applied.coherence,
        "spike_factor": applied.spike_factor,
        "noise_share": applied.noise_share,
        "batch_scale": applied.base_batches,
        **{name: clock.read() for name, clock in state.clocks._asdict().items()},
        "warming_up": _share_below_one(factor),
        "min_warmup_factor": jnp.min(factor, axis=-1, initial=1),
        "min_trust_ratio": jnp.min(ratio, axis=-1, initial=jnp.finfo(ratio.dtype).max),
        "max_trust_ratio": jnp.max(ratio, axis=-1, initial=0),
    }


def _share_below_one(factor: jax.Array) -> jax.Array:
    count = max(factor.shape[-1], 1)
    return jnp.sum(factor < 1, axis=-1, dtype=jnp.float32) / count
