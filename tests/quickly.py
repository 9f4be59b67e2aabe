"""How XLA compiles in a fraction of the time what need be neither fast nor to the bit a user's."""

from importlib.metadata import version

OPTIONS: dict[str, int | bool] = {"xla_backend_optimization_level": 0}
if tuple(map(int, version("jax").split(".")[:2])) < (0, 11):  # later ones have no other emitters
    OPTIONS["xla_cpu_use_fusion_emitters"] = False

FLAGS = " ".join(f"--{name}={str(value).lower()}" for name, value in OPTIONS.items())
"""The same for the XLA_FLAGS of a process."""

PROCESS = {"XLA_FLAGS": FLAGS, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
"""The environment of a process that gives the bits of the tests themselves (conftest.py)."""
