"""Computes the goldens of the activations with 160-bit arithmetic, in some minutes.

    python tests/golden/generate.py [FUNCTION ...]

`rounded_16.json` holds the SHA-256 of the correctly rounded values and derivatives of each
function at all finite inputs of float16 and bfloat16, with zeros stripped of their sign: see
tests/numerics/test_reference.py. `float64.npz` holds inputs, and the results rounded to float64:
see tests/activations/test_accuracy.py.
With names of functions, only their goldens are computed, and the others are kept.
"""

import hashlib
import json
import math
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
from mpmath import mp, mpf
from truth import TRUTH, Real

HERE = Path(__file__).parent
# bits of the significand, exponent of the least subnormal
FORMATS = {"float16": (np.float16, 11, -24), "bfloat16": (ml_dtypes.bfloat16, 8, -133)}
FLOAT64 = (53, -1074)
POINTS = 5000


def rounded(value: mpf, bits: int, least: int) -> float:
    """The value rounded to nearest, ties to even, in a format of unlimited range upward.

    Args:
      value: the value.
      bits: the bits of the format's significand.
      least: the exponent of its least subnormal number.
    """
    if value == 0:
        return 0.0
    _, exponent = mp.frexp(value)
    unit = max(exponent - bits, least)
    if exponent > 1024:
        return math.copysign(math.inf, value)
    return float(mp.ldexp(mp.nint(mp.ldexp(value, -unit)), unit))


def digest(f: Real, dtype: str) -> str:
    """The SHA-256 of the rounded results at every finite input of a dtype."""
    kind, bits, least = FORMATS[dtype]
    x = np.arange(65536, dtype=np.uint16).view(kind).astype(np.float64)
    x = x[np.isfinite(x)]
    with np.errstate(over="ignore"):
        results = np.array([rounded(f(mpf(v)), bits, least) for v in x]).astype(kind)
    return hashlib.sha256((results + kind(0)).tobytes()).hexdigest()


def sample(points: int, seed: int) -> np.ndarray:
    """Points where the functions bend, where they end, tiny ones and huge ones."""
    random = np.random.default_rng(seed)
    bends = random.uniform(-45, 45, points * 3 // 5)
    tails = random.uniform(-760, 760, points // 5)
    spread = np.exp(random.uniform(-690, 690, points // 5)) * random.choice([-1, 1], points // 5)
    return np.concatenate([bends, tails, spread])


def main(names: list[str]) -> None:
    digests, x = {}, sample(POINTS, seed=0)
    results = {"x": x}
    if names:
        digests = json.loads((HERE / "rounded_16.json").read_text())
        results = dict(np.load(HERE / "float64.npz"))
        x = results["x"]  # NumPy's exp differs in the last bit from version to version
    for name in names or TRUTH:
        for what, f in zip(("value", "derivative"), TRUTH[name], strict=True):
            digests |= {f"{name} {what} {dtype}": digest(f, dtype) for dtype in FORMATS}
            results[f"{name} {what}"] = np.array([rounded(f(mpf(v)), *FLOAT64) for v in x])
        print(name, flush=True)
    (HERE / "rounded_16.json").write_text(json.dumps(digests, indent=1) + "\n")
    np.savez_compressed(HERE / "float64.npz", **results)


if __name__ == "__main__":
    main(sys.argv[1:])
