"""What is trained on what: the one file to replace for a model or data of your own."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from flax import nnx

import optax_lena
from examples.pod_training import data, model
from examples.pod_training.config import Config


class Task(NamedTuple):
    """A model, its loss, and its examples.

    Attributes:
      make_model: makes the model from `rngs=`.
      loss_fn: `loss_fn(model, batch, key, train)`, a mean over the examples.
      layers: which parameters stack several layers.
      specs: how parameters are sharded, by a regular expression of their name.
      train: random-access examples: `len(train)`, and `train.take(rows)`, a dictionary
        of arrays whose first axis is the row.
      test: likewise, and never trained on.
      digest: of the data, to tell a checkpoint that others were used.
    """

    make_model: Callable[..., nnx.Module]
    loss_fn: Callable[..., Any]
    layers: optax_lena.Layers
    specs: dict[str, Any]
    train: Any
    test: Any
    digest: str


def make_task(config: Config) -> Task:
    """Returns the byte-level transformer, and the text."""
    train, test = data.read(config.data)
    context = config.model.context
    return Task(
        make_model=partial(model.Transformer, config.model),
        loss_fn=model.loss_fn,
        layers=model.LAYERS,
        specs=model.SPECS,
        train=data.windows(train, context, config.batch, "the training data"),
        test=data.windows(test, context, config.batch, "the test data"),
        digest=data.digest(train, test),
    )
