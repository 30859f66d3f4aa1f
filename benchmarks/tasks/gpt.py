"""A small GPT (Radford et al., 2019), which trains in minutes on a CPU.

In: characters `(batch, context)`. Out: at every position the logits of the next one,
`(batch, context, vocabulary)`.
"""

import jax
import jax.numpy as jnp
from flax import nnx


class GPT(nnx.Module):
    """A decoder: a transformer that sees the characters so far.

    Args:
      vocabulary: number of characters.
      context: how many it sees at most.
      rngs: of the initial parameters.
      features: of a position.
      heads: of every attention.
      layers: how many, of attention and perceptron each.
    """

    def __init__(
        self,
        vocabulary: int,
        context: int,
        *,
        rngs: nnx.Rngs,
        features: int = 64,
        heads: int = 4,
        layers: int = 2,
    ):
        # Small, as GPT-2's: the default's deviation of 1 / √features is for one-hots.
        init = nnx.initializers.normal(0.02)
        self.embed = nnx.Embed(vocabulary, features, embedding_init=init, rngs=rngs)
        self.place = nnx.Embed(context, features, embedding_init=init, rngs=rngs)
        self.layers = nnx.List(
            [Layer(features, heads, rngs=rngs) for _ in range(layers)]
        )
        self.norm = nnx.LayerNorm(features, rngs=rngs)
        self.out = nnx.Linear(features, vocabulary, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.embed(x) + self.place(jnp.arange(x.shape[-1]))[None]
        for layer in self.layers:
            y = layer(y)
        return self.out(self.norm(y))


class Layer(nnx.Module):
    """Causal attention, then a perceptron, each behind a LayerNorm, beside a shortcut.

    Args:
      features: of a position.
      heads: of the attention.
      rngs: of the initial parameters.
    """

    def __init__(self, features: int, heads: int, *, rngs: nnx.Rngs):
        self.heads = heads
        self.norm1 = nnx.LayerNorm(features, rngs=rngs)
        self.attend = nnx.Linear(features, 3 * features, rngs=rngs)
        self.merge = nnx.Linear(features, features, rngs=rngs)
        self.norm2 = nnx.LayerNorm(features, rngs=rngs)
        self.widen = nnx.Linear(features, 4 * features, rngs=rngs)
        self.narrow = nnx.Linear(4 * features, features, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        parts = self.attend(self.norm1(x))
        shape = (*x.shape[:-1], 3, self.heads, x.shape[-1] // self.heads)
        query, key, value = jnp.moveaxis(parts.reshape(shape), -3, 0)
        seen = jax.nn.dot_product_attention(query, key, value, is_causal=True)
        x = x + self.merge(seen.reshape(x.shape))
        return x + self.narrow(nnx.gelu(self.widen(self.norm2(x))))
