"""Counts the wrong results among all 16-bit inputs: ours, jax.nn's and, if installed, torch's.

    python benchmarks/numerics_16bit.py --out benchmarks/results/numerics_16bit

Writes the results of `gelu-jax numerics` to OUT.json, and to OUT.md a table: how many values and
how many derivatives, of 65,536 each, are not the true ones correctly rounded.
"""

import argparse
import importlib.metadata
import json
import platform
import subprocess
from dataclasses import asdict
from pathlib import Path

import jax

from gelu_jax.numerics.sweep import DTYPES, promise_kept, report, sweep

SOURCES = ("gelu_jax", "jax.nn", "torch")


def environment() -> dict[str, str]:
    """Device, versions and commit."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    versions = {d.name: d.version for d in importlib.metadata.distributions()}
    return {
        "device": jax.devices()[0].device_kind,
        "machine": platform.machine(),
        **{name: versions[name] for name in ("jax", "torch") if name in versions},
        "commit": commit.stdout.strip(),
    }


def markdown(rows: list[dict[str, object]]) -> str:
    """A line for each function that someone else offers too."""
    cells = {
        (row["function"], row["dtype"], row["source"]): (
            f"{row['wrong_values']:,} / {row['wrong_derivatives']:,}"
        )
        for row in rows
    }
    columns = [(dtype, source) for dtype in DTYPES for source in SOURCES]
    head = ["function", *(f"{dtype}: {source}" for dtype, source in columns)]
    lines = [head, ["---"] + ["--:"] * len(columns)]
    for function in dict.fromkeys(row["function"] for row in rows):
        found = [cells.get((function, *column), "") for column in columns]
        if any(found[1:3]):
            lines.append([f"`{function}`", *found])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    results = sweep()
    report(results)
    if out:
        rows = [asdict(result) for result in results]
        result = {**environment(), "promise kept": promise_kept(results), "rows": rows}
        out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
        out.with_suffix(".md").write_text(markdown(rows))


if __name__ == "__main__":
    main()
