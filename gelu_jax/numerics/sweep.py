"""The 16-bit promise, tried on the device at hand: every input of every activation.

The promise, for bfloat16 and float16: value and derivative are the true results correctly rounded,
at all 65,536 inputs. Where bfloat16's input or true result is subnormal, which XLA's CPU backend
flushes, zero or the result at zero will do. NaN gives NaN, and ±∞ the limit.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_dtypes import bfloat16
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from gelu_jax.activations.names import ACTIVATIONS
from gelu_jax.numerics.peers import JAX_NN, torch_functions, torch_value_and_derivative
from gelu_jax.numerics.reference import REFERENCES, Float64, Function

Halves = NDArray[Any]  # float16, or bfloat16, which NumPy cannot name
Run = Callable[[Callable[[Any], Any], Halves], tuple[Halves, Halves]]

DTYPES: Mapping[str, type] = {"bfloat16": bfloat16, "float16": np.float16}
# least exponent of a normal number, bits of the significand, what the device may flush
_LEAST = {"bfloat16": (-126, 8), "float16": (-14, 11)}


@dataclass(frozen=True)
class Row:
    """One implementation of one activation at every input of one dtype."""

    function: str
    dtype: str
    source: str
    wrong_values: int
    wrong_derivatives: int
    worst_value_ulp: float
    worst_value_at: float
    worst_derivative_ulp: float
    worst_derivative_at: float
    nans: int

    @property
    def kept(self) -> bool:
        """Whether the promise holds."""
        return not (self.wrong_values or self.wrong_derivatives or self.nans)


def rounded(true: Float64, dtype: str) -> Halves:
    """float64 rounded once to a 16-bit dtype: through float32, but rounded to odd there."""
    single = true.astype(np.float32)
    lost = true - single
    bits = single.view(np.int32) - (lost * np.sign(true) < 0)
    odd = np.where(np.isfinite(lost) & (lost != 0), bits | 1, single.view(np.int32))
    return odd.astype(np.int32).view(np.float32).astype(DTYPES[dtype])


def inputs(dtype: str) -> Halves:
    """All 65,536 bit patterns."""
    return np.arange(65536, dtype=np.uint16).view(DTYPES[dtype])


def _true(function: Function, x: Float64) -> Float64:
    return function(np.clip(x, -1e300, 1e300))


@np.errstate(all="ignore")
def _judged(
    got: Halves, x: Float64, function: Function, dtype: str
) -> tuple[NDArray[np.bool_], Float64]:
    """Where the promise is broken, and the distance from the true result in ulp where it binds."""
    true = _true(function, x)
    want, at_zero = rounded(true, dtype), rounded(_true(function, np.zeros(1)), dtype)
    wrong = (got != want) & ~(np.isnan(got) & np.isnan(x))
    least, bits = _LEAST[dtype]
    exponent = np.maximum(np.frexp(true)[1] - 1, least)
    ulp = np.abs(got.astype(np.float64) - true) / np.ldexp(1.0, exponent - bits + 1)
    free = ~np.isfinite(ulp)
    if dtype == "bfloat16":
        flushed = (np.abs(true) < 2.0**least) | (np.abs(x) < 2.0**least)
        wrong &= ~(flushed & ((got == 0) | (got == at_zero)))
        free |= flushed
    return wrong, np.where(free, 0.0, ulp)


def value_and_derivative(f: Callable[[Array], Array], x: Array) -> tuple[Array, Array]:
    """f and f′ at every element, by reverse mode."""
    y, pull = jax.vjp(f, x)
    return y, pull(jnp.ones_like(x))[0]


def jitted(f: Callable[[Array], Array], x: Halves) -> tuple[Halves, Halves]:
    """The same of NumPy's arrays, compiled."""
    value, derivative = jax.jit(lambda x: value_and_derivative(f, x))(jnp.asarray(x))
    return np.asarray(value), np.asarray(derivative)


@np.errstate(invalid="ignore")  # ml_dtypes warns of the NaN among the inputs
def measure(
    f: Callable[[Any], Any], function: str, dtype: str, source: str, run: Run = jitted
) -> Row:
    """Compares an implementation with the truth at every input of a dtype."""
    halves = inputs(dtype)
    x = halves.astype(np.float64)
    results = run(f, halves)
    judged = [_judged(y, x, g, dtype) for y, g in zip(results, REFERENCES[function], strict=True)]
    (wrong, ulp), (wrong_slope, slope_ulp) = judged
    i, j = int(ulp.argmax()), int(slope_ulp.argmax())
    nans = sum(int((np.isnan(y) & ~np.isnan(x)).sum()) for y in results)
    return Row(
        function, dtype, source, int(wrong.sum()), int(wrong_slope.sum()),
        float(ulp[i]), float(x[i]), float(slope_ulp[j]), float(x[j]), nans,
    )  # fmt: skip


def sweep(
    functions: Iterable[str] = tuple(ACTIVATIONS), dtypes: Iterable[str] = tuple(DTYPES)
) -> list[Row]:
    """Ours, JAX's own and, where it is installed, torch's, at every input: a row for each."""
    sources = {
        "gelu_jax": (ACTIVATIONS, jitted),
        "jax.nn": (JAX_NN, jitted),
        "torch": (torch_functions(), torch_value_and_derivative),
    }
    return [
        measure(offered[name], name, dtype, source, run)
        for name, dtype in product(functions, tuple(dtypes))
        for source, (offered, run) in sources.items()
        if name in offered
    ]


def promise_kept(rows: Iterable[Row]) -> bool:
    """Whether every row of ours keeps the promise: the exit code of `gelu-jax numerics`."""
    return all(row.kept for row in rows if row.source == "gelu_jax")


def table(rows: Sequence[Row]) -> Table:
    """The rows side by side, with the device and version they were measured on."""
    device = jax.devices()[0]
    title = f"Every 16-bit input, jax {jax.__version__} on {device.platform} ({device.device_kind})"
    result = Table(title=title)
    for heading in ("function", "dtype", "source"):
        result.add_column(heading)
    for heading in ("wrong values", "wrong derivatives", "worst value", "worst derivative", "NaN"):
        result.add_column(heading, justify="right")
    for row in rows:
        result.add_row(
            row.function,
            row.dtype,
            row.source,
            str(row.wrong_values),
            str(row.wrong_derivatives),
            f"{row.worst_value_ulp:.4g} ulp at {row.worst_value_at:.6g}",
            f"{row.worst_derivative_ulp:.4g} ulp at {row.worst_derivative_at:.6g}",
            str(row.nans),
            style=None if row.kept or row.source != "gelu_jax" else "bold red",
        )
    return result


def report(rows: Sequence[Row], console: Console | None = None) -> None:
    """Prints the table and whether the promise holds here."""
    console = console or Console()
    console.print(table(rows))
    broken = [f"{r.function} {r.dtype}" for r in rows if r.source == "gelu_jax" and not r.kept]
    console.print(f"promise broken: {', '.join(broken)}" if broken else "promise kept")
