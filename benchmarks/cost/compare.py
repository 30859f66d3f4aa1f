"""Comparisons: contenders compiled, then timed in turns on the same parameters."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.cost import measure
from benchmarks.cost.contenders import Contender
from benchmarks.cost.measure import Measurement


def compare(
    template: Measurement,
    compared: Sequence[Contender],
    params: Any,
    *,
    rounds: int,
    place: Callable[[Any], Any] = lambda state: state,
) -> list[Measurement]:
    """Compiles all contenders, then lets them take turns on the same parameters.

    Args:
      template: the fields that all measurements share.
      compared: the contenders.
      params: donated to the first, whose result goes to the next, and so on: GPT-2's
        would not fit eight times.
      rounds: to time.
      place: puts a state on its devices.

    Returns:
      One measurement per contender.
    """
    leaves = jax.tree.leaves(params)
    template = dataclasses.replace(
        template,
        size=sum(leaf.size for leaf in leaves),
        tensors=len(leaves),
        environment=measure.where(),
    )
    jax.jit(jnp.negative)(1.0)  # what a process compiles first pays for the start
    analyses, calls, held = {}, {}, [params]
    for contender in compared:
        state = place(jax.jit(contender.init)(params))
        jitted = jax.jit(contender.step, donate_argnums=(0, 1))
        passes = template.microbatches or 1
        compiled, analyses[contender.name] = measure.compile_timed(
            jitted, passes, params, state, *contender.inputs
        )
        calls[contender.name] = _call(compiled, held, state, contender.inputs)
    times = measure.take_turns(calls, template.baseline, rounds)
    return [
        dataclasses.replace(template, method=name, **analyses[name], **times[name])
        for name in calls
    ]


def _call(
    compiled: Any, held: list[Any], state: Any, inputs: tuple[Any, ...]
) -> Callable[[], None]:
    own = [state]

    def call() -> None:
        held[0], own[0] = compiled(held[0], own[0], *inputs)
        jax.block_until_ready((held, own))

    return call
