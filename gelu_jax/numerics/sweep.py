"""The sweep: every 16-bit input of every activation, on the device at hand.

The promise, for bfloat16 and float16: value and derivative are the true results correctly rounded,
at all 65,536 inputs. Where bfloat16's input or true result is subnormal, which XLA's CPU backend
flushes to zero, zero or the result at zero is accepted too. NaN gives NaN, and ±∞ the limit.
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
from gelu_jax.numerics.reference import REFERENCES, Float64, Function, Reference

Array16 = NDArray[Any]  # of float16, or of bfloat16, which NumPy's types cannot name
Implementation = Callable[[Any], Any]
Runner = Callable[[Implementation, Array16], tuple[Array16, Array16]]

DTYPES: Mapping[str, type] = {"bfloat16": bfloat16, "float16": np.float16}
# the least exponent of a normal number, and the bits of the significand
_MIN_EXPONENT = {"bfloat16": -126, "float16": -14}
_SIGNIFICAND_BITS = {"bfloat16": 8, "float16": 11}


@dataclass(frozen=True)
class SweepResult:
    """What one implementation of one activation gives at every input of one dtype.

    Attributes:
      function: canonical name of the activation.
      dtype: "bfloat16" or "float16".
      source: whose implementation: "gelu_jax", "jax.nn" or "torch".
      wrong_values: at how many inputs the value breaks the promise.
      wrong_derivatives: at how many inputs the derivative does.
      worst_value_ulp: largest distance of a value from the true one, in ulp; 0.5 if all are right.
      worst_value_at: the input where it occurs.
      worst_derivative_ulp: largest distance of a derivative from the true one, in ulp.
      worst_derivative_at: the input where it occurs.
      nans: how many values and derivatives are NaN at inputs that are not.
    """

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
    def keeps_promise(self) -> bool:
        """Whether value and derivative are correctly rounded everywhere."""
        return not (self.wrong_values or self.wrong_derivatives or self.nans)


def rounded(true: Float64, dtype: str) -> Array16:
    """Float64 numbers, rounded once to a 16-bit dtype.

    NumPy converts through float32, which would round twice; so the conversion to float32 rounds to
    odd (see `gelu_jax.activations.elementwise`).

    Args:
      true: the numbers, an array of any shape.
      dtype: "bfloat16" or "float16".

    Returns:
      An array of that dtype.
    """
    single = true.astype(np.float32)
    lost = true - single
    bits = single.view(np.int32) - (lost * np.sign(true) < 0)
    odd = np.where(np.isfinite(lost) & (lost != 0), bits | 1, single.view(np.int32))
    return odd.astype(np.int32).view(np.float32).astype(DTYPES[dtype])


def inputs(dtype: str) -> Array16:
    """All 65,536 numbers of a 16-bit dtype, in the order of their bits.

    Args:
      dtype: "bfloat16" or "float16".

    Returns:
      An array (65536,) of that dtype, NaN and infinities included.
    """
    return np.arange(65536, dtype=np.uint16).view(DTYPES[dtype])


def _true(function: Function, x: Float64) -> Float64:
    """The reference, at ±∞ by a number close enough to it."""
    return function(np.clip(x, -1e300, 1e300))


@np.errstate(all="ignore")
def _errors(
    got: Array16, x: Float64, function: Function, dtype: str
) -> tuple[NDArray[np.bool_], Float64]:
    """Where the promise is broken; and the distance from the truth in ulp, 0 where it is exempt."""
    true = _true(function, x)
    want, at_zero = rounded(true, dtype), rounded(_true(function, np.zeros(1)), dtype)
    wrong = (got != want) & ~(np.isnan(got) & np.isnan(x))
    wrong &= ~np.isnan(true) | np.isnan(x)
    least = _MIN_EXPONENT[dtype]
    exponent = np.maximum(np.frexp(true)[1] - 1, least)
    unit = np.ldexp(1.0, exponent - _SIGNIFICAND_BITS[dtype] + 1)
    ulp = np.abs(got.astype(np.float64) - true) / unit
    exempt = ~np.isfinite(ulp)
    if dtype == "bfloat16":
        flushed = (np.abs(true) < 2.0**least) | (np.abs(x) < 2.0**least)
        wrong &= ~(flushed & ((got == 0) | (got == at_zero)))
        exempt |= flushed
    return wrong, np.where(exempt, 0.0, ulp)


def value_and_derivative(f: Callable[[Array], Array], x: Array) -> tuple[Array, Array]:
    """f and f′ at every element, by reverse mode.

    Args:
      f: an elementwise function of JAX.
      x: floating-point array of any shape.

    Returns:
      f(x) and f′(x), each of the shape and dtype of `x`.
    """
    y, pullback = jax.vjp(f, x)
    return y, pullback(jnp.ones_like(x))[0]


def jax_value_and_derivative(
    f: Callable[[Array], Array], x: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """f and f′ at every element of a NumPy array, compiled by JAX.

    Args:
      f: an elementwise function of JAX.
      x: floating-point array of any shape.

    Returns:
      f(x) and f′(x), each of the shape and dtype of `x`.
    """
    value, derivative = jax.jit(lambda x: value_and_derivative(f, x))(jnp.asarray(x))
    return np.asarray(value), np.asarray(derivative)


def measure(
    f: Implementation,
    function: str,
    dtype: str,
    source: str,
    run: Runner = jax_value_and_derivative,
) -> SweepResult:
    """Compares one implementation with the reference at every input of a dtype.

    Args:
      f: the implementation.
      function: canonical name of the activation.
      dtype: "bfloat16" or "float16".
      source: whose implementation it is.
      run: evaluates value and derivative of `f` at a NumPy array.

    Returns:
      The result.
    """
    return assess(*run(f, inputs(dtype)), function, dtype, source)


@np.errstate(invalid="ignore")  # ml_dtypes warns of the NaN among the inputs
def assess(
    value: Array16, derivative: Array16, function: str, dtype: str, source: str
) -> SweepResult:
    """Compares the results of an implementation with the reference.

    Args:
      value: its values at `inputs(dtype)`, an array (65536,) of that dtype.
      derivative: its derivatives there, likewise.
      function: canonical name of the activation.
      dtype: "bfloat16" or "float16".
      source: whose implementation it is.

    Returns:
      The result.
    """
    x = inputs(dtype)
    return compare(value, derivative, x, REFERENCES[function], function, dtype, source)


@np.errstate(invalid="ignore")
def compare(
    value: Array16,
    derivative: Array16,
    inputs: Array16,
    reference: Reference,
    function: str,
    dtype: str,
    source: str,
) -> SweepResult:
    """Compares results at any inputs with a reference.

    Args:
      value: the values, an array (n,) of a 16-bit dtype.
      derivative: the derivatives, likewise.
      inputs: the inputs, likewise.
      reference: the true value and derivative; where it is NaN, nothing is compared.
      function: what the activation is called.
      dtype: "bfloat16" or "float16".
      source: whose implementation it is.

    Returns:
      The result.
    """
    x = inputs.astype(np.float64)
    wrong, ulp = _errors(value, x, reference.value, dtype)
    wrong_slope, slope_ulp = _errors(derivative, x, reference.derivative, dtype)
    i, j = int(ulp.argmax()), int(slope_ulp.argmax())
    return SweepResult(
        function=function,
        dtype=dtype,
        source=source,
        wrong_values=int(wrong.sum()),
        wrong_derivatives=int(wrong_slope.sum()),
        worst_value_ulp=float(ulp[i]),
        worst_value_at=float(x[i]),
        worst_derivative_ulp=float(slope_ulp[j]),
        worst_derivative_at=float(x[j]),
        nans=sum(int((np.isnan(y) & ~np.isnan(x)).sum()) for y in (value, derivative)),
    )


def sweep(
    functions: Iterable[str] = tuple(ACTIVATIONS), dtypes: Iterable[str] = tuple(DTYPES)
) -> list[SweepResult]:
    """Measures ours, JAX's own and, where it is installed, torch's, at every input.

    Args:
      functions: canonical names of the activations.
      dtypes: "bfloat16", "float16" or both.

    Returns:
      A result for each function, dtype and source, in this order.
    """
    sources: dict[str, tuple[Mapping[str, Implementation], Runner]] = {
        "gelu_jax": (ACTIVATIONS, jax_value_and_derivative),
        "jax.nn": (JAX_NN, jax_value_and_derivative),
        "torch": (torch_functions(), torch_value_and_derivative),
    }
    return [
        measure(offered[name], name, dtype, source, run)
        for name, dtype in product(functions, tuple(dtypes))
        for source, (offered, run) in sources.items()
        if name in offered
    ]


def _broken(results: Iterable[SweepResult]) -> list[SweepResult]:
    return [r for r in results if r.source == "gelu_jax" and not r.keeps_promise]


def promise_kept(results: Iterable[SweepResult]) -> bool:
    """Whether ours keep the promise; if not, `gelu-jax numerics` exits with 1.

    Args:
      results: what `sweep` returned.

    Returns:
      True if every result of "gelu_jax" is correctly rounded.
    """
    return not _broken(results)


def table(results: Sequence[SweepResult]) -> Table:
    """The results side by side, with the device and version they were measured on.

    Args:
      results: what `sweep` returned.

    Returns:
      The table; a broken promise is bold and red.
    """
    device = jax.devices()[0]
    title = f"Every 16-bit input, jax {jax.__version__} on {device.platform} ({device.device_kind})"
    rows = Table(title=title)
    for heading in ("function", "dtype", "source"):
        rows.add_column(heading)
    for heading in ("wrong values", "wrong derivatives", "worst value", "worst derivative", "NaN"):
        rows.add_column(heading, justify="right")
    for r in results:
        rows.add_row(
            r.function,
            r.dtype,
            r.source,
            str(r.wrong_values),
            str(r.wrong_derivatives),
            f"{r.worst_value_ulp:.4g} ulp at {r.worst_value_at:.6g}",
            f"{r.worst_derivative_ulp:.4g} ulp at {r.worst_derivative_at:.6g}",
            str(r.nans),
            style="bold red" if _broken([r]) else None,
        )
    return rows


def report(results: Sequence[SweepResult], console: Console | None = None) -> None:
    """Prints the table and whether the promise is kept.

    Args:
      results: what `sweep` returned.
      console: where to print; standard output by default.
    """
    console = console or Console()
    console.print(table(results))
    broken = ", ".join(f"{r.function} {r.dtype}" for r in _broken(results))
    console.print(f"promise broken: {broken}" if broken else "promise kept")
