"""The environment that a number depends on: versions, device and commit."""

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import jax

from benchmarks.records.home import ROOT

PACKAGES = ("optax_lena", "jax", "jaxlib", "optax", "flax", "numpy")
# What a number depends on, in the repository.
CODE = ("optax_lena", "benchmarks", "examples", "pyproject.toml", "constraints.txt")


@cache
def environment() -> dict[str, str]:
    """Versions, device and commit that a number depends on."""
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "device": jax.devices()[0].device_kind,
        "cpus": str(os.cpu_count()),
        "commit": _commit(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """The commit, and whether the code (not the results, say) differs from it."""
    commit = _git("rev-parse", "--short=12", "HEAD")
    if commit is None:
        return "unknown"
    return commit + "-dirty" * bool(_git("status", "--porcelain", "--", *CODE))


def _git(*arguments: str) -> str | None:
    try:
        found = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()
