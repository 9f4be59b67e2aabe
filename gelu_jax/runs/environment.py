"""Where a result comes from."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import jax

from gelu_jax.version import __version__


def environment() -> dict[str, str]:
    """The versions, device, commit and date that stand beside every result.

    Returns:
      Names to text, as in `results.json`.
    """
    device = jax.devices()[0]
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
        "device": f"{device.device_kind} × {jax.device_count()}, {os.cpu_count()} CPU cores",
        "processor": processor(),
        "threads": _threads(),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "gelu_jax": __version__,
        **{name: version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")},
    }


_VECTORS = ("avx512f", "avx512_bf16", "amx_bf16", "avx2", "avx", "fma", "asimd", "sve")


def processor() -> str:
    """The model of the processor and its vector extensions, as far as the system tells.

    Returns:
      Text such as "Intel(R) Xeon(R) CPU @ 2.20GHz (avx512f avx2 avx fma)". On processors that
      differ in it, XLA compiles programs that round differently.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    pairs = [line.partition(":")[::2] for line in lines]
    fields = {key.strip(): value.strip() for key, value in reversed(pairs)}
    names = (fields.get(key) for key in ("model name", "CPU part"))
    name = next(filter(None, names), platform.machine())
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    vectors = " ".join(vector for vector in _VECTORS if vector in flags)
    return f"{name} ({vectors})" if vectors else name


def _threads() -> str:
    """How many cores this process may run on: what XLA makes its threads for."""
    if hasattr(os, "sched_getaffinity"):
        return str(len(os.sched_getaffinity(0)))
    return str(os.cpu_count())


def _commit() -> str:
    """The commit of this package's checkout; "unknown" for an installed one."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(
            [*command, "--abbrev=12"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
