"""Decoding one token where most hidden units are zero: W_out by the units that are not.

    python benchmarks/sparse_decode.py --out benchmarks/results/sparse_decode

ReLU, ReLU², FATReLU and Gaussian top-k GELU leave most of h exactly zero, and the rows of W_out,
and of a second branch's kernel, that belong to these units need not be read. For one token the
block is bound by reading its weights. Three programs of the same result take turns, and the median
time and the median of the turns' ratios are given:

- dense: x W, then h W_out, as `gelu_jax.feed_forward` does it;
- gather: the indices of at most c units, c the next multiple of 64 that holds the share, their rows
  gathered, and a product with those; a cond takes the dense product where more units are left;
- active_units: `gelu_jax.feed_forward` with that c, in which the same has been built in;
- loop: over the units that are left, a row at a time, in a loop of as many steps.

"out" is the product with W_out alone, "block" an ungated block, whose W_in has to be read in any
case, "gated block" one whose second branch is computed for the units that the gate has left, its
kernel stored as (f, d). A path is worth shipping from 1.5 times at 90 % zeros.
"""

import argparse
import json
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import gelu_jax as gj

D, F = 1024, 4096
SHARES = (0.5, 0.9, 0.95)
WORTH = 1.5
Programs = dict[str, Callable[[], object]]


def weights(dtype: str) -> dict[str, Array]:
    """The kernels, scaled as at initialisation; `up` is stored as (f, d)."""
    keys = iter(jax.random.split(jax.random.key(0), 3))
    shapes = {"gate": (D, F), "up": (F, D), "out": (F, D)}
    return {n: jax.random.normal(next(keys), s, dtype) / s[0] ** 0.5 for n, s in shapes.items()}


def kept(p: Array, w: dict[str, Array]) -> Array:
    """ReLU² of what exceeds a threshold, below which a given share of these units is."""
    return jnp.square(jnp.maximum(p - w["threshold"], 0))


def capacity(share: float) -> int:
    return min(F, -(-round((1 - share) * F) // 64) * 64 + 64)


def left(h: Array, share: float) -> tuple[Array, Array]:
    """The units that are left, filled up with zeros, and their indices."""
    (index,) = jnp.nonzero(h, size=capacity(share), fill_value=F)
    return h.at[index].get(mode="fill", fill_value=0), jnp.minimum(index, F - 1)


def out_gather(h: Array, w: dict[str, Array], share: float) -> Array:
    def sparse() -> Array:
        units, index = left(h, share)
        return units @ w["out"][index]

    return jax.lax.cond(jnp.count_nonzero(h) <= capacity(share), sparse, lambda: h @ w["out"])


def out_loop(h: Array, w: dict[str, Array]) -> Array:
    (index,) = jnp.nonzero(h, size=F, fill_value=0)

    def step(i: Array, y: Array) -> Array:
        row = jax.lax.dynamic_index_in_dim(w["out"], index[i], keepdims=False)
        return y + h[index[i]].astype(jnp.float32) * row.astype(jnp.float32)

    y = jax.lax.fori_loop(0, jnp.count_nonzero(h), step, jnp.zeros(D, jnp.float32))
    return y.astype(h.dtype)


def gated_loop(x: Array, w: dict[str, Array]) -> Array:
    h = kept(x @ w["gate"], w)
    (index,) = jnp.nonzero(h, size=F, fill_value=0)

    def step(i: Array, y: Array) -> Array:
        up, out = (
            jax.lax.dynamic_index_in_dim(w[name], index[i], keepdims=False).astype(jnp.float32)
            for name in ("up", "out")
        )
        return y + (h[index[i]].astype(jnp.float32) * (up @ x.astype(jnp.float32))) * out

    y = jax.lax.fori_loop(0, jnp.count_nonzero(h), step, jnp.zeros(D, jnp.float32))
    return y.astype(x.dtype)


def gated_gather(x: Array, w: dict[str, Array], share: float) -> Array:
    h = kept(x @ w["gate"], w)

    def sparse() -> Array:
        units, index = left(h, share)
        return (units * (w["up"][index] @ x)) @ w["out"][index]

    def dense() -> Array:
        return (h * (w["up"] @ x)) @ w["out"]

    return jax.lax.cond(jnp.count_nonzero(h) <= capacity(share), sparse, dense)


def block(x: Array, w: dict[str, Array], names: tuple[str, ...], share: float) -> Array:
    """The package's own, whose second branch is dense."""
    variant = (lambda p: kept(p, w), "identity")[: len(names)]
    kernels = [w[name] for name in names]
    return gj.feed_forward(
        x, kernels, w["out"], variant=variant, active_units=capacity(share), residuals="all"
    )


def programs(dtype: str, share: float) -> dict[str, Programs]:
    """The programs of each part, compiled; those of one part have been found to agree."""
    w = weights(dtype)
    x = jax.random.normal(jax.random.key(1), (D,), dtype)
    p = x @ w["gate"]
    w["threshold"] = jnp.quantile(p.astype(jnp.float32), share).astype(dtype)
    w["up_by_columns"] = w["up"].T
    h = kept(p, w)
    parts = {
        "out": {
            "dense": (lambda h, w: h @ w["out"], h),
            "gather": (lambda h, w: out_gather(h, w, share), h),
            "loop": (out_loop, h),
        },
        "block": {
            "dense": (lambda x, w: kept(x @ w["gate"], w) @ w["out"], x),
            "gather": (lambda x, w: out_gather(kept(x @ w["gate"], w), w, share), x),
            "active_units": (lambda x, w: block(x, w, ("gate",), share), x),
            "loop": (lambda x, w: out_loop(kept(x @ w["gate"], w), w), x),
        },
        "gated block": {
            "dense": (lambda x, w: (kept(x @ w["gate"], w) * (w["up"] @ x)) @ w["out"], x),
            "gather": (lambda x, w: gated_gather(x, w, share), x),
            "active_units": (lambda x, w: block(x, w, ("gate", "up_by_columns"), share), x),
            "loop": (gated_loop, x),
        },
    }
    return {part: _compiled(of_part, w) for part, of_part in parts.items()}


def _compiled(of_part: dict, w: dict[str, Array]) -> Programs:
    runs: Programs = {}
    results = {}
    for name, (f, argument) in of_part.items():
        run = jax.jit(f).lower(argument, w).compile()
        runs[name] = lambda run=run, argument=argument: run(argument, w).block_until_ready()
        results[name] = np.asarray(runs[name](), np.float64)
    scale = np.abs(results["dense"]).max()
    for name, y in results.items():
        assert np.abs(y - results["dense"]).max() <= 0.03 * scale, name
    return runs


def timed(runs: Programs, rounds: int) -> dict[str, list[float]]:
    """Seconds of each program in each round."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            for _ in range(5):
                run()
            found[name].append((time.perf_counter() - start) / 5)
    return found


def measure(rounds: int) -> list[dict[str, object]]:
    rows = []
    for dtype in ("float32", "bfloat16"):
        for share in SHARES:
            for part, runs in programs(dtype, share).items():
                times = timed(runs, rounds)
                for name, seconds in times.items():
                    ratios = [a / b for a, b in zip(times["dense"], seconds, strict=True)]
                    rows.append({
                        "dtype": dtype, "zeros": share, "part": part, "program": name,
                        "ms": median(seconds) * 1e3, "speed_up": median(ratios),
                    })  # fmt: skip
                    print(rows[-1], flush=True)
    return rows


def markdown(found: dict) -> str:
    """The table, and whether anything is worth shipping."""
    lines = [
        "| dtype | part | program | 50 % zeros | 90 % | 95 % |",
        "|---|---|---|---:|---:|---:|",
    ]
    rows = {(r["dtype"], r["part"], r["program"], r["zeros"]): r for r in found["rows"]}
    for key in dict.fromkeys(k[:3] for k in rows):
        cells = [f"{rows[*key, s]['ms']:.2f} ms, {rows[*key, s]['speed_up']:.2f} ×" for s in SHARES]
        lines.append(f"| {' | '.join([*key, *cells])} |")
    worth = [k for k, r in rows.items() if k[3] == 0.9 and r["speed_up"] >= WORTH]
    named = ", ".join(" ".join(k[:3]) for k in worth) or "nothing"
    return "\n".join([
        *lines, "", f"One token, d {D}, f {F}. At least {WORTH} × at 90 % zeros: {named}.", "",
        f"{found['device']}, jax {found['jax']}, commit {found['commit'][:12]}, {found['date']}. "
        "`python benchmarks/sparse_decode.py` repeats it.", "",
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    found = {
        "device": f"{jax.devices()[0].platform}, {platform.processor() or platform.machine()}",
        "jax": jax.__version__,
        "commit": commit.stdout.strip(),
        "date": time.strftime("%Y-%m-%d"),
        "rows": measure(arguments.rounds),
    }
    text = markdown(found)
    print(text)
    if arguments.out:
        arguments.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
        arguments.out.with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
