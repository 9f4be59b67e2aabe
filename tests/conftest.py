"""Every jaxtyping signature of the package is executed by beartype while the tests run.

What one test, worker or process has compiled, the others take from a cache that ends with the run.
No property fails because the machine is slow.
"""

import os
import signal
import tempfile
from typing import Any

import jaxtyping
import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook
from quickly import OPTIONS

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    cache = tempfile.TemporaryDirectory(prefix="gelu_jax-compiled-", ignore_cleanup_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

# a job that a shell runs in the background ignores Ctrl-C, and so would every process started here
signal.signal(signal.SIGINT, signal.default_int_handler)

unchecked = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile("patient", deadline=None, suppress_health_check=unchecked)
settings.load_profile("patient")

# Not gelu_jax.training.data: its datasets are pytrees, which jax also fills with what is no array.
HOOKED = ["activations", "nn", "families", "training.trainer", "training.health", "training.model"]
HOOKED += ["training.optimizer"]

install_import_hook([f"gelu_jax.{name}" for name in HOOKED], "typechecker.check")


@pytest.fixture(scope="session", autouse=True)
def other_emitters() -> None:
    """Without fusion emitters jax 0.10 compiles in two thirds of the time.

    Only what is compiled quickly anyhow (`quick_to_compile`); later versions have no others.
    """
    if "xla_cpu_use_fusion_emitters" not in OPTIONS:
        return
    import jax
    from jax._src import compiler

    made = compiler.get_compile_options

    def get_compile_options(*args: Any, **kwargs: Any) -> Any:
        options = made(*args, **kwargs)
        if jax.config.values["jax_disable_most_optimizations"]:
            options.env_option_overrides += OPTIONS.items()
        return options

    compiler.get_compile_options = get_compile_options


@pytest.fixture
def unchecked():
    """The package as a user has it: no signature is executed."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module", autouse=True)
def quick_to_compile(request: pytest.FixtureRequest) -> None:
    """XLA without most of its optimizations, in about half of the time to compile.

    What says the same of any compiler is tried so. Bits, memory and collectives that users get are
    not: their modules are marked `optimized`.
    """
    import jax  # here: it reads the place of its cache from the environment

    quick = request.node.get_closest_marker("optimized") is None
    if jax.config.values["jax_disable_most_optimizations"] != quick:
        jax.config.update("jax_disable_most_optimizations", quick)
        jax.clear_caches()
