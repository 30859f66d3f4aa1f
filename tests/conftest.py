"""One place for devices and for JAX's strict settings."""

import importlib.metadata
import os

JAXLIB = tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2]))
# Eight devices on one machine. The rest takes a third of the time that XLA compiles, of
# which these tests mostly consist; it changes machine code, not what is fused. With the
# newest JAX the machine code is the one that users get.
FLAGS = {
    "--xla_force_host_platform_device_count": "8",
    "--xla_cpu_parallel_codegen_split_count": "1",
}
if JAXLIB < (0, 11):  # later ones end the process at a flag that they do not know
    FLAGS["--xla_cpu_use_fusion_emitters"] = "false"
    FLAGS["--xla_backend_optimization_level"] = "0"
GIVEN = os.environ.get("XLA_FLAGS", "")
OURS = [f"{flag}={value}" for flag, value in FLAGS.items() if flag not in GIVEN]
os.environ["XLA_FLAGS"] = " ".join([GIVEN, *OURS])

import hypothesis  # noqa: E402
import jax  # noqa: E402

# Strict dtype promotion is left out: counts are integers and meet float32.
jax.config.update("jax_numpy_rank_promotion", "raise")

hypothesis.settings.register_profile(
    "repeatable", max_examples=25, derandomize=True, deadline=None, database=None
)
hypothesis.settings.load_profile("repeatable")
