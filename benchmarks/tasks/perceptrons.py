"""Perceptrons: on vectors, and on the characters before the next one.

In: a batch of examples. Out: logits `(batch, classes)`.
"""

from collections.abc import Sequence

import jax
from flax import nnx


class MLP(nnx.Module):
    """A perceptron with ReLU between its layers.

    Args:
      sizes: width of the input, of every hidden layer, and of the output.
      rngs: of the initial parameters.
    """

    def __init__(self, sizes: Sequence[int], *, rngs: nnx.Rngs):
        *hidden, last = zip(sizes[:-1], sizes[1:], strict=True)
        self.hidden = nnx.List([nnx.Linear(*pair, rngs=rngs) for pair in hidden])
        self.out = nnx.Linear(*last, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.hidden:
            x = nnx.relu(layer(x))
        return self.out(x)


class CharMLP(nnx.Module):
    """Predicts the next character from those before it: embeddings into a perceptron.

    Args:
      vocabulary: number of characters.
      context: how many characters it sees.
      rngs: of the initial parameters.
      features: of one character's embedding.
      hidden: widths of the hidden layers.
    """

    def __init__(
        self,
        vocabulary: int,
        context: int,
        *,
        rngs: nnx.Rngs,
        features: int = 16,
        hidden: Sequence[int] = (128, 128),
    ):
        self.embed = nnx.Embed(vocabulary, features, rngs=rngs)
        self.mlp = MLP((context * features, *hidden, vocabulary), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.mlp(self.embed(x).reshape(len(x), -1))
