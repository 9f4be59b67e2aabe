"""The one place for: wide inside, one rounding out, derivative rule, only the input kept.

An activation is two equations, its value and its derivative, written for numbers that are either
arrays or pairs (`pairs.py`). float32 and float64 arrive as arrays; an equation that needs more bits
makes a pair of them with `pair(x)`. Narrower dtypes arrive as pairs in float32 and leave with one
rounding. In bfloat16 no true result lies so close to the middle between two numbers that a few bits
beyond float32 would not do (its pairs are wide), and for some functions float32 itself is enough.
Derivatives of higher order differentiate the derivative's equation.

What correct rounding in 16 bits rests on: float32 additions and multiplications that round to
nearest, in an order the compiler keeps (XLA does, but for merging constants); float32 results that
may be flushed to zero only when subnormal; and conversions to 16 bits that round to nearest even.
Contraction into fused multiply-adds, fusion with other operations and vector width do not matter
in float16; in bfloat16 they may move bits about float32's last, which no rounding seen depends on.
`gelu-jax numerics` tries every input on the device at hand.
"""

from collections.abc import Callable
from functools import wraps

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from gelu_jax.activations.double_word import Number, Pair, plain

Elementwise = Callable[[ArrayLike], Array]
Equation = Callable[[Number], "Number | Scaled"]


class Scaled:
    """number·power, multiplied out after rounding; where x is beyond a bound, x itself.

    The power, of two, keeps every bit of a result whose factors would be subnormal.
    """

    def __init__(self, number: Number, power: Array | float):
        self.number, self.power = number, power
        self.far: tuple[Array, float] | None = None

    def linear_beyond(self, x: Number, bound: float) -> "Scaled":
        self.far = plain(x), bound
        return self

    def finished(self, rounded: Array) -> Array:
        result = rounded * self.power
        return (
            result
            if self.far is None
            else jnp.where(self.far[0] > self.far[1], self.far[0], result)
        )


@jax.custom_jvp
def _rounded_to_odd(hi: Array, lo: Array) -> Array:
    """hi + lo toward zero, with the last bit set if that lost anything.

    Rounding it again, to fewer bits, gives hi + lo correctly rounded (Boldo and Melquiond 2008).
    """
    total = hi + lo
    lost = lo - (total - hi)
    bits = lax.bitcast_convert_type(total, jnp.int32)
    toward_zero = jnp.where(lost * total >= 0, bits, bits - 1)
    return lax.bitcast_convert_type(toward_zero | (lost != 0).astype(jnp.int32), jnp.float32)


@_rounded_to_odd.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:  # pyright: ignore[reportUnusedFunction]
    return _rounded_to_odd(*primals), tangents[0] + tangents[1]


def _rounded(number: Number, narrow: bool) -> Array:
    if not isinstance(number, Pair):
        return number
    if number.lo is None or not narrow:
        return number.sum()
    return _rounded_to_odd(number.hi, number.lo)


def _wide(x: Array) -> Array:
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def _evaluate(equation: Equation, x: Array, bfloat16_in_pairs: bool) -> Array:
    """The equation's result in float32 or float64, good for one more rounding."""
    bfloat16 = x.dtype == jnp.bfloat16
    narrow = bfloat16_in_pairs if bfloat16 else x.dtype not in (jnp.float32, jnp.float64)
    result = equation(Pair(_wide(x), is_cut=True, is_wide=bfloat16) if narrow else _wide(x))
    if isinstance(result, Scaled):
        return result.finished(_rounded(result.number, narrow))
    return _rounded(result, narrow)


def floating(x: ArrayLike, name: str) -> Array:
    """The input as an array, or a `TypeError` that names the function and the dtype it got."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{name}: expected a floating dtype, got {x.dtype}; cast the input first")
    return x


def elementwise(
    derivative: Equation, *, bfloat16_in_pairs: bool = True
) -> Callable[[Equation], Elementwise]:
    """Makes an activation of its equation and the equation of its derivative.

    ``bfloat16_in_pairs`` may be False where no true bfloat16 result is within 2 ulp of float32 of
    the middle between two numbers.
    """

    def decorate(value: Equation) -> Elementwise:
        # without `checkpoint` the backward pass would keep the derivative beside the input
        @jax.checkpoint
        def tangent(x: Array, dx: Array) -> Array:
            return (_evaluate(derivative, x, bfloat16_in_pairs) * _wide(dx)).astype(x.dtype)

        @jax.custom_jvp
        def activation(x: Array) -> Array:
            return _evaluate(value, x, bfloat16_in_pairs).astype(x.dtype)

        @activation.defjvp
        def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:  # pyright: ignore[reportUnusedFunction]
            (x,), (dx,) = primals, tangents
            return activation(x), tangent(x, dx)

        compiled = jax.jit(activation)

        @wraps(value)
        def call(x: ArrayLike) -> Array:
            return compiled(floating(x, value.__name__))

        return call

    return decorate
