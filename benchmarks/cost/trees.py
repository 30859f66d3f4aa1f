"""Trees: the shapes of real models' parameters, without the models.

Out: a pytree of `jax.ShapeDtypeStruct` in float32.
"""

from typing import Any

import jax
import jax.numpy as jnp


def resnet50_shapes() -> Any:
    """ResNet-50 for ImageNet: 161 tensors, 25.6 million numbers."""
    tree: dict[str, Any] = {}
    width = 64

    def convolution(name: str, size: int, inputs: int, outputs: int) -> None:
        tree[f"{name}/conv"] = {"kernel": (size, size, inputs, outputs)}
        tree[f"{name}/norm"] = {"scale": (outputs,), "bias": (outputs,)}

    convolution("stem", 7, 3, width)
    for stage, (blocks, inner) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)]):
        for block in range(blocks):
            name = f"stage{stage}/block{block}"
            convolution(f"{name}/a", 1, width, inner)
            convolution(f"{name}/b", 3, inner, inner)
            convolution(f"{name}/c", 1, inner, 4 * inner)
            if block == 0:
                convolution(f"{name}/shortcut", 1, width, 4 * inner)
            width = 4 * inner
    tree["head"] = {"kernel": (width, 1000), "bias": (1000,)}
    return _to_shapes(tree)


def gpt2_small_shapes() -> Any:
    """GPT-2 small, its head tied to its embedding: 148 tensors, 124.4 million."""
    width = 768
    norm = {"scale": (width,), "bias": (width,)}

    def dense(inputs: int, outputs: int) -> dict[str, Any]:
        return {"kernel": (inputs, outputs), "bias": (outputs,)}

    block = {
        "norm1": norm,
        "attention": dense(width, 3 * width),
        "projection": dense(width, width),
        "norm2": norm,
        "mlp_in": dense(width, 4 * width),
        "mlp_out": dense(4 * width, width),
    }
    tree: dict[str, Any] = {f"block{i:02}": block for i in range(12)}
    tree |= {"tokens": (50257, width), "positions": (1024, width), "norm": norm}
    return _to_shapes(tree)


def equal_shapes(tensors: int) -> Any:
    """As many tensors, all 32 x 32."""
    return _to_shapes({f"layer{i:04}": (32, 32) for i in range(tensors)})


def unequal_shapes(tensors: int) -> Any:
    """As many tensors, no two of one shape."""
    return _to_shapes({f"layer{i:04}": (32, 8 + i) for i in range(tensors)})


def size(tree: Any) -> int:
    """How many numbers a tree holds."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _to_shapes(tree: Any) -> Any:
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        tree,
        is_leaf=lambda x: isinstance(x, tuple),
    )
