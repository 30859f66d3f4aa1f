"""All that can be chosen, with types, and what of it is refused.

`python -m examples.pod_training --help` is made of these classes by tyro.
"""

import contextlib
import dataclasses
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import tyro

from examples.pod_training.errors import JobError


@dataclasses.dataclass(frozen=True)
class Model:
    """The network."""

    blocks: int = 4
    """Transformer blocks, stacked in one array per parameter."""
    features: int = 128
    """Width of a position."""
    heads: int = 4
    """Of every attention."""
    context: int = 64
    """Bytes that it sees."""
    dropout: float = 0.1
    """Share of the entries that dropout sets to zero."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """In which it computes; parameters are float32."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The small batch's recipe, which stays as it is at any batch."""

    optimizer: Literal["lena_adamw", "lena_amplified", "lena"] = "lena_adamw"
    """One of optax_lena's."""
    base_batch: int = 32
    """Examples of an update that the recipe was tuned for."""
    base_steps: int = 8000
    """Updates of that batch, of a whole training."""
    learning_rate: float = 1e-3
    """At its highest, for that batch."""
    weight_decay: float = 0.1
    """Of everything that is no vector."""


@dataclasses.dataclass(frozen=True)
class Mesh:
    """The devices: data x fsdp x tensor."""

    data: int = -1
    """Over so many the batch is spread; -1: all that the others leave."""
    fsdp: int = 1
    """Over so many batch and parameters are spread."""
    tensor: int = 1
    """Over so many the parameters of a layer are spread."""


@dataclasses.dataclass(frozen=True)
class Processes:
    """The job's processes; on Slurm and TPUs JAX finds all of this by itself."""

    join: Literal["auto", "never"] = "auto"
    """auto: join the others of the job, if there is one."""
    coordinator: str = ""
    """host:port of process 0, where nothing finds it (Kubernetes, two terminals)."""
    count: int = 1
    """Number of processes, with a coordinator."""
    index: int = 0
    """Number of this process, with a coordinator."""
    cpu_devices: int = 0
    """Make one CPU into so many devices, to try things out; 0: leave as it is."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains a byte-level transformer, and goes on where it stopped."""

    out: Path
    """Folder of checkpoints, metrics and figures; the same one resumes."""
    data: Path | None = None
    """Folder with train.bin and test.bin (any bytes); none: Python's own source."""
    batch: int = 512
    """Examples of an update, on all devices: a multiple of the base batch."""
    microbatches: int = 0
    """Of an update; 0: as few as the devices and the base batch allow."""
    seed: int = 0
    """Of parameters, order of the data, and dropout."""
    save_every: int = 100
    """Updates between two checkpoints."""
    keep: int = 3
    """Checkpoints that stay."""
    log_every: int = 10
    """Updates between two rows of metrics."""
    eval_every: int = 100
    """Updates between two looks at the test data."""
    eval_batches: int = 4
    """Batches of such a look."""
    model: Model = Model()
    recipe: Recipe = Recipe()
    mesh: Mesh = Mesh()
    processes: Processes = Processes()

    @property
    def batch_scale(self) -> int:
        """S, the batch in base batches."""
        return self.batch // self.recipe.base_batch

    @property
    def examples(self) -> int:
        """Examples of a whole training."""
        return self.recipe.base_steps * self.recipe.base_batch

    def num_microbatches(self, devices: int) -> int:
        """Returns n for so many devices that share the batch."""
        return self.microbatches or max(math.lcm(self.batch_scale, devices), 2)


AT_LEAST_ONE = (
    "batch save_every keep log_every eval_every eval_batches model.blocks "
    "model.features model.heads model.context recipe.base_batch recipe.base_steps "
    "mesh.fsdp mesh.tensor processes.count"
).split()


def parse(arguments: Sequence[str] | None) -> Config:
    """Returns the options of a command line; raises `JobError` of one line."""
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            config = tyro.cli(Config, args=arguments, prog="pod_training")
    except SystemExit as stopped:
        if not stopped.code:
            raise  # --help
        raise JobError(_unboxed(told.getvalue())) from None
    check(config)
    return config


def check(config: Config) -> None:
    """Raises `JobError` if an option cannot be what it is."""
    model, recipe, processes = config.model, config.recipe, config.processes
    for name in AT_LEAST_ONE:
        value = flat(config)[name]
        _require(value >= 1, name, "be at least 1", value)
    _require(
        config.batch % recipe.base_batch == 0,
        "batch",
        f"be a multiple of the base batch, {recipe.base_batch}",
        config.batch,
    )
    n = config.microbatches
    divides = n >= 2 and config.batch % n == 0
    _require(n == 0 or divides, "microbatches", "be 0, or from 2 and divide batch", n)
    _require(config.seed >= 0, "seed", "be at least 0", config.seed)
    _require(0 <= model.dropout < 1, "model.dropout", "be in [0, 1)", model.dropout)
    heads, features = model.heads, model.features
    _require(features % heads == 0, "model.heads", f"divide {features} features", heads)
    rate, decay = recipe.learning_rate, recipe.weight_decay
    is_positive = 0 < rate < math.inf
    _require(is_positive, "recipe.learning_rate", "be positive and finite", rate)
    is_decay = 0 <= decay < math.inf
    _require(is_decay, "recipe.weight_decay", "be finite and not negative", decay)
    data, index, cpus = config.mesh.data, processes.index, processes.cpu_devices
    _require(data == -1 or data >= 1, "mesh.data", "be -1 or at least 1", data)
    is_index = 0 <= index < processes.count
    _require(is_index, "processes.index", f"be in [0, {processes.count})", index)
    _require(cpus >= 0, "processes.cpu_devices", "be at least 0", cpus)
    host, _, port = processes.coordinator.rpartition(":")
    is_address = bool(host) and port.isdigit()
    address = processes.coordinator
    needed = processes.count > 1 or bool(address)
    _require(not needed or is_address, "processes.coordinator", "be host:port", address)


def flat(config: Config) -> dict[str, object]:
    """Returns every option by the name that the command line has for it."""
    result: dict[str, object] = {}
    for name, value in dataclasses.asdict(config).items():
        parts = value if isinstance(value, dict) else {"": value}
        result |= {f"{name}.{part}".rstrip("."): one for part, one in parts.items()}
    return result


def _require(holds: bool, name: str, allowed: str, got: object) -> None:
    if not holds:
        raise JobError(f"--{name.replace('_', '-')} must {allowed}, got {got!r}.")


def _unboxed(text: str) -> str:
    """Returns what tyro says in its box, without the box and the further help."""
    rows = [line.strip("│ \n") for line in text.splitlines()]
    message = [row for row in rows if row and row[0] not in "╭╰"]
    ends = [i for i, row in enumerate(message) if set(row) == {"─"}]
    return " ".join(message[: ends[0] if ends else None])
