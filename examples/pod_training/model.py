"""A decoder-only transformer over bytes, whose blocks are stacked in one array each.

In: bytes `[examples, context]`. Out: logits of the next one `[..., 256]`, float32.
A scan goes through the blocks, so compile time does not grow with depth; LENA
still has a rate for every block (`optax_lena.stacked`).
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import PartitionSpec as P

import optax_lena
from examples.pod_training import config

BYTES = 256
LAYERS = optax_lena.stacked("blocks/.*")
# First match wins; anything else is whole on every device. The first axis is the block.
SPECS = {
    r"blocks/(attend|widen)/kernel$": P(None, "fsdp", "tensor"),
    r"blocks/(merge|narrow)/kernel$": P(None, "tensor", "fsdp"),
    r"blocks/(attend|widen)/bias$": P(None, "tensor"),
    r"(embed|place)/embedding$": P(None, "fsdp"),
    r"out/kernel$": P("fsdp", "tensor"),
}


class Block(nnx.Module):
    """Causal attention and a perceptron, each behind a norm and beside a shortcut."""

    def __init__(self, options: config.Model, *, rngs: nnx.Rngs):
        """Makes the layers: float32 parameters that compute in another dtype."""
        features, dtype = options.features, jnp.dtype(options.dtype)
        linear = partial(nnx.Linear, dtype=dtype, rngs=rngs)
        norm = partial(nnx.LayerNorm, features, dtype=dtype, rngs=rngs)
        self.heads = options.heads
        self.norm1, self.norm2 = norm(), norm()
        self.attend = linear(features, 3 * features)
        self.merge = linear(features, features)
        self.widen = linear(features, 4 * features)
        self.narrow = linear(4 * features, features)
        self.dropout = nnx.Dropout(options.dropout)

    def __call__(self, x: jax.Array, key: jax.Array, train: bool) -> jax.Array:
        """Returns the positions after this block."""
        drop = partial(self.dropout, deterministic=not train, rngs=nnx.Rngs(key))
        shape = (*x.shape[:-1], 3, self.heads, x.shape[-1] // self.heads)
        parts = self.attend(self.norm1(x)).reshape(shape)
        query, attended, value = jnp.moveaxis(parts, -3, 0)
        seen = jax.nn.dot_product_attention(query, attended, value, is_causal=True)
        x = x + drop(self.merge(seen.reshape(x.shape)))
        return x + drop(self.narrow(nnx.gelu(self.widen(self.norm2(x)))))


class Transformer(nnx.Module):
    """Embeddings, stacked blocks, and the logits."""

    def __init__(self, options: config.Model, *, rngs: nnx.Rngs):
        """Makes one block per slice of the stacked parameters."""
        dtype, width = jnp.dtype(options.dtype), options.features
        small = nnx.initializers.normal(0.02)  # GPT-2's
        embed = partial(nnx.Embed, dtype=dtype, embedding_init=small, rngs=rngs)
        self.embed, self.place = embed(BYTES, width), embed(options.context, width)

        @nnx.split_rngs(splits=options.blocks)
        @nnx.vmap
        def make_blocks(rngs: nnx.Rngs) -> Block:
            return Block(options, rngs=rngs)

        self.blocks = make_blocks(rngs)
        self.norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.out = nnx.Linear(width, BYTES, dtype=dtype, kernel_init=small, rngs=rngs)
        self.depth = options.blocks

    def __call__(self, x: jax.Array, key: jax.Array, train: bool) -> jax.Array:
        """Returns the logits; the key is for dropout."""

        @nnx.scan(in_axes=(nnx.Carry, 0, 0), out_axes=nnx.Carry)
        def forward(x: jax.Array, block: Block, key: jax.Array) -> jax.Array:
            return block(x, key, train)

        y = self.embed(x) + self.place(jnp.arange(x.shape[-1]))[None]
        y = forward(y, self.blocks, jax.random.split(key, self.depth))
        return self.out(self.norm(y)).astype(jnp.float32)


def loss_fn(model: Transformer, batch: dict, key: jax.Array, train: bool) -> jax.Array:
    """Returns the mean cross entropy of the next byte, in nats."""
    logits = model(batch["x"], key, train)
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()
