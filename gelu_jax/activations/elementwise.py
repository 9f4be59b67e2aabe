"""Makes an activation of two equations, that of its value and that of its derivative.

Precision, rounding, the rule for derivatives and what the backward pass keeps are decided here,
once for all activations.

An equation takes and returns a number that is either an array or a double word (`double_word.py`).
float32 and float64 inputs arrive as arrays; an equation that needs more bits makes a double word of
them. Narrower inputs arrive as double words of float32, and their result is rounded once. Of these,
bfloat16 has so few bits that none of its results lies close to the middle between two numbers: a
double word with a few guard bits is enough, for some functions even float32. Derivatives of higher
order differentiate the derivative's equation.

Correct rounding in 16 bits rests on this:

- float32 additions and multiplications round to nearest;
- the compiler keeps their order (XLA does, but for merging constants);
- float32 results are flushed to zero only if they are subnormal;
- conversions to 16 bits round to nearest even.

Contraction into fused multiply-adds, fusion with other operations and the width of vectors change
no bit of a float16 result. Before a bfloat16 result is rounded they may change float32's last
bits, on which none of the roundings depends. Error bounds alone cannot prove this, because nothing
bounds how close a true result comes to the middle between two numbers. Trying every input proves
it, which `gelu-jax numerics` does on the device at hand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from gelu_jax.activations.documentation import Elementwise, documented_by
from gelu_jax.activations.double_word import DoubleWord, Number, as_array


@dataclass(frozen=True, eq=False)
class Scaled:
    """number·power, multiplied after the number is rounded; or x itself above a bound.

    A result close to the least normal number has a lo that is subnormal, and lost where it is
    flushed to zero. So the number is carried larger than the result by a power of two.

    Attributes:
      number: the number, still to be rounded.
      power: a power of two, an array that broadcasts against the number, or a float.
      linear: x and the bound above which the result is x; None for no bound.
    """

    number: Number
    power: Array | float
    linear: tuple[Array, float] | None = None

    def linear_above(self, x: Number, bound: float) -> Scaled:
        """The same, but x itself where x is above a bound.

        Args:
          x: the input of the activation.
          bound: where the activation has become x in the dtype of `x`.

        Returns:
          A new `Scaled`.
        """
        return replace(self, linear=(as_array(x), bound))

    def unscaled(self, rounded: Array) -> Array:
        """The result, once the number is rounded.

        Args:
          rounded: the number as a float32 or float64 array.

        Returns:
          An array of the same dtype.
        """
        result = rounded * self.power
        if self.linear is None:
            return result
        x, bound = self.linear
        return jnp.where(x > bound, x, result)


Equation = Callable[[Number], Number | Scaled]


@jax.custom_jvp
def _rounded_to_odd(hi: Array, lo: Array) -> Array:
    """hi + lo in float32, rounded toward zero, with the last bit set if that lost anything.

    Rounding to nearest twice goes wrong where float32 rounds to the very middle between two float16
    numbers: the second rounding no longer sees on which side of it the number was. Rounding to odd
    keeps the side in the last bit, and any rounding to 22 bits or fewer that follows gives hi + lo
    correctly rounded (Boldo and Melquiond 2008, "Emulation of a FMA and correctly rounded sums").
    """
    total = hi + lo
    # what total has rounded off, exactly, because lo is the smaller (Dekker 1971, Fast2Sum)
    lost = lo - (total - hi)
    # Where total lies farther from zero than hi + lo, the float before it is hi + lo toward zero:
    # its bits as an integer, less one. An infinite total becomes the largest float, which every
    # narrower dtype rounds to infinity again, and NaN remains NaN.
    bits = lax.bitcast_convert_type(total, jnp.int32)
    toward_zero = jnp.where(lost * total >= 0, bits, bits - 1)
    return lax.bitcast_convert_type(toward_zero | (lost != 0).astype(jnp.int32), jnp.float32)


@_rounded_to_odd.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:  # pyright: ignore[reportUnusedFunction]
    return _rounded_to_odd(*primals), tangents[0] + tangents[1]


def _rounded(number: Number, to_odd: bool) -> Array:
    if isinstance(number, DoubleWord) and number.lo is not None and to_odd:
        return _rounded_to_odd(number.hi, number.lo)
    return as_array(number)


def _upcast(x: Array) -> Array:
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def _evaluate(equation: Equation, x: Array, in_float32: tuple[str, ...]) -> Array:
    """The equation's result in float32 or float64, good for one more rounding to the dtype of x."""
    number, bfloat16 = _upcast(x), x.dtype == jnp.bfloat16
    in_double_words = x.dtype != number.dtype and x.dtype.name not in in_float32
    if in_double_words:
        # the significand has at most 11 bits, so the input is its own upper half
        number = DoubleWord(number, is_split=True, guard_bits_only=bfloat16)
    result = equation(number)
    if isinstance(result, Scaled):
        return result.unscaled(_rounded(result.number, in_double_words))
    return _rounded(result, in_double_words)


IN_FLOAT32 = ("bfloat16", "float16", "float8_e4m3fn", "float8_e5m2")
"""Every narrow dtype, for `elementwise`."""


def refuse_jet(x: ArrayLike, function: str) -> None:
    """Says what jax would not: the Taylor coefficients would be those of masks of bits.

    Args:
      x: what the user passed.
      function: the name of the function, for the message.

    Raises:
      NotImplementedError: `x` comes from `jax.experimental.jet`.
    """
    if type(x).__name__ == "JetTracer":
        raise NotImplementedError(
            f"{function}: jax.experimental.jet does not call the rules of `jax.custom_jvp`, by "
            "which derivatives are defined here; nested jax.jvp gives the same coefficients"
        )


def require_floating(x: ArrayLike, function: str) -> Array:
    """The input of an activation as an array.

    Args:
      x: what the user passed.
      function: the name of the activation, for the message.

    Returns:
      `x` as an array.

    Raises:
      TypeError: `x` is not floating.
      NotImplementedError: `x` comes from `jax.experimental.jet`.
    """
    refuse_jet(x, function)
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"{function}: expected a floating dtype, got {x.dtype}; cast the input first"
        )
    return x


def elementwise(
    derivative: Equation, *, in_float32: tuple[str, ...] = ()
) -> Callable[[Equation], Elementwise]:
    """Makes an activation of its equation and the equation of its derivative.

    Args:
      derivative: the derivative's equation.
      in_float32: the 16-bit dtypes that are computed in float32 arrays rather than double words:
        "bfloat16" where no true bfloat16 result is within 2 ulp of float32 of the middle between
        two numbers; `IN_FLOAT32`, all of them, for equations written for arrays, whose results may
        then be wrong in the last bit.

    Returns:
      A decorator for the value's equation. The activation has its name and docstring.

    Examples:
      >>> def _slope(x):
      ...     return 1 / jnp.square(1 + jnp.abs(x))
      >>> @elementwise(derivative=_slope, in_float32=IN_FLOAT32)
      ... def softsign(x):
      ...     "x/(1 + |x|)."
      ...     return x / (1 + jnp.abs(x))
      >>> softsign(jnp.bfloat16(3)), jax.grad(softsign)(jnp.bfloat16(3))
      (Array(0.75, dtype=bfloat16), Array(0.0625, dtype=bfloat16))
    """

    def decorate(value: Equation) -> Elementwise:
        # without `checkpoint` the backward pass would keep the derivative beside the input
        @jax.checkpoint
        def tangent(x: Array, dx: Array) -> Array:
            return (_evaluate(derivative, x, in_float32) * _upcast(dx)).astype(x.dtype)

        @jax.custom_jvp
        def activation(x: Array) -> Array:
            return _evaluate(value, x, in_float32).astype(x.dtype)

        @activation.defjvp
        def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:  # pyright: ignore[reportUnusedFunction]
            (x,), (dx,) = primals, tangents
            return activation(x), tangent(x, dx)

        compiled = jax.jit(activation)

        @documented_by(value)
        def call(x: ArrayLike) -> Array:
            return compiled(require_floating(x, value.__name__))

        return call

    return decorate
