"""Double-word arithmetic: a number carried as the unevaluated sum hi + lo of two floats.

Rounding a float16 result correctly takes a few bits more than float32 has. A double word of two
float32 numbers carries 32 bits, one of two float64 numbers 75, and each operation takes a few
instructions. It rests on three facts:

- A float splits into two halves of its bits without error, and the product of two such halves is
  exact: 12 bits times 12 bits fit float32's 24, 26 times 26 fit float64's 53 (Dekker 1971).
- What a sum rounds off is a float itself, which five more additions compute exactly: TwoSum
  (Knuth 1969, section 4.2.2).
- The difference of two floats within a factor of two of each other is exact (Sterbenz 1974).

Every operation therefore computes its hi without error, and lo, which takes up the rest, with
ordinary rounding. In a split number lo is below 2⁻¹¹ of it (float64: 2⁻²⁵); rounding lo to 2⁻²⁴
(2⁻⁵³) of itself costs 2⁻³⁵ (2⁻⁷⁸) of the number, and an operation rounds a few times. In all, its
error is below 2⁻³² (2⁻⁷⁵) of the result, or for a sum of |a| + |b|.

No step needs a fused multiply-add, and a compiler that contracts a·b + c into one changes nothing
where a·b is exact. What a compiler must not do is reorder sums; XLA only merges constants.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TypeGuard, overload

import jax
import jax.numpy as jnp
from jax import Array, lax


@jax.custom_jvp
def upper_half(x: Array) -> Array:
    """The leading half of the bits of x, toward zero: 12 of float32's 24, 26 of float64's 53.

    It masks the other bits, where Veltkamp's splitting multiplies: a mask cannot overflow, and no
    compiler simplifies it to x.

    Args:
      x: float32 or float64 array of any shape.

    Returns:
      An array of the shape and dtype of `x`; x less this is exact.
    """
    unsigned, dropped = (jnp.uint32, 12) if x.dtype == jnp.float32 else (jnp.uint64, 27)
    kept = ~unsigned((1 << dropped) - 1)
    return lax.bitcast_convert_type(lax.bitcast_convert_type(x, unsigned) & kept, x.dtype)


@upper_half.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:  # pyright: ignore[reportUnusedFunction]
    # a mask has no derivative; as the two halves add up to x, the upper one takes its tangent
    return upper_half(*primals), tangents[0]


def reciprocal(x: Array) -> Array:
    """1/x for x > 0 within 2⁻²² of itself (float64: 2⁻⁵¹), by Newton's iteration.

    XLA breaks a fused loop at a division whose result is used twice; this has none. The bits of a
    float, read as an integer, are nearly linear in log₂ x, so that a constant less this integer
    reads as 1/x within 5.1 %. Each step y ← y·(2 − x·y) squares the relative error, until only the
    error of rounding is left.

    Args:
      x: float32 or float64 array of any shape, where both x and 1/x are normal numbers.

    Returns:
      An array of the shape and dtype of `x`.
    """
    single = x.dtype == jnp.float32
    integer, start = (jnp.int32, 0x7EF311C7) if single else (jnp.int64, 0x7FDE623822FC16E6)
    y = lax.bitcast_convert_type(start - lax.bitcast_convert_type(x, integer), x.dtype)
    for _ in range(3 if single else 4):
        y = y * (2 - x * y)
    return y


@dataclass(frozen=True, eq=False)
class DoubleWord:
    """The number hi + lo, with the arithmetic of Python's operators.

    Attributes:
      hi: the leading part, a float32 or float64 array of any shape.
      lo: the rest, far smaller, of the same shape and dtype; None where it is exactly zero.
      is_split: whether hi has at most half the bits, so that the product of two such is exact.
      guard_bits_only: whether a few bits beyond those of hi's dtype are enough, as they are for an
        input of that dtype and for bfloat16; expensive functions then take a shorter way.
    """

    hi: Array
    lo: Array | None = None
    is_split: bool = False
    guard_bits_only: bool = False

    def rounded(self) -> Array:
        """hi + lo, rounded once to the dtype of hi."""
        return _plus(self.hi, self.lo)

    def split(self) -> DoubleWord:
        """The same number with a hi of half the bits."""
        if self.is_split:
            return self
        hi = upper_half(self.rounded())
        return replace(self, hi=hi, lo=_plus(self.hi - hi, self.lo), is_split=True)

    def scaled(self, power: Array | float) -> DoubleWord:
        """The number times a power of two, without error.

        Args:
          power: the power of two, an array that broadcasts against hi, or a float.

        Returns:
          The product.
        """
        lo = None if self.lo is None else self.lo * power
        return replace(self, hi=self.hi * power, lo=lo)

    def apart(self) -> DoubleWord:
        """The same number, in memory before anything is computed with it.

        As of jax 0.12, LLVM's vectorizer walks every path through a fused loop back from a
        conversion to bfloat16. Each product of double words multiplies the paths, and an equation
        with two exponentials was not seen to end compiling; cut in the middle, it takes a second.
        """
        hi, lo = lax.optimization_barrier((self.hi, self.lo))
        return replace(self, hi=hi, lo=lo)

    def sqrt(self) -> DoubleWord:
        """The square root of a positive number."""
        # √x = hi + (x − hi²)/(√x + hi), where hi² is exact and so, by Sterbenz, is x − hi²
        root = jnp.sqrt(self.rounded())
        hi = upper_half(root)
        rest = _plus(self.hi - hi * hi, self.lo)
        return replace(self, hi=hi, lo=rest * reciprocal(root + hi), is_split=True)

    def __neg__(self) -> DoubleWord:
        lo = None if self.lo is None else -self.lo
        return replace(self, hi=-self.hi, lo=lo)

    def __add__(self, other: Operand) -> DoubleWord:
        a, b = self, double_word(other, self)
        # TwoSum: `lost` is what hi has rounded off, whichever of a.hi and b.hi is larger
        hi = a.hi + b.hi
        from_b = hi - a.hi
        lost = (a.hi - (hi - from_b)) + (b.hi - from_b)
        lo = b.lo if a.lo is None else _plus(a.lo, b.lo)
        return _result(a, b, hi, _plus(lost, lo))

    def __mul__(self, other: Operand) -> DoubleWord:
        # a.hi·b.hi is exact; the other three products are small enough to be rounded
        a, b = self.split(), double_word(other, self).split()
        lo = None if b.lo is None else a.hi * b.lo
        lo = lo if a.lo is None else _plus(a.lo * b.rounded(), lo)
        return _result(a, b, a.hi * b.hi, lo)

    def __truediv__(self, other: Operand) -> DoubleWord:
        # long division by a positive b: hi is the first digit, of half the bits; its product with
        # b.hi is exact, and so, by Sterbenz, is the remainder, which gives lo
        a, b = self, double_word(other, self).split()
        inverse = reciprocal(b.rounded())
        hi = upper_half(a.rounded() * inverse)
        rest = _plus(a.hi - hi * b.hi, a.lo)
        rest = rest if b.lo is None else rest - hi * b.lo
        return _result(a, b, hi, rest * inverse, is_split=True)

    def __sub__(self, other: Operand) -> DoubleWord:
        return self + -double_word(other, self)

    def __rsub__(self, other: Operand) -> DoubleWord:
        return -self + other

    def __rtruediv__(self, other: Operand) -> DoubleWord:
        return double_word(other, self) / self

    __radd__, __rmul__ = __add__, __mul__


Number = DoubleWord | Array
Operand = Number | float | str | Fraction


def _result(
    a: DoubleWord, b: DoubleWord, hi: Array, lo: Array | None, *, is_split: bool = False
) -> DoubleWord:
    """What an operation makes of a and b: as accurate as the less accurate of them."""
    return DoubleWord(hi, lo, is_split, a.guard_bits_only or b.guard_bits_only)


def _plus(a: Array, b: Array | None) -> Array:
    return a if b is None else a + b


def double_word(x: Operand, like: DoubleWord | None = None) -> DoubleWord:
    """A number or a constant as a double word.

    Args:
      x: a double word, returned as it is; an array, split in two; or a constant, which is kept to
        the last bit if it is written as a string or a fraction: "1.702" rather than 1.702.
      like: the double word whose dtype a constant takes.

    Returns:
      The double word.

    Raises:
      TypeError: `x` is a constant and `like` is missing.
    """
    if isinstance(x, DoubleWord):
        return x
    if isinstance(x, Array):
        hi = upper_half(x)
        return DoubleWord(hi, x - hi, is_split=True, guard_bits_only=True)
    if like is None:
        raise TypeError(f"the constant {x!r} needs a double word to take its dtype from")
    return _constant(Fraction(x), like.hi.dtype)


def _constant(x: Fraction, dtype: jnp.dtype) -> DoubleWord:
    last_place = Fraction(2) ** (math.frexp(float(x))[1] - (12 if dtype == jnp.float32 else 26))
    hi = int(x / last_place) * last_place
    lo = None if hi == x else jnp.asarray(float(x - hi), dtype)
    return DoubleWord(jnp.asarray(float(hi), dtype), lo, is_split=True)


def as_array(x: Number) -> Array:
    """The number as one array.

    Args:
      x: an array, returned as it is, or a double word, rounded.

    Returns:
      A float32 or float64 array.
    """
    return x.rounded() if isinstance(x, DoubleWord) else x


def all_bits_count(x: Number) -> TypeGuard[DoubleWord]:
    """Whether a number needs the whole accuracy of a double word, not only guard bits.

    Args:
      x: an array or a double word.

    Returns:
      True for a double word with all its bits: a float16 input and what is computed of it.
    """
    return isinstance(x, DoubleWord) and not x.guard_bits_only


def in_form_of(number: DoubleWord, x: Number) -> Number:
    """A double word in the form that x has.

    Args:
      number: what to return.
      x: a double word or an array.

    Returns:
      `number`, rounded to an array where `x` is an array.
    """
    return number if isinstance(x, DoubleWord) else number.rounded()


@overload
def where(condition: Array, then: DoubleWord, otherwise: DoubleWord) -> DoubleWord: ...
@overload
def where(condition: Array, then: Number, otherwise: Number) -> Number: ...
def where(condition: Array, then: Number, otherwise: Number) -> Number:
    """An elementwise choice: a double word of two double words, else an array.

    Args:
      condition: bool array of any shape.
      then: the number where it holds.
      otherwise: the number elsewhere.

    Returns:
      A number of the common shape.
    """
    if not (isinstance(then, DoubleWord) and isinstance(otherwise, DoubleWord)):
        return jnp.where(condition, as_array(then), as_array(otherwise))
    lo = None
    if then.lo is not None or otherwise.lo is not None:
        lo = jnp.where(condition, _lo(then), _lo(otherwise))
    hi = jnp.where(condition, then.hi, otherwise.hi)
    return _result(then, otherwise, hi, lo, is_split=then.is_split and otherwise.is_split)


def _lo(x: DoubleWord) -> Array:
    return jnp.zeros_like(x.hi) if x.lo is None else x.lo


def with_sign_of_zero(number: Number, x: Number) -> Number:
    """The number, and x itself where x is ±0: a product of −0 and a lo below 0 would be +0.

    Args:
      number: a result that is 0 at 0, a double word or an array.
      x: the input, in the same form.

    Returns:
      A number of the same form.
    """
    zero = as_array(x)
    return where(zero == 0, DoubleWord(zero, zero) if isinstance(x, DoubleWord) else zero, number)


@overload
def magnitude(x: DoubleWord) -> DoubleWord: ...
@overload
def magnitude(x: Number) -> Number: ...
def magnitude(x: Number) -> Number:
    """|x|, with derivative 1 at 0, where that of `abs` is 0.

    Args:
      x: a double word or an array.

    Returns:
      A number of the same form.
    """
    return where(as_array(x) < 0, -x, x)


@overload
def clamp(x: DoubleWord, low: float, high: float) -> DoubleWord: ...
@overload
def clamp(x: Number, low: float, high: float) -> Number: ...
def clamp(x: Number, low: float, high: float) -> Number:
    """The number kept within bounds; NaN stays NaN.

    Args:
      x: an array, or a double word whose lo is None, as that of an activation's input is.
      low: the lower bound, or −∞ for none; of at most 12 bits, as the hi of a split double word.
      high: the upper bound, or ∞ for none; likewise.

    Returns:
      A number of the same form.
    """
    if isinstance(x, DoubleWord):
        assert x.lo is None
        return replace(x, hi=_clamp(x.hi, low, high))
    return _clamp(x, low, high)


def _clamp(x: Array, low: float, high: float) -> Array:
    # each choice becomes one instruction; jnp.clip, which orders −0 and +0, takes several
    if low > -jnp.inf:
        x = jnp.where(x < low, jnp.asarray(low, x.dtype), x)
    return jnp.where(x > high, jnp.asarray(high, x.dtype), x) if high < jnp.inf else x
