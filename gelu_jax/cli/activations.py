"""activations: who uses each, its definition, and what other libraries call it."""

import sys

from rich.console import Console
from rich.table import Table

from gelu_jax.activations.catalogue import CATALOGUE, Entry
from gelu_jax.errors import ConfigError, Problem, nearest

_LIBRARIES = ("torch", "hf", "flax", "keras", "mlx")


def activations_command(name: str | None = None) -> None:
    """List the activations: definition, who uses it, its names elsewhere, promise, cost.

    The cost is the time over that of jax.nn in float32 on a CPU, forward and gradient.

    Args:
        name: one activation alone, by any of its names; all by default.
    """
    found = [entry for entry in CATALOGUE if name is None or name in entry.names]
    if not found:
        known = [each for entry in CATALOGUE for each in entry.names]
        raise ConfigError([Problem("name", name, f"unknown; {nearest(str(name), known)}")])
    Console(width=None if sys.stdout.isatty() else 200).print(_table(found))


def _table(entries: list[Entry]) -> Table:
    rows = Table()
    for heading in ("ours", "f(x)", "used by", *_LIBRARIES, "promise", "cost"):
        rows.add_column(heading)
    for entry in entries:
        names = [", ".join(getattr(entry, library)) for library in _LIBRARIES]
        cost = "" if entry.cost is None else " / ".join(f"{ratio:.2f}" for ratio in entry.cost)
        rows.add_row(entry.name, entry.definition, entry.used_by, *names, entry.promise, cost)
    return rows
