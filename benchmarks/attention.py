"""Attention beside `jax.nn.dot_product_attention`: forward and gradient, time and memory.

    python benchmarks/attention.py
    python benchmarks/attention.py --shapes accelerator --dtype bfloat16

Causal, of shape (b, t, h, k). Rounds of one call each, in turn; medians, and medians of the rounds'
ratios. "memory" is the temporary memory of the compiled gradient, in bytes a token, at 1,024 to
16,384 tokens of a row of 4 heads of 64: what it gains from one to the next beyond the growth of the
tokens is what is not linear.

Writes benchmarks/results/attention_<device>.json and .md; --smoke takes tiny shapes, and writes
nothing.
"""

import json
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal

import jax
import jax.numpy as jnp
import tyro
from ffn import timed

from gelu_jax.nn.attention import attention
from gelu_jax.runs.environment import environment

HERE = Path(__file__).parent
SHAPES = {  # b, t, h, k, window
    "smoke": [(2, 64, 2, 16, None), (1, 300, 2, 16, 64)],
    "cpu": [
        (32, 64, 4, 16, None), (8, 256, 5, 64, None), (4, 1024, 8, 64, None), (1, 4096, 8, 64, 256),
    ],
    "accelerator": [
        (32, 1024, 12, 64, None), (8, 4096, 16, 128, None), (1, 16384, 16, 128, None),
        (1, 16384, 16, 128, 1024),
    ],
}  # fmt: skip
LENGTHS = (1024, 2048, 4096, 8192, 16384)
ROUNDS = 15


def contenders(window):
    """Names and functions of (query, key, value)."""
    sides = None if window is None else (window - 1, 0)
    theirs = partial(jax.nn.dot_product_attention, is_causal=True, local_window_size=sides)
    found = {"ours": partial(attention, window=window), "jax.nn": theirs}
    if jax.default_backend() == "gpu":
        found["jax.nn, cudnn"] = partial(theirs, implementation="cudnn")
    return found


def gradient(f):
    """Of all three inputs, for a cotangent that is not constant."""
    return jax.grad(lambda q, k, v: (f(q, k, v).astype(jnp.float32) ** 2).sum(), (0, 1, 2))


def times(shape, dtype, rounds):
    """Milliseconds of every contender, and how many times faster ours is."""
    *axes, window = shape
    keys = jax.random.split(jax.random.key(0), 3)
    inputs = [jax.random.normal(key, axes, dtype) for key in keys]
    found = {}
    for what, wrap in (("forward", lambda f: f), ("gradient", gradient)):
        programs = {}
        for name, f in contenders(window).items():
            try:
                programs[name] = jax.jit(wrap(f)).lower(*inputs).compile()
            except Exception as error:  # cudnn has its own conditions
                print(name, shape, str(error).partition("\n")[0])
        taken = [{n: timed(p, *inputs).wall for n, p in programs.items()} for _ in range(rounds)]
        found[what] = {
            name: {
                "milliseconds": 1e3 * median(r[name] for r in taken[1:]),
                "ours_to_this": median(r["ours"] / r[name] for r in taken[1:]),
            }
            for name in programs
        }
    return found


def memory(dtype):
    """Temporary bytes a token of the compiled gradient, by length."""
    found: dict[str, Any] = {}
    for name, f in contenders(None).items():
        for t in LENGTHS[: None if name == "ours" else 3]:  # theirs grows with t²
            x = jax.ShapeDtypeStruct((1, t, 4, 64), dtype)
            needed = jax.jit(gradient(f)).lower(x, x, x).compile().memory_analysis()
            found.setdefault(name, {})[t] = needed.temp_size_in_bytes / t
    return found


def table(found):
    rows = ["| (b, t, h, k), window | | " + " | ".join(("ours", "jax.nn", "ours ÷ it")) + " |"]
    rows.append("|---|---|---|---|---|")
    for of in found["times"]:
        for what in ("forward", "gradient"):
            cells = of[what]
            rows += [
                f"| {tuple(of['shape'][:4])}, {of['shape'][4]} | {what} | "
                f"{cells['ours']['milliseconds']:.2f} ms | {name} {row['milliseconds']:.2f} ms | "
                f"{row['ours_to_this']:.2f} |"
                for name, row in cells.items()
                if name != "ours"
            ]
    rows += ["", "| temporary bytes a token | " + " | ".join(map(str, LENGTHS)) + " |"]
    rows.append("|---|" + "---|" * len(LENGTHS))
    for name, sizes in found["memory"].items():
        cells = [f"{sizes[t]:,.0f}" if t in sizes else "" for t in LENGTHS]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    where = found["environment"]
    return "\n".join(rows) + (
        f"\n\n{found['dtype']}; {where['device']}; Python {where['python']}, jax {where['jax']}; "
        f"commit {where['commit']}; {where['date']}. `python benchmarks/attention.py` repeats it.\n"
    )


def main(
    shapes: Literal["smoke", "cpu", "accelerator"] = "cpu",
    dtype: Literal["float32", "bfloat16"] = "float32",
    out: Path | None = None,
):
    """Measures all of it on the device at hand.

    Args:
        shapes: which of them; "smoke" writes nothing but to `out`.
        dtype: of the inputs.
        out: where the results go, without a suffix.
    """
    smoke = shapes == "smoke"
    found = {
        "dtype": dtype,
        "times": [
            {"shape": shape, **times(shape, dtype, 3 if smoke else ROUNDS)}
            for shape in SHAPES[shapes]
        ],
        "memory": {} if smoke else memory(dtype),
        "environment": environment(),
    }
    if out is None and not smoke:
        device = jax.devices()[0].device_kind.lower().replace(" ", "_")
        out = HERE / "results" / f"attention_{device}"
    if out is not None:
        out.with_suffix(".json").write_text(json.dumps(found, indent=2) + "\n")
        out.with_suffix(".md").write_text(table(found))
    print(table(found))


if __name__ == "__main__":
    tyro.cli(main)
