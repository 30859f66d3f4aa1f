"""Residual networks (He et al., 2016): a small one for a CPU, ResNet-18, ResNet-50.

In: a batch of images. Out: logits `(batch, classes)`. The variants for small images:
a 3 x 3 convolution first, and no pooling before the last layer.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
from flax import nnx

from benchmarks.tasks.convnet import PatchConv

Make = Callable[..., Any]


def batch_norm(features: int, *, rngs: nnx.Rngs) -> nnx.BatchNorm:
    """Normalises over each microbatch; for evaluation, as its last batch was.

    It keeps no moving average, whose horizon would count updates and therefore depend
    on S: the training loop shows the model a fixed part of the training set before an
    evaluation.
    """
    return nnx.BatchNorm(features, momentum=0.0, rngs=rngs)


def group_norm(features: int, *, rngs: nnx.Rngs) -> nnx.GroupNorm:
    """Normalises each example over groups of four channels."""
    return nnx.GroupNorm(features, num_groups=features // 4, rngs=rngs)


def full_conv(
    in_channels: int, out_channels: int, *, size: int, stride: int, rngs: nnx.Rngs
) -> nnx.Conv:
    """XLA's own convolution, with `PatchConv`'s initial kernel: for an accelerator."""
    return nnx.Conv(
        in_channels,
        out_channels,
        (size, size),
        stride,
        use_bias=False,
        kernel_init=nnx.initializers.he_normal(),
        rngs=rngs,
    )


class Block(nnx.Module):
    """Two convolutions beside a shortcut.

    Args:
      width: channels before.
      channels: of the convolutions; after the block `expansion` times as many.
      stride: of the block.
      norm: as of `ResNet`.
      conv: as of `ResNet`.
      norm_shortcuts: as of `ResNet`.
      rngs: of the initial parameters.
    """

    expansion: ClassVar[int] = 1

    def __init__(
        self,
        width: int,
        channels: int,
        stride: int,
        *,
        norm: Make,
        conv: Make,
        norm_shortcuts: bool,
        rngs: nnx.Rngs,
    ):
        # A seed's parameters depend on this order: recorded runs need it.
        self.conv1 = conv(width, channels, size=3, stride=stride, rngs=rngs)
        self.norm1 = norm(channels, rngs=rngs)
        self.conv2 = conv(channels, channels, size=3, stride=1, rngs=rngs)
        self.norm2 = norm(channels, rngs=rngs)
        shortcut = _shortcut(width, channels, stride, norm, conv, norm_shortcuts, rngs)
        self.shortcut = nnx.data(shortcut)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = nnx.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return nnx.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class Bottleneck(nnx.Module):
    """Convolutions of 1, 3 and 1 beside a shortcut, the last with four times as many.

    Args:
      width: channels before.
      channels: of the first two convolutions.
      stride: of the second convolution.
      norm: as of `ResNet`.
      conv: as of `ResNet`.
      norm_shortcuts: as of `ResNet`.
      rngs: of the initial parameters.
    """

    expansion: ClassVar[int] = 4

    def __init__(
        self,
        width: int,
        channels: int,
        stride: int,
        *,
        norm: Make,
        conv: Make,
        norm_shortcuts: bool,
        rngs: nnx.Rngs,
    ):
        out = channels * self.expansion
        self.conv1 = conv(width, channels, size=1, stride=1, rngs=rngs)
        self.norm1 = norm(channels, rngs=rngs)
        self.conv2 = conv(channels, channels, size=3, stride=stride, rngs=rngs)
        self.norm2 = norm(channels, rngs=rngs)
        self.conv3 = conv(channels, out, size=1, stride=1, rngs=rngs)
        self.norm3 = norm(out, rngs=rngs)
        shortcut = _shortcut(width, out, stride, norm, conv, norm_shortcuts, rngs)
        self.shortcut = nnx.data(shortcut)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = nnx.relu(self.norm1(self.conv1(x)))
        y = nnx.relu(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        return nnx.relu(y + (x if self.shortcut is None else self.shortcut(x)))


def _shortcut(
    width: int,
    out: int,
    stride: int,
    norm: Make,
    conv: Make,
    norm_shortcuts: bool,
    rngs: nnx.Rngs,
) -> Any:
    """A convolution of 1 where shapes differ; None where they do not."""
    if stride == 1 and width == out:
        return None
    project = conv(width, out, size=1, stride=stride, rngs=rngs)
    return nnx.Sequential(project, norm(out, rngs=rngs)) if norm_shortcuts else project


class ResNet(nnx.Module):
    """A residual network; as it stands, one that trains in minutes on a CPU.

    Args:
      shape: `(height, width, channels)` of an image.
      num_classes: number of logits.
      rngs: of the initial parameters.
      channels: of the stages; every stage but the first halves the image.
      blocks: of the stages, how many each.
      stem_stride: of the first convolution.
      first_stride: of the first stage.
      block: `Block` or `Bottleneck`.
      norm: makes a normalisation from a number of channels and `rngs`.
      conv: makes a convolution without bias, called as `PatchConv` is.
      norm_shortcuts: whether a shortcut that convolves is normalised, as in the paper.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        num_classes: int,
        *,
        rngs: nnx.Rngs,
        channels: Sequence[int] = (8, 16, 32),
        blocks: Sequence[int] = (1, 1, 1),
        stem_stride: int = 2,
        first_stride: int = 2,
        block: type[Block] | type[Bottleneck] = Block,
        norm: Make = batch_norm,
        conv: Make = PatchConv,
        norm_shortcuts: bool = False,
    ):
        width = channels[0]
        self.stem = conv(shape[-1], width, size=3, stride=stem_stride, rngs=rngs)
        self.stem_norm = norm(width, rngs=rngs)
        stages: list[Any] = []
        strides = (first_stride, *[2] * (len(channels) - 1))
        for inner, number, stride in zip(channels, blocks, strides, strict=True):
            for each in (stride, *[1] * (number - 1)):
                options = dict(norm=norm, conv=conv, norm_shortcuts=norm_shortcuts)
                stages.append(block(width, inner, each, rngs=rngs, **options))
                width = inner * block.expansion
        self.blocks = nnx.List(stages)
        self.out = nnx.Linear(width, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.stem_norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.out(x.mean((1, 2)))


_full_size = functools.partial(
    ResNet,
    channels=(64, 128, 256, 512),
    stem_stride=1,
    first_stride=1,
    conv=full_conv,
    norm_shortcuts=True,
)
resnet18 = functools.partial(_full_size, blocks=(2, 2, 2, 2))
resnet50 = functools.partial(_full_size, blocks=(3, 4, 6, 3), block=Bottleneck)
