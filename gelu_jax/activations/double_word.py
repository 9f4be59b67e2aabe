"""Numbers carried as an unevaluated sum hi + lo: some 35 bits in float32, 80 in float64.

The product of two float32 numbers of 12 bits is exact. Each operation here cuts its operands to
that size before a product that it must not lose, and recovers what a sum rounds off (Dekker 1971,
Knuth 1969). No step needs a fused multiply-add; and since the products that matter are exact, a
compiler that contracts a·b + c into one changes no bit of them. The same holds in float64 with 26
bits. What must not happen is that a compiler reassociates sums; XLA merges only constants.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax


@jax.custom_jvp
def cut(x: Array) -> Array:
    """The leading half of the bits of x, toward zero: 12 of float32's 24, 26 of float64's 53."""
    unsigned, dropped = (jnp.uint32, 12) if x.dtype == jnp.float32 else (jnp.uint64, 27)
    kept = ~unsigned((1 << dropped) - 1)
    return lax.bitcast_convert_type(lax.bitcast_convert_type(x, unsigned) & kept, x.dtype)


@cut.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:  # pyright: ignore[reportUnusedFunction]
    return cut(*primals), tangents[0]


def reciprocal(x: Array) -> Array:
    """1/x for a normal x > 0 to 2⁻²² (float64: 2⁻⁴⁸), by Newton's iteration from the exponent.

    XLA breaks a fused loop at a division whose result is used twice; this has none.
    """
    single = x.dtype == jnp.float32
    integer, start = (jnp.int32, 0x7EF311C7) if single else (jnp.int64, 0x7FDE623822FC16E6)
    y = lax.bitcast_convert_type(start - lax.bitcast_convert_type(x, integer), x.dtype)
    for _ in range(3 if single else 4):
        y = y * (2 - x * y)
    return y


class Pair:
    """hi + lo, where `lo` is None if it is exactly zero.

    `is_cut` tells that hi fits half the bits, and `is_wide` that a few bits beyond float32, or
    float64, are enough: for an input of that dtype, and for bfloat16.
    """

    def __init__(
        self, hi: Array, lo: Array | None = None, *, is_cut: bool = False, is_wide: bool = False
    ):
        self.hi, self.lo, self.is_cut, self.is_wide = hi, lo, is_cut, is_wide

    def sum(self) -> Array:
        """hi + lo, rounded once."""
        return self.hi if self.lo is None else self.hi + self.lo

    def cut(self) -> Pair:
        """The same number with a hi of half the bits."""
        if self.is_cut:
            return self
        hi = cut(self.sum())
        return Pair(hi, _plus(self.hi - hi, self.lo), is_cut=True, is_wide=self.is_wide)

    def __neg__(self) -> Pair:
        lo = None if self.lo is None else -self.lo
        return Pair(-self.hi, lo, is_cut=self.is_cut, is_wide=self.is_wide)

    def __add__(self, other: Operand) -> Pair:
        b = pair(other, self)
        total = self.hi + b.hi
        from_b = total - self.hi
        lost = (self.hi - (total - from_b)) + (b.hi - from_b)
        lo = b.lo if self.lo is None else _plus(self.lo, b.lo)
        return Pair(total, _plus(lost, lo), is_wide=self.is_wide or b.is_wide)

    def __mul__(self, other: Operand) -> Pair:
        a, b = self.cut(), pair(other, self).cut()
        lo = None if b.lo is None else a.hi * b.lo
        lo = lo if a.lo is None else _plus(a.lo * b.sum(), lo)
        return Pair(a.hi * b.hi, lo, is_wide=a.is_wide or b.is_wide)

    def __truediv__(self, other: Operand) -> Pair:
        d = pair(other, self).cut()
        inverse = reciprocal(d.sum())
        quotient = cut(self.sum() * inverse)
        rest = _plus(self.hi - quotient * d.hi, self.lo)
        rest = rest if d.lo is None else rest - quotient * d.lo
        return Pair(quotient, rest * inverse, is_cut=True, is_wide=self.is_wide or d.is_wide)

    def __sub__(self, other: Operand) -> Pair:
        return self + -pair(other, self)

    def __rsub__(self, other: Operand) -> Pair:
        return -self + other

    def __rtruediv__(self, other: Operand) -> Pair:
        return pair(other, self) / self

    __radd__, __rmul__ = __add__, __mul__

    def scaled(self, power: Array | float) -> Pair:
        """The number times a power of two, which costs no accuracy."""
        lo = None if self.lo is None else self.lo * power
        return Pair(self.hi * power, lo, is_cut=self.is_cut, is_wide=self.is_wide)

    def sqrt(self) -> Pair:
        """The square root of a positive number."""
        root = jnp.sqrt(self.sum())
        hi = cut(root)
        rest = _plus(self.hi - hi * hi, self.lo)
        return Pair(hi, rest * reciprocal(root + hi), is_cut=True, is_wide=self.is_wide)


Number = Pair | Array
Operand = Number | float | str | Fraction


def _plus(a: Array, b: Array | None) -> Array:
    return a if b is None else a + b


def pair(x: Operand, like: Pair | None = None) -> Pair:
    """A pair as it is, an array cut in two, a constant to the last bit: write 1.702 as "1.702"."""
    if isinstance(x, Pair):
        return x
    if isinstance(x, Array):
        hi = cut(x)
        return Pair(hi, x - hi, is_cut=True, is_wide=True)
    if like is None:
        raise TypeError(f"the constant {x!r} needs a pair to take its dtype from")
    return _constant(Fraction(x), like.hi.dtype)


def _constant(x: Fraction, dtype: jnp.dtype) -> Pair:
    unit = Fraction(2) ** (math.frexp(float(x))[1] - (12 if dtype == jnp.float32 else 26))
    hi = int(x / unit) * unit
    lo = None if hi == x else jnp.asarray(float(x - hi), dtype)
    return Pair(jnp.asarray(float(hi), dtype), lo, is_cut=True)


def plain(x: Number) -> Array:
    """The number as one array."""
    return x.sum() if isinstance(x, Pair) else x


def where(condition: Array, then: Number, otherwise: Number) -> Any:
    """An elementwise choice between two pairs, or two arrays."""
    if not (isinstance(then, Pair) and isinstance(otherwise, Pair)):
        return jnp.where(condition, plain(then), plain(otherwise))
    lo = None
    if then.lo is not None or otherwise.lo is not None:
        lo = jnp.where(condition, _lo(then), _lo(otherwise))
    return Pair(
        jnp.where(condition, then.hi, otherwise.hi),
        lo,
        is_cut=then.is_cut and otherwise.is_cut,
        is_wide=then.is_wide or otherwise.is_wide,
    )


def _lo(x: Pair) -> Array:
    return jnp.zeros_like(x.hi) if x.lo is None else x.lo


def magnitude(x: Number) -> Any:
    """|x|, differentiable at 0 from the right."""
    return where(plain(x) < 0, -x, x)


def clamped(x: Number, low: float, high: float) -> Number:
    """The number kept within bounds of at most 12 bits, NaN handed on; a pair must have no lo."""
    if isinstance(x, Pair):
        return Pair(_clamped(x.hi, low, high), is_cut=True, is_wide=x.is_wide)
    return _clamped(x, low, high)


def _clamped(x: Array, low: float, high: float) -> Array:
    # each choice becomes one instruction; jnp.clip, which orders −0 and +0, takes several
    if low > -jnp.inf:
        x = jnp.where(x < low, jnp.asarray(low, x.dtype), x)
    return jnp.where(x > high, jnp.asarray(high, x.dtype), x) if high < jnp.inf else x


def times(x: Number, factor: Pair) -> Number:
    """x·factor, an array for an array."""
    return x * factor if isinstance(x, Pair) else x * factor.sum()
