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
        "platform": platform.platform(),
        "python": platform.python_version(),
        "gelu_jax": __version__,
        **{name: version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")},
    }


def _commit() -> str:
    """The commit of this package's checkout; "unknown" for an installed one."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(
            [*command, "--abbrev=12"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
