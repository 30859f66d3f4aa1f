"""One run of a task, and what it scored."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_lena
from benchmarks.records.lines import four_digits
from benchmarks.unseen.task import Task

BASE_BATCH, BASE_STEPS = 16, 8192
Gradient = Callable[[Task, int, Any, Any, Any], tuple[Any, dict[str, Any]]]


@dataclasses.dataclass(frozen=True)
class Score:
    """What one run of one seed scored.

    Attributes:
      task: a key of `TASKS`.
      method: a key of `METHODS`, or `"base"`.
      batch_scale: S.
      seed: of the initial parameters and the order of the examples.
      rate: of the base recipe.
      score: on the test set, in percent; None where training failed.
      environment: versions, device and commit.
    """

    task: str
    method: str
    batch_scale: int
    seed: int
    rate: float
    score: float | None
    environment: dict[str, str]

    @property
    def key(self) -> tuple[str, str, int, int, float]:
        """What was run."""
        rate = four_digits(self.rate)
        return self.task, self.method, self.batch_scale, self.seed, rate


def scores(
    task: Task,
    tx: optax.GradientTransformation,
    batch_scale: int,
    seeds: Sequence[int],
    gradient: Gradient,
) -> list[float]:
    """Trains seeds side by side on the base run's examples, S base batches an update.

    Args:
      task: what is trained.
      tx: the optimizer.
      batch_scale: S.
      seeds: of the runs.
      gradient: `gradient(task, batch_scale, state, params, batch)` returns the
        gradients, and what else the update reads.

    Returns:
      The score of each; not a number where it or a parameter is not finite.
    """
    tx = optax.with_extra_args_support(tx)
    train, test = (jax.tree.map(jnp.asarray, x) for x in (task.train, task.test))

    def step(carry: Any, rows: jax.Array) -> tuple[Any, None]:
        params, state = carry
        batch = jax.tree.map(lambda x: x[rows], train)
        grads, extra = gradient(task, batch_scale, state, params, batch)
        updates, state = tx.update(grads, state, params, **extra)
        return (optax.apply_updates(params, updates), state), None

    def trained(key: jax.Array, examples: jax.Array) -> tuple[jax.Array, jax.Array]:
        params = task.init(key)
        (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), examples)
        return task.score(params, test), _are_finite(params)

    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    orders = np.stack([_order(task, batch_scale, seed) for seed in seeds])
    found, finite = jax.jit(jax.vmap(trained))(keys, orders)
    pairs = zip(found.tolist(), finite.tolist(), strict=True)
    return [x if is_fine and math.isfinite(x) else math.nan for x, is_fine in pairs]


def plain(
    task: Task, batch_scale: int, state: Any, params: Any, batch: Any
) -> tuple[Any, dict[str, Any]]:
    """The gradient alone."""
    del state
    if task.mixes_examples and batch_scale > 1:
        grads, _ = _measured(task, batch_scale, params, batch)
        return grads, {}
    return jax.grad(task.loss)(params, batch), {}


def measured(
    task: Task, num_microbatches: int, state: Any, params: Any, batch: Any
) -> tuple[Any, dict[str, Any]]:
    """The gradient with its moments, and the loss."""
    del state
    return _measured(task, num_microbatches, params, batch)


def measured_for_adam(
    task: Task, num_microbatches: int, state: Any, params: Any, batch: Any
) -> tuple[Any, dict[str, Any]]:
    """The gradient with the moments of what Adam makes of it, and the loss."""
    preconditioner = optax_lena.adam_preconditioner(state, params)
    return _measured(
        task, num_microbatches, params, batch, preconditioner=preconditioner
    )


def _measured(
    task: Task, num_microbatches: int, *args: Any, **options: Any
) -> tuple[Any, dict[str, Any]]:
    gather = optax_lena.value_and_grad(task.loss, num_microbatches)
    value, grads, moments = gather(*args, **options)
    return grads, {"moments": moments, "value": value}


def _are_finite(params: Any) -> jax.Array:
    """Whether all are; a score that only compares may be finite where they are not."""
    leaves = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(params)]
    return jnp.all(jnp.stack(leaves))


def _order(task: Task, batch_scale: int, seed: int) -> np.ndarray:
    """Rows of the training set, `[updates, S * base batch]`.

    Epoch after epoch, or stage after stage, each in an order of its own.
    """
    count, total = len(task.train[0]), BASE_STEPS * BASE_BATCH
    edges = [0, *(int(share * count) for share in task.stages), count]
    parts = list(itertools.pairwise(edges)) * -(-total // count)
    shuffled = [
        first + np.random.default_rng([seed, part]).permutation(last - first)
        for part, (first, last) in enumerate(parts)
    ]
    order = np.concatenate(shuffled)[:total].astype(np.int32)
    return order.reshape(BASE_STEPS // batch_scale, batch_scale * BASE_BATCH)
