"""Jobs: the models whose whole training steps are measured, and their data."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from benchmarks.tasks.convnet import ConvNet
from benchmarks.tasks.resnet import group_norm, resnet18


@dataclasses.dataclass(frozen=True)
class Job:
    """A model to train, and how much data a step takes.

    Attributes:
      name: for people.
      make_model: makes the model of a seed.
      shape: of an example.
      num_classes: number of logits.
      batch_size: of the whole batch.
      num_microbatches: n.
    """

    name: str
    make_model: Callable[[nnx.Rngs], nnx.Module]
    shape: tuple[int, ...]
    num_classes: int
    batch_size: int
    num_microbatches: int

    @property
    def setting(self) -> str:
        """Names it, for a table."""
        return f"{self.name}, batch {self.batch_size}, n = {self.num_microbatches}"


# An image's shape, the number of classes, and the small network's channels and width.
CONV_NET = SHAPE, CLASSES, CHANNELS, WIDTH = (32, 32, 3), 100, (32, 64), 256


def job_here(quick: bool) -> Job:
    """A small convolutional network; on a GPU ResNet-18 at a batch of 1024."""
    if jax.default_backend() == "gpu" and not quick:
        # With GroupNorm a step has no state but the optimizer's.
        def resnet(rngs: nnx.Rngs) -> nnx.Module:
            return resnet18(SHAPE, CLASSES, norm=group_norm, rngs=rngs)

        return Job("ResNet-18", resnet, SHAPE, CLASSES, 1024, 8)

    return conv_net(32 if quick else 1024)


def conv_net(batch_size: int) -> Job:
    """The small convolutional network, which the peer has as well."""

    def make(rngs: nnx.Rngs) -> nnx.Module:
        return ConvNet(SHAPE, CLASSES, rngs=rngs, channels=CHANNELS, width=WIDTH)

    return Job("ConvNet", make, SHAPE, CLASSES, batch_size, 8)


def perceptron(
    width: int, batch_size: int
) -> tuple[Any, Callable[..., jax.Array], Any]:
    """Six square layers, which FSDP can shard: what `materialise` returns of a job."""
    rng = np.random.default_rng(0)
    shape = (width, width)
    params = {
        f"layer{i}": rng.standard_normal(shape, np.float32) / np.sqrt(width)
        for i in range(6)
    }

    def loss(params: Any, batch: jax.Array) -> jax.Array:
        for kernel in params.values():
            batch = jnp.tanh(batch @ kernel)
        return jnp.mean(batch**2)

    batch = rng.standard_normal((batch_size, width), np.float32)
    return params, loss, jnp.asarray(batch)


def materialise(job: Job) -> tuple[Any, Callable[..., jax.Array], Any]:
    """Returns a job's parameters, the loss `loss(params, batch)`, and a batch."""
    graphdef, state = nnx.split(job.make_model(nnx.Rngs(0)), nnx.Param)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((job.batch_size, *job.shape), np.float32)
    y = rng.integers(0, job.num_classes, job.batch_size, np.int32)

    def loss(params: Any, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        logits = nnx.merge(graphdef, params)(batch[0])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch[1])
        return losses.mean()

    return nnx.to_pure_dict(state), loss, (jnp.asarray(x), jnp.asarray(y))
