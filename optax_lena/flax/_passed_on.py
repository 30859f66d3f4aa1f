"""What a program passes on: which of its inputs comes out unchanged as an output.

In: a program (a jaxpr) and one of its outputs. Out: the input that it passes on there,
through whatever loops, branches and calls; or what it computes in that place.
"""

from collections.abc import Mapping, Sequence
from typing import Any


def source(jaxpr: Any, var: Any) -> Any:
    """Follows a variable back to its source, through equations that pass it on.

    Args:
      jaxpr: the program.
      var: one of its outputs, or another of its variables.

    Returns:
      An input, or the variable that an equation computes and does not pass on.
    """
    eqn = _maker(jaxpr, var)
    if eqn is None:
        return var
    if eqn.primitive.name == "transpose":
        given = _untransposed(jaxpr, eqn)
    else:
        given = _given(eqn, [out is var for out in eqn.outvars].index(True))
    return var if given is None else source(jaxpr, given)


def _maker(jaxpr: Any, var: Any) -> Any:
    """Returns the equation that computes a variable; None for an input."""
    return next((e for e in jaxpr.eqns if any(out is var for out in e.outvars)), None)


def _untransposed(jaxpr: Any, eqn: Any) -> Any:
    """Returns what a transposition restores, if it undoes another; None if not.

    A loop over another axis than the first moves the axis there and back.
    """
    before = _maker(jaxpr, source(jaxpr, eqn.invars[0]))
    if before is None or before.primitive.name != "transpose":
        return None
    there, back = (e.params["permutation"] for e in (before, eqn))
    is_back = all(there[axis] == i for i, axis in enumerate(back))
    return before.invars[0] if is_back else None


def _given(eqn: Any, place: int) -> Any:
    """Returns the input that an equation passes on as this output; None if none is.

    nnx's loops, branches, `nnx.jit` and `nnx.remat` return every variable that they
    get.
    """
    name, params = eqn.primitive.name, eqn.params
    if name == "cond":  # the same in every branch
        given = [
            _passed_on(branch, eqn.invars[1:], place) for branch in params["branches"]
        ]
        return given[0] if all(x is given[0] for x in given) else None
    if name == "scan":
        num_consts, num_carry = _counts(params)
        given = _passed_on(params["jaxpr"], range(len(eqn.invars)), place)
        # A carry in its own place, or a stack of what iterations took from a stack.
        is_same = given is not None and (
            given >= num_consts + num_carry
            if place >= num_carry
            else given == num_consts + place
        )
        return eqn.invars[given] if is_same else None
    if name == "while":
        inputs = eqn.invars[params["cond_nconsts"] :]
        given = _passed_on(params["body_jaxpr"], range(len(inputs)), place)
        return inputs[given] if given == params["body_nconsts"] + place else None
    inner = params.get("jaxpr", params.get("call_jaxpr"))
    return None if inner is None else _passed_on(inner, eqn.invars, place)


def _counts(params: Mapping[str, Any]) -> tuple[int, int]:
    """Returns how many constants and carries a scan has."""
    if "num_carry" in params:
        return params["num_consts"], params["num_carry"]
    consts, carries, _ = params["ft_in"].unpack()  # jax >= 0.12
    return len(consts), len(carries)


def _passed_on(inner: Any, inputs: Sequence[Any], place: int) -> Any:
    """Returns which of the inputs an inner program passes on as this output."""
    inner = getattr(inner, "jaxpr", inner)
    start = source(inner, inner.outvars[place])
    pairs = zip(inputs, inner.invars, strict=False)
    return next((x for x, invar in pairs if invar is start), None)
