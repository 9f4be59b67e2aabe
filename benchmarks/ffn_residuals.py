"""What feed-forward blocks keep for the backward pass, from the compiled programs; nothing is run.

    python benchmarks/ffn_residuals.py benchmarks/results/ffn_residuals

In tensors of d_ff compute-dtype entries per token and layer: the growth of the compiled gradient's
temporary memory from 2 layers to 4. x (which the norm before the block keeps) and the weights are
not counted. 8192 tokens, d_model 64, width 4096 for every variant.
"""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
from ffn import Block, Case, Shape, blocks, machine

import gelu_jax as gj
from gelu_jax.nn.cost import measured_bytes_kept

TOKENS, D_MODEL, D_FF = 8192, 64, 4096
COLUMNS = [
    (variant, dtype, scan)
    for variant in ("gelu", "swiglu")
    for dtype in ("float32", "bfloat16")
    for scan in (True, False)
]


def kept(block: Block, variant: str, dtype: str, scan: bool) -> float:
    """Tensors of d_ff entries that one more layer keeps, for each token."""
    branch = jax.ShapeDtypeStruct((D_MODEL, D_FF), dtype)
    w = {
        "w_in": [branch] * len(gj.branches(variant)),
        "w_out": jax.ShapeDtypeStruct((D_FF, D_MODEL), dtype),
    }
    x = jax.ShapeDtypeStruct((TOKENS, D_MODEL), dtype)
    size = measured_bytes_kept(lambda x, w, _: x + block(x, w), x, w, scan=scan, depths=(2, 4))
    return size / (TOKENS * D_FF * jnp.dtype(dtype).itemsize)


def main(out: Path) -> None:
    table: dict[str, dict[str, float]] = {}
    for variant, dtype, scan in COLUMNS:
        case = Case(Shape(1, D_MODEL, D_FF), variant, dtype, backward=True)
        column = f"{variant} {dtype} {'scan' if scan else 'unrolled'}"
        for name, block in blocks(case).items():
            table.setdefault(name, {})[column] = kept(block, variant, dtype, scan)
    columns = list(table["ours"])
    lines = ["| implementation | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, row in table.items():
        cells = [f"{row[column]:.2f}" if column in row else "" for column in columns]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    facts = ", ".join(f"{name} {value}" for name, value in machine().items())
    out.with_suffix(".md").write_text("\n".join([facts, "", *lines]) + "\n")
    out.with_suffix(".json").write_text(json.dumps({"facts": machine(), "rows": table}, indent=1))
    print("\n".join(lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
