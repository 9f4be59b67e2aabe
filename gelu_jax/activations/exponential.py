"""eˣ and eˣ − 1, as pairs."""

import math
from fractions import Fraction

import jax.numpy as jnp
from jax import Array, lax

from gelu_jax.activations.double_word import Number, Pair, cut, plain

_LN2 = Fraction("0.693147180559945309417232121458176568")


def polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    """Horner's rule, highest power first."""
    total = jnp.asarray(coefficients[0], x.dtype)
    for c in coefficients[1:]:
        total = total * x + jnp.asarray(c, x.dtype)
    return total


def _taylor(r: Array, first: int) -> Array:
    """Σ rⁿ⁻ᶠ/n! from n = f on, for |r| ≤ 0.35: to 2⁻³² of eʳ, in float64 to 2⁻⁵⁶."""
    last = 8 if r.dtype == jnp.float32 else 15
    return polynomial(tuple(1 / math.factorial(n) for n in range(last, first - 1, -1)), r)


def _tail(r: Array) -> Array:
    """eʳ − 1 − r for |r| ≤ 0.35."""
    return (r * r) * _taylor(r, 2)


def _square_and_rest(large: Array, small: Array) -> tuple[Array, Array]:
    """Half the square of the cut r = large + small, without error; and eʳ − 1 − large less that."""
    first = cut(large)
    second = (large - first) + small
    r = first + second
    rest = (0.5 * second) * (r + first) + ((r * r) * r) * _taylor(r, 3)
    return 0.5 * (first * first), small + rest


def _reduced(x: Number) -> tuple[Array, Array, Array]:
    """k, and x − k·ln 2 as a large part without error and a small one."""
    k = lax.round(plain(x) * float(1 / _LN2), lax.RoundingMethod.TO_NEAREST_EVEN)
    bits = 12 if k.dtype == jnp.float32 else 26
    upper = Fraction(round(_LN2 * 2**bits), 2**bits)
    small = k * float(upper - _LN2)
    if isinstance(x, Pair):
        return k, x.hi - k * float(upper), small if x.lo is None else small + x.lo
    return k, x - k * float(upper), small


def _power_of_two(k: Array) -> Array:
    """2ᵏ, for integers k that make it a normal number."""
    info = jnp.finfo(k.dtype)
    integer = jnp.int32 if k.dtype == jnp.float32 else jnp.int64
    return lax.bitcast_convert_type((k.astype(integer) + (info.maxexp - 1)) << info.nmant, k.dtype)


def exp(x: Number, shift: int) -> Pair:
    """eˣ·2ˢ: to 2⁻³² for a narrow pair, otherwise to 2⁻²⁶ (float64: 2⁻⁵⁴) until its sum is rounded.

    The shift keeps eˣ in range where only its product with something else needs to be.
    """
    x = x.cut() if isinstance(x, Pair) and not x.is_wide else x
    k, large, small = _reduced(x)
    power = _power_of_two(k + shift)
    if not isinstance(x, Pair) or x.is_wide:
        r = large + small
        return Pair(power, (r + _tail(r)) * power, is_wide=True)
    square, rest = _square_and_rest(large, small)
    hi = cut((1 + large) + square)
    return Pair(hi, (((1 - hi) + large) + square) + rest, is_cut=True).scaled(power)


def expm1(x: Array) -> Pair:
    """eˣ − 1 for −80 ≤ x ≤ 0, as a sum that is still to be rounded once."""
    k, large, small = _reduced(x)
    r, power = large + small, _power_of_two(k)
    return Pair(power - 1, (r + _tail(r)) * power, is_wide=True)


def expm1_less_x(x: Array) -> Array:
    """eˣ − 1 − x for x ≤ 0, without cancellation."""
    near = x > -0.34
    far = jnp.where(near | (x < -80), jnp.asarray(-80, x.dtype), x)
    return jnp.where(near, _tail(jnp.where(near, x, 0)), expm1(far).sum() - x)
