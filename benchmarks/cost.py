"""The cost of LENA: bytes, memory, compile time and time, against other optimizers.

`python -m benchmarks.cost`, or one `--part`:

- update: one update of the parameters of ResNet-50 and of GPT-2 small;
- step: a whole training step, on one device and on eight;
- growth: with the number of tensors, microbatches and devices;
- peer: FairScale's AdaScale against PyTorch's SGD, on the model of `step`.

It writes `records.jsonl`, prints one table per part, made from the records, and says
which bars are met. Bytes, memory and all-reduces are XLA's account of the compiled
program: the same for every run with the same versions. Times are not.
"""

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from rich.console import Console

import optax_lena
from benchmarks import contenders, cost_report, measure, peer, records, trees
from benchmarks.measure import Measurement

FAKE_DEVICES = "--xla_force_host_platform_device_count"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, writes the records, and prints the tables and the bars."""
    options = _parser().parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "records.jsonl"
    if options.worker:
        make = {"step": devices_step, "growth": devices_growth}[options.worker]
        records.write(make(options.quick), path)
        return
    console = Console()
    measured: list[Measurement] = []
    records.write(measured, path)
    for part in [options.part] if options.part else list(PARTS):
        if part == "peer" and not peer.is_installed():
            console.print(peer.HOW_TO_INSTALL, highlight=False, markup=False)
            continue
        own: list[Measurement] = []
        for measurement in PARTS[part](options.quick):
            line = f"{part}: {measurement.setting}, {measurement.method}"
            console.print(line, style="dim", highlight=False, markup=False)
            own.append(measurement)
        measured += own
        # After every part, so that a part that fails does not take the others along.
        records.write(measured, path)
        console.print(cost_report.table(own))
        console.print()
    for sentence in cost_report.bars(measure.read(path)):
        console.print(f"• {sentence}", highlight=False, markup=False)
    console.print(f"In {options.out}: {path.name}", highlight=False, markup=False)


def update_part(quick: bool) -> Iterable[Measurement]:
    """One update of a real model's parameters, momentum SGD being the yardstick."""
    settings = {"ResNet-50": trees.resnet50, "GPT-2 small": trees.gpt2_small}
    if quick:
        settings = {"3 tensors": lambda: trees.equal(3)}
    for name, make_tree in settings.items():
        tree = make_tree()
        grads = contenders.filled(tree, 1e-3)
        yield from compare(
            Measurement("update", name, "", "SGD", 0, 0),
            [
                contenders.update(method, *optimizer, grads)
                for method, optimizer in contenders.UPDATES.items()
            ],
            contenders.filled(tree, 0.01),
            rounds=2 if quick else 15,
        )


def step_part(quick: bool) -> Iterable[Measurement]:
    """A whole training step, with and without LENA."""
    yield from step_on_one(contenders.task(quick), "step", "SGD", quick)
    if jax.default_backend() == "cpu":
        yield from _on_fake_devices("step", 8, quick)
    elif jax.device_count() > 1:
        yield from devices_step(quick)


def step_on_one(
    work: contenders.Task, part: str, baseline: str, quick: bool
) -> Iterable[Measurement]:
    """On one device: the whole batch at once, and in n microbatches."""
    params, loss, batch = contenders.materialise(work)
    n = work.num_microbatches
    compared = [
        contenders.sgd("SGD, accumulated", contenders.accumulated(loss, n), batch),
        contenders.lena("LENA", optax_lena.value_and_grad(loss, n), n, batch),
    ]
    if baseline == "SGD":
        compared.insert(0, contenders.sgd("SGD", jax.grad(loss), batch))
    template = Measurement(part, work.setting, "", baseline, 0, 0, microbatches=n)
    yield from compare(template, compared, params, rounds=2 if quick else 15)


def devices_step(quick: bool) -> Iterable[Measurement]:
    """Data-parallel under `jax.jit`: the batch is spread over all devices."""
    yield from _data_parallel(contenders.task(quick), "step", quick)


def devices_growth(quick: bool) -> Iterable[Measurement]:
    """The same, as a line of the growth with the number of devices."""
    yield from _data_parallel(contenders.task(quick), "growth", quick)


def _data_parallel(
    work: contenders.Task, part: str, quick: bool
) -> Iterable[Measurement]:
    params, loss, batch = contenders.materialise(work)
    devices, n = jax.device_count(), work.num_microbatches
    mesh = jax.make_mesh((devices,), ("data",), (AxisType.Auto,))
    replicated = NamedSharding(mesh, PartitionSpec())
    batch = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
    gather = optax_lena.value_and_grad(loss, n, axis_name="data")
    template = Measurement(
        part,
        f"{work.setting}, devices = {devices}",
        "",
        "SGD, data parallel",
        0,
        0,
        microbatches=n,
        devices=devices,
    )
    yield from compare(
        template,
        [
            contenders.sgd("SGD, data parallel", jax.grad(loss), batch),
            contenders.lena("LENA, data parallel", gather, n, batch),
        ],
        jax.device_put(params, replicated),
        rounds=2 if quick else 15,
        place=lambda state: jax.device_put(state, replicated),
    )


def growth_part(quick: bool) -> Iterable[Measurement]:
    """With tensors (Adam being the yardstick), microbatches and devices."""
    counts = (3, 6) if quick else (10, 100, 500, 2000)
    settings = {f"{count:,} equal tensors": trees.equal(count) for count in counts}
    if not quick:
        settings["100 unequal tensors"] = trees.unequal(100)
    for name, tree in settings.items():
        grads = contenders.filled(tree, 1e-3)
        yield from compare(
            Measurement("growth", name, "", "Adam", 0, 0),
            [
                contenders.update("SGD", *contenders.UPDATES["SGD"], grads),
                contenders.update("Adam", optax.adam(contenders.RATE), False, grads),
                contenders.update("LENA", *contenders.UPDATES["LENA"], grads),
            ],
            contenders.filled(tree, 0.01),
            rounds=2 if quick else 15,
        )
    for n in (2,) if quick else (2, 4, 8, 16, 32, 64):
        work = dataclasses.replace(contenders.task(quick), num_microbatches=n)
        yield from step_on_one(work, "growth", "SGD, accumulated", quick)
    if jax.default_backend() == "cpu":
        for devices in (2,) if quick else (1, 2, 8):
            yield from _on_fake_devices("growth", devices, quick)


def peer_part(quick: bool) -> Iterable[Measurement]:
    """FairScale's AdaScale against PyTorch's SGD, and LENA against optax's.

    Both accumulate the gradients of n microbatches; each library is measured against
    its own SGD, because what is compared is what the method adds.
    """
    work, rounds = contenders.conv_net(32 if quick else 1024), 2 if quick else 15
    batch_size, n = work.batch_size, work.num_microbatches
    calls, size, tensors = peer.steps(*contenders.CONV_NET, batch_size, n)
    for name, fields in measure.take_turns(calls, "torch SGD", rounds).items():
        yield Measurement(
            "peer",
            f"PyTorch: {work.setting}",
            name,
            "torch SGD",
            size,
            tensors,
            microbatches=n,
            environment=peer.environment() | measure.environment(),
            **fields,
        )
    yield from step_on_one(work, "peer", "SGD, accumulated", quick)


PARTS: dict[str, Callable[[bool], Iterable[Measurement]]] = {
    "update": update_part,
    "step": step_part,
    "growth": growth_part,
    "peer": peer_part,
}


def compare(
    template: Measurement,
    compared: Sequence[contenders.Contender],
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
        environment=measure.environment(),
    )
    jax.jit(jnp.negative)(1.0)  # what a process compiles first pays for the start
    analyses, calls, held = {}, {}, [params]
    for contender in compared:
        state = place(jax.jit(contender.init)(params))
        jitted = jax.jit(contender.step, donate_argnums=(0, 1))
        compiled, analyses[contender.name] = measure.compile_timed(
            jitted, params, state, *contender.inputs
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


def _on_fake_devices(part: str, devices: int, quick: bool) -> list[Measurement]:
    """Runs a part's data-parallel half where the CPU passes for several devices.

    JAX fixes the number of devices when it starts, hence a process of its own.
    """
    flags = f"{os.environ.get('XLA_FLAGS', '')} {FAKE_DEVICES}={devices}"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.cost", "--worker", part]
        command += ["--out", folder] + ["--quick"] * quick
        env = os.environ | {"XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"}
        subprocess.run(command, env=env, check=True)
        return measure.read(Path(folder) / "records.jsonl")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=PARTS, help="one part only")
    parser.add_argument("--out", type=Path, default=Path("results/cost"))
    parser.add_argument("--quick", action="store_true", help="for tests: tiny settings")
    parser.add_argument("--worker", choices=("step", "growth"), help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
