"""A loss of an nnx model as a pure function, and what the loss changes in the model.

In: the loss, the model and further arguments, which may hold modules and `nnx.Rngs`.
Out: a function of the parameters and a microbatch, for `optax_lena.value_and_grad`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.interpreters import partial_eval

from optax_lena._gather import outputs
from optax_lena._gather.call import fold_in
from optax_lena._measure.parameters import parameter_names
from optax_lena._types import PyTree
from optax_lena.flax._passed_on import source

_NODE = object()  # where an argument holds a module or nnx.Rngs


class _Variables(NamedTuple):
    """What the loss may change: all variables but the parameters and the random keys.

    Keys differ between microbatches, and stay as they are.

    Attributes:
      rest: variables of the model.
      node_rest: variables of modules among the further arguments.
      counts: how many numbers the random streams of the model have drawn.
      node_counts: the same for the further arguments.
    """

    rest: Any
    node_rest: Any
    counts: Any
    node_counts: Any


class Same(NamedTuple):
    """The variables that change in the same way in every microbatch, or not at all.

    Attributes:
      values: the new value of each such variable, and None for every other one.
      structure: the structure of `_Variables`, whose leaves these are.
    """

    values: list[Any]
    structure: jax.tree_util.PyTreeDef

    def changing(self) -> list[bool]:
        """Says of each variable whether it differs between microbatches."""
        return [value is None for value in self.values]


class PureLoss:
    """The loss as a pure function of the parameters, with all that it may change."""

    def __init__(
        self,
        loss_fn: Callable[..., Any],
        has_aux: bool,
        wrt: Any,
        model: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        gives_key: bool,
    ):
        self.loss_fn, self.has_aux, self.wrt = loss_fn, has_aux, wrt
        self.gives_key = gives_key
        leaves, self.treedef = jax.tree.flatten((args, kwargs), is_leaf=_is_node)
        self.others = [_NODE if _is_node(leaf) else leaf for leaf in leaves]
        self.model, self.nodes = model, [leaf for leaf in leaves if _is_node(leaf)]
        self.graphdef, self.params, self.rngs, self.rest = nnx.split(
            model, wrt, nnx.RngState, ...
        )
        if not jax.tree.leaves(self.params):
            raise ValueError(
                "`model` must be an nnx.Module with variables that `wrt` selects "
                f"({wrt!r}), got none in {model!r}."
            )
        _check_no_part_of(model, self.nodes)
        self.nodes_def, self.node_rngs, self.node_rest = nnx.split(
            self.nodes, nnx.RngState, ...
        )

    def __call__(
        self,
        params: Any,
        microbatch: PyTree,
        *,
        key: jax.Array,
        changing: Sequence[bool],
    ) -> tuple[jax.Array, Any]:
        """Returns the loss, and `(aux, changed variables)`."""
        loss, aux, variables, _ = self._run(params, microbatch, key)
        leaves = jax.tree.leaves(variables)
        changed = [x for x, changes in zip(leaves, changing, strict=True) if changes]
        return loss, (aux, changed)

    def _run(
        self, params: Any, microbatch: PyTree, key: jax.Array
    ) -> tuple[jax.Array, Any, _Variables, Any]:
        """Returns the loss, auxiliary data, all other variables, and the parameters."""
        number = jax.random.bits(key)
        # Copies: nnx does not let the loss mutate variables of an outer trace.
        model = nnx.merge(
            self.graphdef, params, fold_in(self.rngs, number), self.rest, copy=True
        )
        nodes = nnx.merge(
            self.nodes_def, fold_in(self.node_rngs, number), self.node_rest, copy=True
        )
        merged = iter(nodes)
        others = fold_in(self.others, number)
        leaves = [next(merged) if leaf is _NODE else leaf for leaf in others]
        args, kwargs = jax.tree.unflatten(self.treedef, leaves)
        if self.gives_key:
            kwargs = kwargs | {"key": key}
        out = self.loss_fn(model, microbatch, *args, **kwargs)
        loss, aux = out if self.has_aux else (out, None)
        _, after, rngs, rest = nnx.split(model, self.wrt, nnx.RngState, ...)
        _, node_rngs, node_rest = nnx.split(nodes, nnx.RngState, ...)
        counts, node_counts = (
            nnx.filter_state(x, nnx.RngCount) for x in (rngs, node_rngs)
        )
        return loss, aux, _Variables(rest, node_rest, counts, node_counts), after

    def random_states(self) -> tuple[Any, Any]:
        """Returns the random streams of the model, and of the further arguments."""
        return self.rngs, self.node_rngs

    def same_in_every_microbatch(self, batch: PyTree, count: int) -> Same:
        """Computes the variables that do not depend on examples.

        Which those are is read from the traced program: a value is the same in every
        microbatch if neither examples nor keys enter its computation.

        Args:
          batch: the whole batch, of which a microbatch is a part.
          count: how many microbatches the batch is.

        Returns:
          The new value of each such variable, and None for every other one.
        """
        traced, structure, batch = self._traced(batch, count)
        inputs = (self.params, batch, jax.random.key(0))
        leaves, starts = jax.tree.leaves(inputs), len(jax.tree.leaves(self.params))
        # Equations that only print or call back would keep their inputs in use.
        pure = [eqn for eqn in traced.jaxpr.eqns if eqn.outvars or not eqn.effects]
        jaxpr = traced.jaxpr.replace(eqns=pure, effects=set())
        num_all, num_values = len(jaxpr.outvars), structure.num_leaves
        self._check_params(jaxpr, num_values)
        is_same = []
        for i in range(num_values):
            _, used = partial_eval.dce_jaxpr(jaxpr, [i == j for j in range(num_all)])
            is_same.append(not any(used[starts:]))
        needed = is_same + [False] * (num_all - num_values)
        program, used = partial_eval.dce_jaxpr(jaxpr, needed)
        given = [x for x, is_used in zip(leaves, used, strict=True) if is_used]
        values = iter(jax.core.eval_jaxpr(program, traced.consts, *given))
        variables = jax.tree.unflatten(structure, traced.out_avals[:num_values])
        _check_can_be_combined(variables, is_same, batch)
        return Same([next(values) if same else None for same in is_same], structure)

    def _traced(
        self, batch: PyTree, count: int
    ) -> tuple[Any, jax.tree_util.PyTreeDef, PyTree]:
        """Returns the traced program, the structure of the variables, and the examples.

        The program returns the values of other variables, then the parameters. The
        examples are those that it was traced with.
        """

        def trace(examples: PyTree) -> tuple[Any, jax.tree_util.PyTreeDef, PyTree]:
            run = jax.make_jaxpr(lambda *x: self._run(*x)[2:], return_shape=True)
            program, shapes = run(self.params, examples, jax.random.key(0))
            return program, jax.tree.structure(shapes[0]), examples

        try:  # as many as a microbatch has, which the loss may rely on
            return trace(jax.tree.map(lambda x: x[: len(x) // count], batch))
        except Exception:
            # A few rows may not divide over the devices that the loss uses.
            pass
        return trace(batch)

    def _check_params(self, jaxpr: Any, first: int) -> None:
        """Raises a `ValueError` for a parameter that the loss changes.

        Args:
          jaxpr: the traced program.
          first: the index of the first parameter among its outputs.
        """
        after, names = jaxpr.outvars[first:], parameter_names(self.params)
        for name, before, now in zip(names, jaxpr.invars, after, strict=False):
            if source(jaxpr, now) is not before:
                raise ValueError(
                    f"The loss must not change the variable {name!r}, a parameter that "
                    f"`wrt` selects ({self.wrt!r}): the optimizer updates those, "
                    "and what the loss writes would be lost. Keep it in a variable of "
                    "another type, such as nnx.BatchStat, or return it as auxiliary "
                    "data."
                )

    def write(self, same: Same, changed: list[Any]) -> None:
        """Writes the new values into the model, and into nodes among the arguments."""
        new = iter(changed)
        leaves = [next(new) if value is None else value for value in same.values]
        variables = jax.tree.unflatten(same.structure, leaves)
        nnx.update(self.model, variables.rest, variables.counts)
        nnx.update(self.nodes, variables.node_rest, variables.node_counts)


def _is_node(x: Any) -> bool:
    return isinstance(x, (nnx.Module, nnx.Rngs, nnx.Variable))


def _check_can_be_combined(
    variables: _Variables, is_same: Sequence[bool], batch: PyTree
) -> None:
    """Raises a `ValueError` for a variable of which microbatches have several values.

    Unless these can be averaged, or joined along their first axis.

    Args:
      variables: their types.
      is_same: for each variable, whether it is the same in every microbatch.
      batch: the examples that the loss was traced with.
    """
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(batch)}
    avals = jax.tree.leaves(variables)
    names = parameter_names(tuple(variables))
    for name, aval, same in zip(names, avals, is_same, strict=True):
        is_joined = aval.shape[:1] in sizes and aval.shape
        if not same and not outputs.is_float(aval) and not is_joined:
            raise ValueError(
                f"The loss must not change the variable {name!r}, of dtype "
                f"{aval.dtype}, in a way that depends on the examples: every "
                "microbatch has a value of its own, and only floating-point ones "
                "can be averaged. Return it as auxiliary data."
            )


def _check_no_part_of(model: Any, nodes: list[Any]) -> None:
    """Raises a `ValueError` for an argument that shares variables with the model.

    The loss would get copies of them, and what it does with these would be missing in
    the gradient. Random streams may be shared: every microbatch has keys of its own.
    """
    own, others = (_variables(x) for x in (model, nodes))
    if own & others:
        raise ValueError(
            "The loss must get no part of the model as a further argument, got one "
            f"with {len(own & others)} of its variables: its gradient would be lost. "
            "Reach it through the model."
        )


def _variables(node: Any) -> set[int]:
    return {
        id(x)
        for _, x in nnx.iter_graph(node)
        if isinstance(x, nnx.Variable) and not isinstance(x, nnx.RngState)
    }
