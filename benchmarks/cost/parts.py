"""The parts of the cost benchmark: what is measured against what, at which settings.

- update: one update of the parameters of ResNet-50 and of GPT-2 small;
- step: a whole training step, on one device and on eight;
- gather: microbatches spread over devices in space and in time, replicated and FSDP;
- growth: with the number of tensors, microbatches and devices;
- monitor: optimizers behind the monitor against the same ones alone;
- peer: FairScale's AdaScale against PyTorch's SGD, on the model of `step`.
"""

import dataclasses
import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import optax_lena
from benchmarks.cost import contenders, jobs, measure, peer, trees
from benchmarks.cost.compare import compare
from benchmarks.cost.contenders import Contender
from benchmarks.cost.measure import Measurement
from benchmarks.records import files
from benchmarks.records.home import RUN_FILE

FAKE_DEVICES = "--xla_force_host_platform_device_count"


def update_part(quick: bool) -> Iterable[Measurement]:
    """One update of a real model's parameters, momentum SGD being the yardstick."""
    settings = {
        "ResNet-50": trees.resnet50_shapes,
        "GPT-2 small": trees.gpt2_small_shapes,
    }
    if quick:
        settings = {"3 tensors": lambda: trees.equal_shapes(3)}
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
    yield from step_on_one(jobs.job_here(quick), "step", "SGD", quick)
    if jax.default_backend() == "cpu":
        yield from _on_fake_devices("step", 8, quick)
    elif jax.device_count() > 1:
        yield from devices_step(quick)


def step_on_one(
    job: jobs.Job, part: str, baseline: str, quick: bool
) -> Iterable[Measurement]:
    """On one device: the whole batch at once, and in n microbatches."""
    params, loss, batch = jobs.materialise(job)
    n = job.num_microbatches
    compared = [
        contenders.sgd("SGD, accumulated", contenders.accumulated(loss, n), batch),
        contenders.lena("LENA", optax_lena.value_and_grad(loss, n), n, batch),
    ]
    if baseline == "SGD":
        compared.insert(0, contenders.sgd("SGD", jax.grad(loss), batch))
    template = Measurement(part, job.setting, "", baseline, 0, 0, microbatches=n)
    yield from compare(template, compared, params, rounds=2 if quick else 15)


def devices_step(quick: bool) -> Iterable[Measurement]:
    """Data-parallel under `jax.jit`: the batch is spread over all devices."""
    yield from _data_parallel(jobs.job_here(quick), "step", quick)


def devices_growth(quick: bool) -> Iterable[Measurement]:
    """The same, as a line of the growth with the number of devices."""
    yield from _data_parallel(jobs.job_here(quick), "growth", quick)


def _data_parallel(
    job: jobs.Job, part: str, quick: bool, watched: str = ""
) -> Iterable[Measurement]:
    """SGD against LENA, or against SGD behind the monitor where that has a name."""
    params, loss, batch = jobs.materialise(job)
    devices, n = jax.device_count(), job.num_microbatches
    mesh = jax.make_mesh((devices,), ("data",), (AxisType.Auto,))
    replicated = NamedSharding(mesh, PartitionSpec())
    batch = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
    gather = optax_lena.value_and_grad(loss, n, axis_name="data")
    template = Measurement(
        part,
        f"{job.setting}, devices = {devices}",
        "",
        "SGD, data parallel",
        0,
        0,
        microbatches=n,
        devices=devices,
    )
    other = contenders.lena("LENA, data parallel", gather, n, batch)
    if watched:
        tx = contenders.monitored("SGD")
        other = contenders.gathered(watched, tx, gather, batch)
    yield from compare(
        template,
        [contenders.sgd("SGD, data parallel", jax.grad(loss), batch), other],
        jax.device_put(params, replicated),
        rounds=2 if quick else 15,
        place=lambda state: jax.device_put(state, replicated),
    )


def gather_part(quick: bool) -> Iterable[Measurement]:
    """Microbatches spread over eight devices, in space and in time."""
    if jax.default_backend() == "cpu":
        yield from _on_fake_devices("gather", 8, quick)
    elif jax.device_count() > 1:
        yield from devices_gather(quick)


def devices_gather(quick: bool) -> Iterable[Measurement]:
    """Data parallel and FSDP, for several numbers of microbatches."""
    mesh = jax.make_mesh((jax.device_count(),), ("data",), (AxisType.Auto,))
    over_data = NamedSharding(mesh, PartitionSpec("data"))
    layouts = {"data parallel": NamedSharding(mesh, PartitionSpec()), "FSDP": over_data}
    for name, sharding in layouts.items():
        for n in (8,) if quick else (2, 4, 8):
            # Anew, because a comparison uses its parameters up.
            params, loss, batch = jobs.perceptron(
                32 if quick else 512, 128 if quick else 2048
            )
            batch = jax.device_put(batch, over_data)
            yield from compare(
                Measurement(
                    "gather",
                    f"{name}, n = {n}",
                    "",
                    "SGD",
                    0,
                    0,
                    microbatches=n,
                    devices=jax.device_count(),
                ),
                _gathered(loss, n, batch),
                jax.device_put(params, sharding),
                rounds=2 if quick else 15,
                place=functools.partial(_placed, sharding=sharding),
            )


def _placed(state: Any, sharding: NamedSharding) -> Any:
    """Momentum lies like the parameters, LENA's numbers on every device."""
    replicated = NamedSharding(sharding.mesh, PartitionSpec())
    is_large = lambda x: x.size > 10_000  # noqa: E731
    return jax.tree.map(
        lambda x: jax.device_put(x, sharding if is_large(x) else replicated), state
    )


def _gathered(loss: Callable[..., jax.Array], n: int, batch: Any) -> list[Contender]:
    compared = [contenders.sgd("SGD", jax.grad(loss), batch)]
    # In space every device needs a microbatch of its own.
    for spread in ("space", "time") if n % jax.device_count() == 0 else ("time",):
        gather = optax_lena.value_and_grad(loss, n, axis_name="data", spread=spread)
        compared.append(contenders.lena(f"LENA, in {spread}", gather, n, batch))
    return compared


def growth_part(quick: bool) -> Iterable[Measurement]:
    """With tensors (Adam being the yardstick), microbatches and devices."""
    counts = (3, 6) if quick else (10, 100, 500, 2000)
    settings = {
        f"{count:,} equal tensors": trees.equal_shapes(count) for count in counts
    }
    if not quick:
        settings["100 unequal tensors"] = trees.unequal_shapes(100)
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
        job = dataclasses.replace(jobs.job_here(quick), num_microbatches=n)
        yield from step_on_one(job, "growth", "SGD, accumulated", quick)
    if jax.default_backend() == "cpu":
        for devices in (2,) if quick else (1, 2, 8):
            yield from _on_fake_devices("growth", devices, quick)


def monitor_part(quick: bool) -> Iterable[Measurement]:
    """Optimizers behind the monitor: an update, and a step on several devices."""
    tree = trees.equal_shapes(3) if quick else trees.resnet50_shapes()
    for name in ("SGD", "AdamW"):
        grads = contenders.filled(tree, 1e-3)
        setting = f"{'3 tensors' if quick else 'ResNet-50'}, {name}"
        yield from compare(
            Measurement("monitor", setting, "", name, 0, 0),
            [
                contenders.update(name, *contenders.UPDATES[name], grads),
                contenders.update(
                    f"{name}, monitored", contenders.monitored(name), True, grads
                ),
            ],
            contenders.filled(tree, 0.01),
            rounds=2 if quick else 15,
        )
    if jax.default_backend() == "cpu":
        yield from _on_fake_devices("monitor", 8, quick)
    elif jax.device_count() > 1:
        yield from devices_monitor(quick)


def devices_monitor(quick: bool) -> Iterable[Measurement]:
    """Data-parallel SGD behind the monitor."""
    watched = "SGD, monitored, data parallel"
    yield from _data_parallel(jobs.job_here(quick), "monitor", quick, watched)


def peer_part(quick: bool) -> Iterable[Measurement]:
    """FairScale's AdaScale against PyTorch's SGD, and LENA against optax's.

    Both accumulate the gradients of n microbatches; each library is measured against
    its own SGD, because what is compared is what the method adds.
    """
    job, rounds = jobs.conv_net(32 if quick else 1024), 2 if quick else 15
    batch_size, n = job.batch_size, job.num_microbatches
    calls, size, tensors = peer.steps(*jobs.CONV_NET, batch_size, n)
    for name, fields in measure.take_turns(calls, "torch SGD", rounds).items():
        yield Measurement(
            "peer",
            f"PyTorch: {job.setting}",
            name,
            "torch SGD",
            size,
            tensors,
            microbatches=n,
            environment=peer.versions() | measure.where(),
            **fields,
        )
    yield from step_on_one(job, "peer", "SGD, accumulated", quick)


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
        return files.read(Path(folder) / RUN_FILE, Measurement)


PARTS: dict[str, Callable[[bool], Iterable[Measurement]]] = {
    "update": update_part,
    "step": step_part,
    "gather": gather_part,
    "growth": growth_part,
    "monitor": monitor_part,
    "peer": peer_part,
}
# What a process of its own measures, where the CPU passes for several devices.
WORKERS = {
    "step": devices_step,
    "gather": devices_gather,
    "growth": devices_growth,
    "monitor": devices_monitor,
}
