"""eˣ and eˣ − 1, as pairs."""

import math
from fractions import Fraction

import jax.numpy as jnp
from jax import Array, lax

from gelu_jax.activations.pairs import Number, Pair, clamped, cut, plain

_LN2 = Fraction("0.693147180559945309417232121458176568")


def polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    """Horner's rule, highest power first."""
    total = jnp.asarray(coefficients[0], x.dtype)
    for c in coefficients[1:]:
        total = total * x + jnp.asarray(c, x.dtype)
    return total


def _tail(r: Array) -> Array:
    """eʳ − 1 − r for |r| ≤ 0.35, by Taylor's series to 2⁻³² (float64: 2⁻⁵⁶)."""
    last = 8 if r.dtype == jnp.float32 else 15
    series = tuple(1 / math.factorial(n) for n in range(last, 1, -1))
    return (r * r) * polynomial(series, r)


def _square_and_rest(large: Array, small: Array) -> tuple[Array, Array]:
    """r²/2 without error but for a cut of r, and eʳ − 1 − large less that."""
    first = cut(large)
    second = (large - first) + small
    r = first + second
    last = 8 if r.dtype == jnp.float32 else 15
    series = tuple(1 / math.factorial(n) for n in range(last, 2, -1))
    cube = (r * r) * r * polynomial(series, r)
    return 0.5 * (first * first), small + ((0.5 * second) * (r + first) + cube)


def _reduced(x: Number) -> tuple[Array, Array, Array]:
    """k, and x − k·ln 2 as a large part without error and a small one."""
    k = lax.round(plain(x) * float(1 / _LN2), lax.RoundingMethod.TO_NEAREST_EVEN)
    upper = Fraction(round(_LN2 * 2**12), 2**12)
    if k.dtype == jnp.float64:
        upper = Fraction(round(_LN2 * 2**26), 2**26)
    hi, lo = (x.hi, x.lo) if isinstance(x, Pair) else (x, None)
    small = k * float(upper - _LN2)
    return k, hi - k * float(upper), small if lo is None else small + lo


def _power_of_two(k: Array) -> Array:
    """2ᵏ, for integers k that make it a normal number."""
    info = jnp.finfo(k.dtype)
    integer = jnp.int32 if k.dtype == jnp.float32 else jnp.int64
    return lax.bitcast_convert_type((k.astype(integer) + (info.maxexp - 1)) << info.nmant, k.dtype)


def exp(x: Number, shift: int) -> Pair:
    """eˣ·2ˢ: to 2⁻³² for a narrow pair, otherwise to 2⁻²⁶ before its sum is rounded.

    The shift keeps eˣ in range where only its product with something else needs to be.
    """
    x = x.cut() if isinstance(x, Pair) else x
    k, large, small = _reduced(x)
    power = _power_of_two(k + shift)
    if not isinstance(x, Pair) or x.is_wide:
        r = large + small
        return Pair(power, (r + _tail(r)) * power, is_wide=True)
    first, rest = _square_and_rest(large, small)
    hi = cut((1 + large) + first)
    return Pair(hi, (((1 - hi) + large) + first) + rest, is_cut=True).scaled(power)


def expm1(x: Array) -> Pair:
    """eˣ − 1 for −80 ≤ x ≤ 0, as a sum that is still to be rounded once."""
    k, large, small = _reduced(x)
    r, power = large + small, _power_of_two(k)
    return Pair(power - 1, (r + _tail(r)) * power)


def expm1_less_x(x: Array) -> Array:
    """eˣ − 1 − x for x ≤ 0, without cancellation."""
    near = x > -0.34
    return jnp.where(near, _tail(jnp.where(near, x, 0)), expm1(clamped(x, -80, -0.25)).sum() - x)
