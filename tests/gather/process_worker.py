"""What every process of a multi-process run executes; see `test_processes.py`."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import optax_lena
from tests import helpers

UPDATES, MICROBATCHES, BATCH, FEATURES = 10, 8, 32, 6


def make_params():
    rng = np.random.default_rng(0)
    shapes = {"bias": (4,), "hidden": (FEATURES, 4), "readout": (4,)}
    return {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def make_batches():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(UPDATES, BATCH, FEATURES)).astype(np.float32)
    y = x.sum(-1) + rng.normal(size=(UPDATES, BATCH)).astype(np.float32)
    return [{"x": x[i], "y": y[i]} for i in range(UPDATES)]


def loss_fn(params, batch):
    hidden = jnp.tanh(batch["x"] @ params["hidden"] + params["bias"][None])
    return jnp.mean((hidden @ params["readout"] - batch["y"]) ** 2)


TX = optax_lena.lena(0.02, batch_scale=MICROBATCHES, warmup_steps=40)


def train(params, batches, axis_name=None, checkpoint=None):
    """Returns the parameters and the optimizer's state after all updates.

    With a folder for a checkpoint, the second half starts from what orbax restored.
    """
    tx = TX
    gather = optax_lena.value_and_grad(loss_fn, MICROBATCHES, axis_name=axis_name)

    @jax.jit
    def update(params, state, batch):
        _, grads, moments = gather(params, batch)
        updates, state = tx.update(grads, state, params, moments=moments)
        return optax.apply_updates(params, updates), state

    state = jax.jit(tx.init)(params)
    for i, batch in enumerate(batches):
        if checkpoint is not None and i == len(batches) // 2:
            params, state = saved_and_restored((params, state), checkpoint)
        params, state = update(params, state, batch)
    return {"params": params, "state": helpers.read_counts(state)}


def saved_and_restored(tree, folder):
    """As docs/distributed.md has it: every process saves and restores its part."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder, tree)
        checkpointer.wait_until_finished()
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
        return checkpointer.restore(folder, shapes)


def gather_over_axis(params, batch, mesh):
    """Returns the mean gradients and moments of one microbatch per device."""

    def on_device(params, batch):
        local = jax.lax.pcast(params, "data", to="varying")
        grads = jax.grad(loss_fn)(local, batch)
        return optax_lena.moments_over_axis(grads, "data")

    specs = dict(in_specs=(PartitionSpec(), PartitionSpec("data")))
    mapped = jax.shard_map(on_device, mesh=mesh, out_specs=PartitionSpec(), **specs)
    grads, moments = jax.jit(mapped)(params, batch)
    return {"grads": grads, **moments._asdict()}


def main(path, port, process_id, num_processes, seed=0):
    jax.distributed.initialize(
        f"127.0.0.1:{port}", num_processes, process_id, initialization_timeout=60
    )
    assert jax.process_count() == num_processes
    optax_lena.assert_same_on_processes(tx=TX, loss_fn=loss_fn, seed=seed)
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    per_process = BATCH // num_processes
    mine = slice(process_id * per_process, (process_id + 1) * per_process)

    def place(tree, spec):
        sharding = NamedSharding(mesh, spec)
        return jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(sharding, x), tree
        )

    own_batches = [{k: v[mine] for k, v in batch.items()} for batch in make_batches()]
    params = place(make_params(), PartitionSpec())
    batches = [place(batch, PartitionSpec("data")) for batch in own_batches]
    checkpoint = pathlib.Path(path).parent / "checkpoint"
    results = {
        "train": train(params, batches, "data"),
        "resumed": train(params, batches, "data", checkpoint),
        "over_axis": gather_over_axis(params, batches[0], mesh),
    }
    leaves = jax.tree_util.tree_leaves_with_path(results)
    np.savez(
        path,
        **{
            jax.tree_util.keystr(key, simple=True, separator="/"): jax.device_get(leaf)
            for key, leaf in leaves
        },
    )


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
