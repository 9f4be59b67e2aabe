"""A person's own activation, tried at every 16-bit input beside its own reference.

The reference is the person's function of one mpmath number, evaluated with 160 bits and
differentiated numerically with as many again; or, where there is none, the activation itself in
float64. Both are rounded once.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
from jax import Array
from numpy.typing import NDArray

from gelu_jax.numerics.reference import Float64, Reference
from gelu_jax.numerics.sweep import (
    DTYPES,
    SweepResult,
    compare,
    inputs,
    jax_value_and_derivative,
    value_and_derivative,
)

_BITS = 160
_GRID = np.linspace(-12, 12, 4801)
Own = Callable[[Array], Array]
Exact = Callable[[Any], Any]


@dataclass(frozen=True)
class Examination:
    """What was found of an activation.

    Attributes:
      rows: the comparison with its reference, one for each dtype.
      second_nans: of each dtype, how many second derivatives are NaN at finite inputs.
      limits: its values at −∞ and +∞ in float32.
      slopes: its derivatives there.
      falling: the intervals of [−12, 12] in which it falls as x grows, found on a grid of 0.005.
      curves: x, value, first and second derivative on that grid, in float32.
    """

    rows: tuple[SweepResult, ...]
    second_nans: dict[str, int]
    limits: tuple[float, float]
    slopes: tuple[float, float]
    falling: tuple[tuple[float, float], ...]
    curves: tuple[NDArray[Any], ...]


def examine(
    f: Own, name: str, reference: Exact | None = None, dtypes: Iterable[str] = tuple(DTYPES)
) -> Examination:
    """Tries an activation at every 16-bit input, at ±∞ and on a grid.

    Args:
      f: a function of one JAX array, elementwise.
      name: what to call it.
      reference: the same function of one mpmath number; None for `f` in float64.
      dtypes: "bfloat16", "float16" or both.

    Returns:
      What was found.

    Raises:
      ValueError: `f` does not return an array of the shape and dtype of its input.
    """
    dtypes = tuple(dtypes)
    for dtype in dtypes:
        _check_elementwise(f, dtype)
    truth = _in_float64(f) if reference is None else _exact(reference)
    value, slope = (y.astype(np.float64) for y in jax_value_and_derivative(f, _ENDS))
    curves = _three_derivatives(f, _GRID.astype(np.float32))
    return Examination(
        rows=tuple(_compared(f, name, dtype, truth) for dtype in dtypes),
        second_nans={dtype: _second_nans(f, dtype) for dtype in dtypes},
        limits=(float(value[0]), float(value[1])),
        slopes=(float(slope[0]), float(slope[1])),
        falling=_falling(curves[0]),
        curves=(_GRID, *curves),
    )


_ENDS = np.asarray([-np.inf, np.inf], np.float32)


def _check_elementwise(f: Own, dtype: str) -> None:
    x = jax.ShapeDtypeStruct((2, 3), dtype)
    y: Any = jax.eval_shape(f, x)
    if getattr(y, "shape", None) != x.shape or getattr(y, "dtype", None) != x.dtype:
        raise ValueError(f"of a {dtype}[2,3] it makes {y}; it must keep shape and dtype")


@np.errstate(invalid="ignore")
def _compared(f: Own, name: str, dtype: str, truth: Reference) -> SweepResult:
    x = inputs(dtype)
    x = x[np.isfinite(x.astype(np.float32))]
    value, derivative = jax_value_and_derivative(f, x)
    return compare(value, derivative, x, truth, name, dtype, "yours")


@np.errstate(invalid="ignore")
def _second_nans(f: Own, dtype: str) -> int:
    x = inputs(dtype)
    x = x[np.isfinite(x.astype(np.float32))]
    return int(np.isnan(_three_derivatives(f, x)[2].astype(np.float32)).sum())


def _three_derivatives(f: Own, x: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """f, f′ and f″."""

    def all_three(x: Array) -> tuple[Array, Array, Array]:
        (y, slope), (_, second) = jax.jvp(
            lambda x: value_and_derivative(f, x), (x,), (jnp.ones_like(x),)
        )
        return y, slope, second

    y, slope, second = jax.jit(all_three)(jnp.asarray(x))
    return np.asarray(y), np.asarray(slope), np.asarray(second)


def _falling(values: NDArray[Any]) -> tuple[tuple[float, float], ...]:
    down = np.concatenate([[False], np.diff(values.astype(np.float64)) < 0, [False]])
    starts, ends = np.flatnonzero(~down[:-1] & down[1:]), np.flatnonzero(down[:-1] & ~down[1:])
    return tuple(
        (round(float(_GRID[a]), 3), round(float(_GRID[b]), 3))
        for a, b in zip(starts, ends, strict=True)
    )


def _in_float64(f: Own) -> Reference:
    def both(x: Float64) -> tuple[Float64, Float64]:
        with jax.enable_x64(True):
            return jax_value_and_derivative(f, x)

    return Reference(lambda x: both(x)[0], lambda x: both(x)[1])


def _exact(reference: Exact) -> Reference:
    def value(x: Float64) -> Float64:
        with mpmath.workprec(_BITS):
            return np.asarray([_to_odd(reference, v) for v in x])

    def derivative(x: Float64) -> Float64:
        with mpmath.workprec(_BITS):
            return np.asarray([_to_odd(lambda v: mpmath.diff(reference, v), v) for v in x])

    return Reference(value, derivative)


def _to_odd(function: Exact, x: float) -> float:
    """f(x) in float64, rounded to odd, so that it can be rounded once more; NaN where it fails."""
    try:
        exact = mpmath.mpf(function(mpmath.mpf(x)))
        near = float(exact)
    except (ArithmeticError, ValueError, TypeError):
        return float("nan")
    even = np.float64(near).view(np.int64) % 2 == 0
    if near == exact or not even or not np.isfinite(near):
        return near
    return float(np.nextafter(near, np.inf if exact > near else -np.inf))
