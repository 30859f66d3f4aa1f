"""Processes: what must be equal on all of them, compared once at the start.

Every process of a job runs its own copy of the program. One that was started with other
settings trains other "replicated" parameters, and nothing fails.
"""

import dataclasses
import enum
import functools
import hashlib
import re
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding

from optax_lena._dtypes import is_key

_DIGEST_SIZE = 16
_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]+")
_LEAF = jax.tree.structure(0)
_JITTED = type(jax.jit(lambda: None))
# What `functools.wraps` copies: it is compared through `__wrapped__` already.
_SAID_OF_FUNCTIONS = {*functools.WRAPPER_ASSIGNMENTS, "__doc__"}


def assert_same_on_processes(**settings: Any) -> None:
    """Raises on every process if one of them has other settings.

    Call it once, after the optimizer, the gatherer and the initial state were made and
    before the first step, with everything that the processes must share.

    Args:
      **settings: by name: optimizers, gatherers and other functions (their code and
        what they close over is compared), numbers, strings, arrays, optimizer states
        and other pytrees, meshes, and objects with attributes. Arrays that no process
        holds as a whole are compared by shape and dtype.

    Raises:
      ValueError: if a setting, which the error names, differs or has a part that cannot
        be compared; without settings.

    Example:
      >>> import optax_lena
      >>> tx = optax_lena.lena(0.1, batch_scale=32)
      >>> optax_lena.assert_same_on_processes(tx=tx, seed=0, batch_size=1024)
    """
    if not settings:
        raise ValueError(
            "`settings` must hold what the processes share, by name, got none: "
            "assert_same_on_processes(tx=tx, seed=0)."
        )
    if jax.process_count() == 1:
        return
    names = sorted(settings)
    _compare({"settings": tuple(names), "jax": jax.__version__})
    _compare({name: settings[name] for name in names})


def _compare(settings: dict[str, Any]) -> None:
    """Compares the digests of all processes, so that all raise and none waits."""
    fingerprints, opaque = [], {}
    for name, setting in settings.items():
        try:
            fingerprints.append(fingerprint(setting))
        except _OpaqueError as error:  # raised below: the others wait for the digest
            fingerprints.append(bytes(_DIGEST_SIZE))
            opaque[name] = error
    own = np.frombuffer(b"".join(fingerprints), np.uint8)
    all_digests = np.asarray(multihost_utils.process_allgather(own))
    for name, digests in zip(
        settings, np.split(all_digests, len(settings), axis=1), strict=True
    ):
        differing = np.flatnonzero((digests != digests[0]).any(axis=1))
        if differing.size:
            raise ValueError(
                f"`{name}` must be the same on all {jax.process_count()} processes, "
                f"got another on {differing.tolist()} than on process 0: start every "
                "process with the same program, versions and settings."
            )
    for name, error in opaque.items():
        raise ValueError(
            f"`{name}` must be made of functions, numbers, strings, arrays, pytrees or "
            f"objects with attributes, got {error}, which has nothing that can be "
            "compared between processes: pass what it is made of."
        )


class _OpaqueError(Exception):
    """Raised for a part of a setting that has neither attributes nor a name."""


def fingerprint(setting: Any) -> bytes:
    """Returns a digest of what a setting is made of."""
    return _digest_of(setting, frozenset())


def _digest_of(x: Any, seen: frozenset[int]) -> bytes:
    digest = hashlib.blake2b(digest_size=_DIGEST_SIZE)
    _feed(digest, x, seen)
    return digest.digest()


def _feed(digest: Any, x: Any, seen: frozenset[int]) -> None:
    """Feeds the content of a value to the digest, and then its parts."""
    if id(x) in seen:
        return
    digest.update(f"{type(x).__qualname__};".encode())
    if isinstance(x, (set, frozenset, dict)):
        # Sorted: the order of strings in a set differs from process to process, and so
        # does that of a dictionary made from one, which is no other pytree.
        entries = x.items() if isinstance(x, dict) else x
        digests = sorted(_digest_of(one, seen | {id(x)}) for one in entries)
        digest.update(b"".join(digests))
        return
    own, parts = _content(x)
    digest.update(own)
    for part in parts:
        _feed(digest, part, seen | {id(x)})


def _content(x: Any) -> tuple[bytes, list[Any]]:
    if isinstance(x, (bool, int, float, complex, str, bytes, type(None), np.dtype)):
        return repr(x).encode(), []
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        return repr((x.shape, x.dtype)).encode(), []
    if isinstance(x, (np.ndarray, np.generic, jax.Array)):
        if is_key(x):
            return b"key", [jax.random.key_data(jnp.asarray(x))]
        head = repr((np.shape(x), x.dtype)).encode()
        if x.dtype == object:  # its bytes are addresses
            return head, list(np.asarray(x).flat)
        return head + np.asarray(x).tobytes(), []
    if isinstance(x, functools.partial):
        return b"partial", [x.func, *x.args, x.keywords]
    if isinstance(x, types.FunctionType):
        cells = [_inside(cell) for cell in x.__closure__ or ()]
        name = f"{x.__module__}.{x.__qualname__}".encode()
        return name, [x.__code__, x.__defaults__, x.__kwdefaults__, *cells]
    if isinstance(x, types.CodeType):
        # The byte code refers to names by their index only.
        return x.co_code, [x.co_names, *x.co_consts]
    if isinstance(x, types.MethodType):
        return b"method", [x.__func__, x.__self__]
    if isinstance(x, (tuple, list)):
        return repr(len(x)).encode(), list(x)
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        return b"", [getattr(x, field.name) for field in dataclasses.fields(x)]
    if isinstance(x, type):
        return f"{x.__module__}.{x.__qualname__}".encode(), []
    return _content_of_object(x)


def _inside(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # the name is not bound yet
        return None


def _content_of_object(x: Any) -> tuple[bytes, list[Any]]:
    """Returns the content and the parts of an object of any other type."""
    if type(x) is object:  # a sentinel, as in jax.vmap: only its presence counts
        return b"", []
    if isinstance(x, types.ModuleType):
        return x.__name__.encode(), []
    if isinstance(x, enum.Enum):
        return str(x.name).encode(), []
    if isinstance(x, re.Pattern):
        return b"pattern", [x.pattern, x.flags]
    if isinstance(x, Mesh):
        return repr(x).encode(), [x.devices]
    if isinstance(x, NamedSharding):
        return repr(x).encode(), [x.mesh, x.spec]
    leaves, treedef = jax.tree.flatten(x)
    if treedef != _LEAF:
        structure = repr(treedef)
        return b"" if _ADDRESS.search(structure) else structure.encode(), leaves
    if isinstance(x, _JITTED):
        return b"jit", [vars(x)["__wrapped__"]]
    if isinstance(x, types.BuiltinFunctionType):
        return x.__qualname__.encode(), [x.__self__]
    if hasattr(x, "__dict__"):
        said = {k: v for k, v in vars(x).items() if k not in _SAID_OF_FUNCTIONS}
        return b"", [part for item in sorted(said.items()) for part in item]
    if _ADDRESS.search(repr(x)):
        raise _OpaqueError(repr(x))
    return repr(x).encode(), []
