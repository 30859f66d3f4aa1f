"""Networks: a Flax model as functions of its parameters, which are a plain pytree."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

# Training examples whose statistics BatchNorm has in an evaluation.
CALIBRATION = 1024
EVAL_BATCH = 250


@dataclasses.dataclass(frozen=True)
class Network:
    """What a model is beside its parameters.

    Attributes:
      graphdef: its structure, as `nnx.split` returns it.
      rest: its other variables, the same for every seed.
      has_statistics: whether BatchNorm keeps any.
    """

    graphdef: Any
    rest: Any
    has_statistics: bool

    def logits(self, params: Any, x: jax.Array) -> jax.Array:
        """Of a batch in training."""
        return self._model(params)(x)

    def predict(self, params: Any, x: jax.Array, x_train: jax.Array) -> jax.Array:
        """Logits for an evaluation, with statistics of some training examples."""
        model = self._model(params)
        if self.has_statistics:
            model(x_train[:CALIBRATION])
        model.eval()
        # In parts that fit a CPU's cache: twice as fast as all at once.
        return jax.lax.map(lambda each: model(each[None])[0], x, batch_size=EVAL_BATCH)

    def _model(self, params: Any) -> Any:
        # A copy: nnx does not let a trace mutate variables of an outer one.
        model = nnx.merge(self.graphdef, params, self.rest, copy=True)
        model.train()
        return model


def initialise(
    make_model: Callable[[nnx.Rngs], nnx.Module], seeds: Sequence[int]
) -> tuple[Network, Any]:
    """Returns the network, and parameters stacked over seeds.

    Args:
      make_model: as `Workload` has it.
      seeds: one for each set of parameters.
    """

    def initial(key: jax.Array) -> tuple[Any, Any]:
        _, params, rest = nnx.split(make_model(nnx.Rngs(key)), nnx.Param, ...)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(rest)

    abstract = nnx.eval_shape(lambda: make_model(nnx.Rngs(0)))
    graphdef, _, statistics, _ = nnx.split(abstract, nnx.Param, nnx.BatchStat, ...)
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds))
    params, rest = jax.jit(jax.vmap(initial))(keys)
    rest = jax.tree.map(lambda leaf: leaf[0], rest)
    return Network(graphdef, rest, bool(statistics)), params
