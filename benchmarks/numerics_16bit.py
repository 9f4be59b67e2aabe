"""Wrong results among all 16-bit inputs: ours, jax.nn's and, where it is installed, torch's.

    python benchmarks/numerics_16bit.py --out benchmarks/results/numerics_16bit

Writes the rows of `gelu-jax numerics` to OUT.json, and to OUT.md a table of values / derivatives
that are not the true ones correctly rounded (or NaN where they are finite), of 65,536 each.
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
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    versions = {d.name: d.version for d in importlib.metadata.distributions()}
    return {
        "device": jax.devices()[0].device_kind,
        "machine": platform.machine(),
        **{name: versions[name] for name in ("jax", "torch") if name in versions},
        "commit": commit.stdout.strip(),
    }


def markdown(rows: list[dict[str, object]]) -> str:
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
    found = sweep()
    report(found)
    rows = [asdict(row) for row in found]
    if out:
        result = {**environment(), "promise kept": promise_kept(found), "rows": rows}
        out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
        out.with_suffix(".md").write_text(markdown(rows))


if __name__ == "__main__":
    main()
