"""Meshes of the eight devices, and one problem that every gatherer can train on them.

A network in which one array stacks two blocks, 8 microbatches an update, 10 updates.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import optax_lena

P = PartitionSpec
MICROBATCHES, SIZE, UPDATES, WIDTH = 8, 4, 10, 16
LAYERS = optax_lena.stacked("blocks/kernel")  # two blocks in one array


def data_mesh(devices):
    kinds, devices = (AxisType.Auto,), jax.devices()[:devices]
    return jax.make_mesh((len(devices),), ("data",), axis_types=kinds, devices=devices)


SPECS = {
    "replicated": lambda leaf: P(),
    "fsdp": lambda leaf: P(*(None,) * max(leaf.ndim - 2, 0), "data"),
    "tensor_parallel": lambda leaf: P(*(None,) * (leaf.ndim - 1), "model"),
}


def laid_out(params, mesh, layout):
    shardings = jax.tree.map(
        lambda leaf: NamedSharding(mesh, SPECS[layout](leaf)), params
    )
    return jax.device_put(params, shardings)


def loss_fn(params, batch):
    x, y = batch
    hidden = jnp.tanh(x @ params["hidden"]["kernel"] + params["hidden"]["bias"][None])
    for block in range(2):
        hidden = jnp.tanh(hidden @ params["blocks"]["kernel"][block])
    out = hidden @ params["out"]["kernel"] + params["out"]["bias"][None]
    return jnp.mean((out - y) ** 2)


def problem(dtype):
    """Returns parameters, and the batches of all updates `[updates, examples, ...]`."""
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape) / 2, dtype)
    params = {
        "hidden": {"kernel": normal(WIDTH, WIDTH), "bias": normal(WIDTH)},
        "blocks": {"kernel": normal(2, WIDTH, WIDTH)},
        "out": {"kernel": normal(WIDTH, 8), "bias": normal(8)},
    }
    examples = MICROBATCHES * SIZE
    return params, (normal(UPDATES, examples, WIDTH), normal(UPDATES, examples, 8))


def in_microbatches(batch):
    return jax.tree.map(lambda x: x.reshape(MICROBATCHES, SIZE, -1), batch)


def optimizer():
    schedule = optax.cosine_decay_schedule(0.05, UPDATES * MICROBATCHES)
    return optax_lena.lena(schedule, warmup_steps=20, weight_decay=1e-3, layers=LAYERS)


def interleaved(batch):
    """Puts the examples of microbatch i at i, i + n, ...: where spread="time" looks."""
    shuffle = lambda x: x.swapaxes(0, 1).reshape(MICROBATCHES * SIZE, -1)
    return jax.tree.map(shuffle, in_microbatches(batch))


def gatherer(num_microbatches=MICROBATCHES, **kwargs):
    return optax_lena.value_and_grad(loss_fn, num_microbatches, layers=LAYERS, **kwargs)


def owned(params, batch, preconditioner=None):
    """Gradients and moments where the library differentiates the loss."""
    gather = gatherer(axis_name="data")
    return gather(params, batch, preconditioner=preconditioner)[1:]


def local_gradients(params, batch, preconditioner=None):
    """Gradients and moments where the user differentiates the loss, on each device."""
    if jax.typeof(jax.lax.axis_index("data")) != jax.typeof(jnp.int32(0)):
        params = jax.lax.pcast(params, "data", to="varying")  # only with check_vma
    grads = jax.grad(loss_fn)(params, batch)
    return optax_lena.moments_over_axis(
        grads, "data", layers=LAYERS, preconditioner=preconditioner
    )


COLLECTIVES = r"all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"


def collectives(step, *args):
    """Returns the collectives in the compiled step, one line of HLO each."""
    text = jax.jit(step).lower(*args).compile().as_text()
    pattern = rf"= .* (?:{COLLECTIVES})(?:-start)?\("
    return [line for line in text.splitlines() if re.search(pattern, line)]


def elements_reduced(lines):
    """Returns how many numbers the all-reduces among the lines carry."""
    shapes = [
        shape
        for line in lines
        if " all-reduce" in line
        for shape in re.findall(r"f32\[([\d,]*)\]", line.split(" all-reduce")[0])
    ]
    return sum(int(np.prod([int(n) for n in s.split(",") if n])) for s in shapes)
