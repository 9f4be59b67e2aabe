"""Vector instructions that an activation takes in float32, ours and `jax.nn`'s, from compiled code.

    python benchmarks/instructions.py

XLA writes the object file of each program; binutils' objdump disassembles it. Counted are the
instructions with a vector register in the longest loop that stores one, for each vector stored.
The time of a program that memory does not bound is about their number. Writes
benchmarks/results/instructions.json and .md.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

os.environ["XLA_FLAGS"] = f"--xla_dump_to={tempfile.mkdtemp()}"

import jax
import jax.numpy as jnp
from jax import Array

import gelu_jax as gj
from gelu_jax.runs.environment import environment

RESULTS = Path(__file__).parent / "results"
DUMP = Path(os.environ["XLA_FLAGS"].partition("=")[2])
Function = Callable[[Array], Array]
PAIRS: dict[str, tuple[Function, Function]] = {
    "gelu": (gj.gelu, lambda x: jax.nn.gelu(x, approximate=False)),
    "gelu_tanh": (gj.gelu_tanh, jax.nn.gelu),
    "gelu_sigmoid": (gj.gelu_sigmoid, lambda x: x * jax.nn.sigmoid(1.702 * x)),
    "silu": (gj.silu, jax.nn.silu),
    "softplus": (gj.softplus, jax.nn.softplus),
    "mish": (gj.mish, jax.nn.mish),
}


class Instruction(NamedTuple):
    """One of an object file: its address, name and operands."""

    address: int
    name: str
    operands: str


def disassembled(file: Path) -> list[Instruction]:
    """The instructions of an object file."""
    command = ["objdump", "--disassemble", "--no-show-raw-insn", str(file)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = (re.match(r"\s*([0-9a-f]+):\s+(\S+)\s*(.*)", line) for line in text.splitlines())
    return [Instruction(int(m[1], 16), m[2], m[3]) for m in found if m]


def loops(code: list[Instruction]) -> list[list[Instruction]]:
    """What lies between a jump back and its target."""
    places = {instruction.address: i for i, instruction in enumerate(code)}
    found = []
    for i, (address, name, operands) in enumerate(code):
        target = re.match(r"[0-9a-f]+", operands)
        if name.startswith("j") and target and (start := int(target[0], 16)) <= address:
            found += [code[places[start] : i + 1]] if start in places else []
    return found


def per_vector(loop: list[Instruction]) -> float:
    """Vector instructions for each vector that is stored; 0 where none is."""
    vector = [each for each in loop if re.search(r"%[yz]mm", each.operands)]
    stored = [e for e in vector if e.name.startswith("vmov") and re.search(r"mm\d+,.*\(", e[2])]
    return len(vector) / len(stored) if stored else 0.0


def count(f: Function) -> float:
    """Of the program of f."""
    before = set(DUMP.glob("*.o"))
    jax.jit(f).lower(jax.ShapeDtypeStruct((1 << 22,), jnp.float32)).compile()
    files = set(DUMP.glob("*.o")) - before
    return max(per_vector(loop) for file in files for loop in loops(disassembled(file)))


def gradient(f: Function) -> Function:
    """x ↦ x·f′(x), as a backward pass takes it."""
    return lambda x: jax.vjp(f, x)[1](x)[0]


def main() -> None:
    rows = [
        {"function": name, "what": what, "ours": count(wrap(ours)), "jax.nn": count(wrap(theirs))}
        for name, (ours, theirs) in PAIRS.items()
        for what, wrap in (("forward", lambda f: f), ("gradient", gradient))
    ]
    found = {"environment": environment(), "rows": rows}
    (RESULTS / "instructions.json").write_text(json.dumps(found, indent=1))
    lines = ["| function | | ours | jax.nn |", "|---|---|---|---|"]
    lines += [
        f"| {r['function']} | {r['what']} | {r['ours']:.0f} | {r['jax.nn']:.0f} |" for r in rows
    ]
    (RESULTS / "instructions.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
