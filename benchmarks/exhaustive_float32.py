"""Finds the largest error of an activation and its derivative over every float32 input.

    python benchmarks/exhaustive_float32.py gelu silu --out rows.jsonl

The promise: value and derivative are within 2 ulp. Within 0.05 of a zero of the derivative, the
derivative is within 2⁻²⁴ times the size of the two terms that cancel there. Where the input or the
true result is subnormal or overflows, it is only promised that neither is NaN. Takes one to three
minutes a function on two cores.
"""

import argparse
import json
import platform
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from gelu_jax.activations import ACTIVATIONS
from gelu_jax.numerics.reference import REFERENCES, Function

# each zero of the derivative, and the size of the two terms that cancel there
CANCELLATIONS = {
    "gelu": [(-0.7517915246935645, 0.2260)],
    "gelu_10": [(-0.7517915246935645, 0.2260)],
    "gelu_tanh": [(-0.7524614220710163, 0.2258)],
    "gelu_sigmoid": [(-0.7511542554412227, 0.2178)],
    "silu": [(-1.278464542761074, 0.2178)],
    "mish": [(-1.1924012314748424, 0.2588)],
    "hard_silu": [(-1.5, 0.5)],
    "golu": [(-0.5671432904097838, 0.1715)],
    "situ": [(-1.2187557268720125, 0.2083)],
    "powlu": [(-1.278464542761074, 0.2178), (12.897428558386612, 0.2694)],
}
CHUNK, BLOCK = 1 << 22, 1 << 15  # inputs of one compiled call, and of one that fits NumPy's cache
SMALLEST, LARGEST = 2.0**-126, float(np.finfo(np.float32).max)
EVERYTHING = [0.0, float("inf")]
Worst = dict[str, tuple[float, float]]


def per_ulp(true: NDArray[np.float64]) -> NDArray[np.float64]:
    """1/ulp of float32 at each true value, from its bits."""
    exponent = np.maximum((true.view(np.int64) >> 52) & 0x7FF, 1023 - 126)
    return ((2 * 1023 + 23 - exponent) << 52).view(np.float64)


def errors(got: NDArray[np.float32], x: NDArray[np.float64], true_function: Function):
    """Absolute errors and errors in ulp, 0 where nothing is promised."""
    true = true_function(x)
    size = np.abs(true)
    promised = (size >= SMALLEST) & (size <= LARGEST) & (np.abs(x) >= SMALLEST)
    error = np.where(promised | np.isnan(got), np.abs(got - true), 0.0)
    return error, error * per_ulp(true)


def keep_worst(found: Worst, what: str, error: NDArray[np.float64], x: NDArray[np.float64]) -> None:
    """Keeps the largest error and where it occurs; NaN counts as the largest."""
    i = int(error.argmax())
    if not error[i] <= found.get(what, (-1.0, 0.0))[0]:
        found[what] = float(error[i]), float(x[i])


def worst(name: str, start: int) -> Worst:
    """The largest errors in one chunk of bit patterns, each with the input where it occurs."""
    x32 = np.arange(start, start + CHUNK, dtype=np.uint32).view(np.float32)
    x32 = np.where(np.isfinite(x32), x32, np.float32(0))
    value, slope = map(np.asarray, compiled(name)(x32))
    zeros = CANCELLATIONS.get(name, [])
    found: Worst = {}
    for i in range(0, CHUNK, BLOCK):
        block = slice(i, i + BLOCK)
        x = x32[block].astype(np.float64)
        keep_worst(found, "value ulp", errors(value[block], x, REFERENCES[name].value)[1], x)
        absolute, relative = errors(slope[block], x, REFERENCES[name].derivative)
        for zero, terms in zeros:
            near = np.abs(x - zero) <= 0.05
            relative[near] = 0.0
            if near.any():
                scaled = np.where(near, absolute, 0.0) * (2.0**24 / terms)
                keep_worst(found, "near zero, 2^-24 of terms", scaled, x)
        keep_worst(found, "derivative ulp", relative, x)
    return found


@cache
def compiled(name: str):
    """Value and derivative, by forward mode."""
    f = ACTIVATIONS[name]
    return jax.jit(lambda x: jax.jvp(f, (x,), (jnp.ones_like(x),)))


def chunks(magnitudes: list[float]) -> list[int]:
    """The first bit pattern of every chunk, of both signs, between two magnitudes."""
    low, high = (int(np.float32(m).view(np.int32)) for m in magnitudes)
    positive = range(low - low % CHUNK, high, CHUNK)
    return [*positive, *((1 << 31) + start for start in positive)]


def exhaust(name: str, magnitudes: list[float]) -> dict[str, object]:
    """The largest errors at all inputs of these magnitudes, as a line of the output."""
    began = time.perf_counter()
    total: Worst = {}
    with ThreadPoolExecutor(2) as pool, np.errstate(all="ignore"):
        for found in pool.map(lambda start: worst(name, start), chunks(magnitudes)):
            for what, (error, x) in found.items():
                keep_worst(total, what, np.array([error]), np.array([x]))
    kept = total.get("near zero, 2^-24 of terms", (0.0, 0.0))[0] <= 1
    kept &= total["value ulp"][0] <= 2 and total["derivative ulp"][0] <= 2
    return {
        "function": name,
        "inputs": "all"
        if magnitudes == EVERYTHING
        else f"{magnitudes[0]} <= |x| < {magnitudes[1]}",
        **{what: {"worst": e, "at": x, "hex": float(x).hex()} for what, (e, x) in total.items()},
        "promise kept": bool(kept),
        "seconds": round(time.perf_counter() - began, 1),
    }


def versions() -> dict[str, str]:
    """What the errors were measured on."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith("model name")),
        platform.processor(),
    )  # fmt: skip
    return {
        "jax": jax.__version__,
        "python": platform.python_version(),
        "device": f"{jax.devices()[0].platform}, {cpu}",
        "commit": commit.stdout.strip(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("functions", nargs="*", default=sorted(ACTIVATIONS))
    parser.add_argument("--magnitudes", type=float, nargs=2, default=EVERYTHING)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    for name in arguments.functions:
        row = json.dumps(exhaust(name, arguments.magnitudes) | versions())
        print(row, flush=True)
        if arguments.out:
            with arguments.out.open("a") as out:
                out.write(row + "\n")


if __name__ == "__main__":
    main()
