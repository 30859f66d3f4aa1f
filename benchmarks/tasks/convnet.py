"""A small convolutional network, of convolutions that are fast on a CPU.

In: a batch of images. Out: logits `(batch, classes)`.
"""

import jax
import jax.numpy as jnp
from flax import nnx


class ConvNet(nnx.Module):
    """A convolution on 4 x 4 patches, one of 3 x 3 with stride 2, two dense layers.

    Args:
      shape: `(height, width, channels)` of an image.
      num_classes: number of logits.
      rngs: of the initial parameters.
      channels: of the two convolutions.
      width: of the hidden dense layer.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        num_classes: int,
        *,
        rngs: nnx.Rngs,
        channels: tuple[int, int] = (8, 16),
        width: int = 32,
    ):
        height, image_width, depth = shape
        self.conv1 = PatchConv(
            depth, channels[0], size=4, stride=4, rngs=rngs, use_bias=True
        )
        self.conv2 = PatchConv(*channels, size=3, stride=2, rngs=rngs, use_bias=True)
        flat = -(-height // 8) * -(-image_width // 8) * channels[1]
        self.dense = nnx.Linear(flat, width, rngs=rngs)
        self.out = nnx.Linear(width, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.conv1(x))
        x = nnx.relu(self.conv2(x))
        x = nnx.relu(self.dense(x.reshape(len(x), -1)))
        return self.out(x)


class PatchConv(nnx.Module):
    """A convolution with SAME padding, as patches and one matrix product.

    Inside `lax.scan`, XLA's convolution on CPU is several times slower than this.

    Args:
      in_channels: of the images.
      out_channels: of the result.
      size: of the square window.
      stride: of the window, in both directions.
      rngs: of the initial parameters.
      use_bias: whether a bias is added.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        size: int,
        stride: int,
        rngs: nnx.Rngs,
        use_bias: bool = False,
    ):
        self.size, self.stride = size, stride
        shape = (size, size, in_channels, out_channels)
        init = nnx.initializers.he_normal()
        self.kernel = nnx.Param(init(rngs.params(), shape))
        self.bias = nnx.Param(jnp.zeros(out_channels)) if use_bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.kernel[...]
        windows = patches(x, self.size, self.stride)
        result = windows @ kernel.reshape(-1, kernel.shape[-1])
        if self.bias is None:
            return result
        return result + self.bias[...].reshape(1, 1, 1, -1)


def patches(x: jax.Array, size: int, stride: int) -> jax.Array:
    """Cuts images into windows, with SAME padding.

    Args:
      x: `(batch, height, width, channels)`.
      size: of the square window.
      stride: between windows, in both directions.

    Returns:
      `(batch, ceil(height / stride), ceil(width / stride), size * size * channels)`.
    """
    outs = [-(-length // stride) for length in x.shape[1:3]]
    totals = [
        max((out - 1) * stride + size - length, 0)
        for out, length in zip(outs, x.shape[1:3], strict=True)
    ]
    pads = [(total // 2, total - total // 2) for total in totals]
    x = jnp.pad(x, [(0, 0), *pads, (0, 0)])
    spans = [(out - 1) * stride + 1 for out in outs]
    windows = [
        x[:, i : i + spans[0] : stride, j : j + spans[1] : stride]
        for i in range(size)
        for j in range(size)
    ]
    return jnp.concatenate(windows, axis=-1)
