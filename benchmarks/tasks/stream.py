"""Streams: which example comes when. The same seed gives the same order."""

import numpy as np


def index_stream(num_examples: int, seed: int, start: int, stop: int) -> np.ndarray:
    """Returns positions start to stop of an endless stream of permutations.

    One permutation of the examples follows the other, so that no example is lost at an
    epoch's end whatever the batch. Any stretch can be asked for at any time.

    Args:
      num_examples: the length of one permutation.
      seed: of the stream; methods compared with each other share it.
      start: the first position.
      stop: the last position, exclusive.
    """
    epochs = range(start // num_examples, -(-stop // num_examples))
    permutations = [
        np.random.default_rng([seed, epoch]).permutation(num_examples)
        for epoch in epochs
    ]
    offset = epochs.start * num_examples
    stream = np.concatenate(permutations)[start - offset : stop - offset]
    return stream.astype(np.int32)
