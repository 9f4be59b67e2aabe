"""eˣ, eˣ − 1 and log x as double words.

The first two reduce the argument (Cody and Waite 1980): with k the integer nearest to x/ln 2 and
r = x − k·ln 2, so that |r| ≤ ½·ln 2 < 0.35, eˣ is 2ᵏ·eʳ, where 2ᵏ is exact and eʳ takes a short
Taylor polynomial.
"""

import math
from fractions import Fraction

import jax.numpy as jnp
from jax import Array, lax

from gelu_jax.activations.double_word import (
    DoubleWord,
    Number,
    all_bits_count,
    as_array,
    upper_half,
)

_LN2 = Fraction("0.693147180559945309417232121458176568")


def polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    """A polynomial, by Horner's rule.

    Args:
      coefficients: those of each power of x, the highest power first.
      x: float32 or float64 array of any shape.

    Returns:
      An array of the shape and dtype of `x`.
    """
    total = jnp.asarray(coefficients[0], x.dtype)
    for c in coefficients[1:]:
        total = total * x + jnp.asarray(c, x.dtype)
    return total


def _taylor(r: Array, first: int) -> Array:
    """Σ rⁿ⁻ᶠ/n! for n from f = `first` to 8, in float64 to 15: more terms add below 2⁻³² (2⁻⁶⁸)."""
    last = 8 if r.dtype == jnp.float32 else 15
    return polynomial(tuple(1 / math.factorial(n) for n in range(last, first - 1, -1)), r)


def _expm1_less_r(r: Array) -> Array:
    """eʳ − 1 − r for |r| ≤ 0.35."""
    return (r * r) * _taylor(r, 2)


def _reduce_argument(x: Number) -> tuple[Array, Array, Array]:
    """k, and r = x − k·ln 2 as a large part without error and a small, rounded one.

    ln 2 is split. k has at most 9 bits (float64: 11), so that k times the first 12 (26) bits of
    ln 2 is exact, and so is x less this, where the digits cancel. k times the rest of ln 2 is
    rounded, but below 2⁻⁷.
    """
    k = lax.round(as_array(x) * float(1 / _LN2), lax.RoundingMethod.TO_NEAREST_EVEN)
    bits = 12 if k.dtype == jnp.float32 else 26
    upper = Fraction(round(_LN2 * 2**bits), 2**bits)
    small = k * float(upper - _LN2)
    if isinstance(x, DoubleWord):
        return k, x.hi - k * float(upper), small if x.lo is None else small + x.lo
    return k, x - k * float(upper), small


def _power_of_two(k: Array) -> Array:
    """2ᵏ, for integers k that make it a normal number: its exponent's bits are k plus the bias."""
    info = jnp.finfo(k.dtype)
    integer = jnp.int32 if k.dtype == jnp.float32 else jnp.int64
    return lax.bitcast_convert_type((k.astype(integer) + (info.maxexp - 1)) << info.nmant, k.dtype)


def _exp_reduced(large: Array, small: Array) -> DoubleWord:
    """eʳ for r = large + small, as 1 + large + h²/2 + rest, where h is the upper half of large.

    As h² is exact, the first three terms make a double word without an error that counts. The rest
    is below 2⁻⁶ and rounded: small, what h²/2 lacks of r²/2, and the series from r³/6 on.
    """
    h = upper_half(large)
    beyond_h = (large - h) + small
    r = h + beyond_h
    rest = small + ((0.5 * beyond_h) * (r + h) + ((r * r) * r) * _taylor(r, 3))
    square = 0.5 * (h * h)
    hi = upper_half((1 + large) + square)
    return DoubleWord(hi, (((1 - hi) + large) + square) + rest, is_split=True)


def exp(x: Number, shift: int) -> DoubleWord:
    """eˣ·2ˢ.

    Args:
      x: a double word or an array.
      shift: s; makes eˣ·2ˢ a normal number where eˣ alone is too small or too large to be one.

    Returns:
      A double word with a relative error below 2⁻²⁸ (float64: 2⁻⁵⁷). For an array, or a double word
      with guard bits only, it is below 2⁻²⁴ (2⁻⁵³), and hi is a power of two.
    """
    k, large, small = _reduce_argument(x.split() if all_bits_count(x) else x)
    power = _power_of_two(k + shift)
    if all_bits_count(x):
        return _exp_reduced(large, small).scaled(power)
    r = large + small
    return DoubleWord(power, (r + _expm1_less_r(r)) * power, guard_bits_only=True)


def precise_exp(x: DoubleWord, shift: int) -> DoubleWord:
    """eˣ·2ˢ to nearly all bits of a double word, also where guard bits are enough for its input.

    It is (e^(r/4))⁴·2ᵏ. With r/4 in place of r, what is rounded in `_exp_reduced` is below 2⁻¹²,
    not 2⁻⁶.

    Args:
      x: a double word.
      shift: s, as in `exp`.

    Returns:
      A double word with a relative error below 2⁻²⁹ (float64: 2⁻⁶³); where |x| < 8, below 2⁻³¹.
    """
    k, large, small = _reduce_argument(x.split())
    root = _exp_reduced(0.25 * large, 0.25 * small)
    square = root * root
    return (square * square).scaled(_power_of_two(k + shift))


def log(x: DoubleWord) -> DoubleWord:
    """The natural logarithm of x, with x = m·2ᵏ and m between √½ and √2: k·ln 2 + log m.

    With s = (m − 1)/(m + 1), |s| ≤ 0.172, log m = 2·artanh s = 2s + 2s³·(⅓ + s²/5 + s⁴/7 + …),
    whose second term is below 2⁻⁶ of the first, and rounded.

    Args:
      x: a double word between 2⁻¹²⁶ and 2¹²⁶ (float64: 2⁻¹⁰²² and 2¹⁰²²).

    Returns:
      A double word with a relative error below 2⁻²⁹ (float64: 2⁻⁵⁸), and where |k| is large 2⁻³².
    """
    info = jnp.finfo(x.hi.dtype)
    integer = jnp.int32 if x.hi.dtype == jnp.float32 else jnp.int64
    bits = lax.bitcast_convert_type(x.rounded(), integer)
    least = lax.bitcast_convert_type(jnp.asarray(math.sqrt(0.5), x.hi.dtype), integer)
    k = ((bits - least) >> info.nmant).astype(x.hi.dtype)
    m = x.scaled(_power_of_two(-k))
    s = (m - 1) / (m + 1)
    square = jnp.square(s.rounded())
    terms = 8 if x.hi.dtype == jnp.float32 else 14
    series = polynomial(tuple(1 / (2 * i + 1) for i in range(terms, 0, -1)), square)
    return DoubleWord(k, is_split=True) * _LN2 + (s + s.rounded() * square * series).scaled(2)


def expm1(x: Array) -> DoubleWord:
    """eˣ − 1 for −80 ≤ x ≤ 0, without the cancellation of subtracting 1 from eˣ next to 0.

    Args:
      x: float32 or float64 array of any shape.

    Returns:
      A double word with guard bits only: 2ᵏ − 1 and 2ᵏ·(eʳ − 1). Rounded, it is within 1 ulp.
    """
    k, large, small = _reduce_argument(x)
    r, power = large + small, _power_of_two(k)
    return DoubleWord(power - 1, (r + _expm1_less_r(r)) * power, guard_bits_only=True)


def expm1_less_x(x: Array) -> Array:
    """eˣ − 1 − x for x ≤ 0, without the cancellation of subtracting x from eˣ − 1 next to 0.

    Args:
      x: float32 or float64 array of any shape.

    Returns:
      An array of the shape and dtype of `x`, with a relative error below 2⁻²¹ (float64: 2⁻⁴⁹).
    """
    near = x > -0.34
    far = jnp.where(near | (x < -80), jnp.asarray(-80, x.dtype), x)
    return jnp.where(near, _expm1_less_r(jnp.where(near, x, 0)), expm1(far).rounded() - x)
