"""What the reference lists: the public names by kind, the commands, and what a command prints."""

import ast
import contextlib
import inspect
import io
import os
import shlex
import sys
from pathlib import Path

from flax import nnx

import gelu_jax as gj
from gelu_jax.activations.catalogue import CATALOGUE
from gelu_jax.cli import main
from gelu_jax.cli.commands import COMMANDS

PACKAGE = Path(gj.__file__).parent


def activation_table() -> str:
    """Every activation: who uses it, what it is, its names elsewhere, its promise and its cost."""
    libraries = ("torch", "hf", "flax", "keras", "mlx")
    titles = {
        "torch": "torch",
        "hf": "ACT2FN",
        "flax": "flax, jax.nn",
        "keras": "keras",
        "mlx": "mlx",
    }
    header = ["ours", "f(x)", "used by", *titles.values(), "promise", "cost"]
    lines = [header, ["---"] * len(header)]
    for entry in CATALOGUE:
        names = [", ".join(f"`{n}`" for n in getattr(entry, each)) for each in libraries]
        cost = "–" if entry.cost is None else " / ".join(f"{ratio:.2f}" for ratio in entry.cost)
        ours = f"[`{entry.name}`][gelu_jax.{entry.name}]"
        lines.append([ours, entry.definition, entry.used_by, *names, entry.promise, cost])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def public_names() -> dict[str, list[str]]:
    """What `gelu_jax` offers by itself, by kind."""
    found: dict[str, list[str]] = {
        "Activations": [], "Configs": [], "Modules": [], "Functions": [], "Tables and types": [],
    }  # fmt: skip
    for name in gj.__all__:
        value = getattr(gj, name)
        if name in (*gj.ACTIVATIONS, "fatrelu", "prelu", "xielu"):
            kind = "Activations"
        elif name.endswith("Config"):
            kind = "Configs"
        elif isinstance(value, type) and issubclass(value, nnx.Module):
            kind = "Modules"
        else:
            kind = "Functions" if inspect.isfunction(value) else "Tables and types"
        found[kind].append(name)
    return found


def imported(*places: str) -> str:
    """The packages that are imported below some places of gelu_jax, itself and Python aside."""
    found = set[str]()
    for place in (PACKAGE / name for name in places):
        for path in place.rglob("*.py") if place.is_dir() else [place]:
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    found |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    found.add(node.module.partition(".")[0])
    return ", ".join(sorted(found - {"gelu_jax"} - sys.stdlib_module_names, key=str.lower))


def cli_commands() -> list[str]:
    """The names of the commands."""
    return sorted(COMMANDS)


def output(line: str) -> str:
    """What a command prints, in as many columns as fit on a page."""
    said, before = io.StringIO(), (sys.argv, os.environ.get("COLUMNS"))
    sys.argv, os.environ["COLUMNS"] = shlex.split(line), "80"
    try:
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            main()
    finally:
        sys.argv = before[0]
        os.environ.pop("COLUMNS") if before[1] is None else os.environ.update(COLUMNS=before[1])
    return said.getvalue().strip()
