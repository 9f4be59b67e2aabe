"""The derivative of silu in float32 without double words, within 2 ulp.

With a = |x|, E = e⁻ᵃ and G below,

    silu′(x) = [x ≥ 0] + sign(x)·E·G(a)        G(a) = (a − 1 − E)/(1 + E)²

so that left of 0, where silu′ is small, it is one product, and right of 0 a correction to 1. Four
roundings one after the other would already cost 2 ulp. So G is kept as hi + lo, where hi has no
error and lo is small, and E as 2ᵏ·(1 + p): in

    E·G = 2ᵏ·hi + (E·lo + 2ᵏ·hi·p)

the products with 2ᵏ are exact, only the last sum rounds the whole result, and what is rounded in
the bracket counts by the bracket's share of it. hi and lo are taken twice as large here, which
spares a product:

    a ≥ 2.3           2·hi = 2a − 2     2·lo = −2·E·(a + (a − 1)·(1 + E))/(1 + E)²
    ½ ≤ a < 2.3       2·hi = a − z      2·lo = (a − z)·(2R(a) − 1)
    a < ½             2·hi = −1         2·lo = (a − z)·(2R(a) − 1) + (a − z + 1)

The first is G, with a − 1 split off. The derivative is zero at a = z, where a − 1 and E cancel. R
is what remains of G when that zero is divided out (deflation), R(a) = G(a)/(a − z), a smooth
function between 0.39 and 0.99 for which a polynomial does; a − z is exact next to z, and lo takes
up what z has beyond a float. Below ½ it is not: a has more places there than a − z can hold. There
G is close to −½, and a − z + 1 is computed from a.

tests/golden/fit_gate.py fits the polynomials; benchmarks/exhaustive_float32.py tries every input.
"""

import jax.numpy as jnp
from jax import Array, lax

from gelu_jax.activations.exponential import polynomial

# E is carried 2⁴⁸ times too large, so that it stays in range until the derivative is zero
_SHIFT = 48
_SATURATION = 112.0
# k is the integer in the last bits of this sum: 1.5·2²³ + n has the bits of 1.5·2²³, plus n
_ROUNDER = 1.5 * 2**23 + 127 + _SHIFT
_ROUNDER_BITS = 0x4B400000 + 127 + _SHIFT
_INVERSE_LN2 = 1.4426950408889634
# ln 2 as 13 bits, so that k times it is exact, and the rest
_LN2_HI, _LN2_LO = 0.693115234375, 3.1946184945309417e-05
# (e⁻ʳ − 1 + r)/r² for |r| ≤ ½·ln 2
_EXP = (
    0.0013814330701263566, -0.008368850949639206, 0.04166840091507736, -0.16666519525521145,
    0.4999999337364944,
)  # fmt: skip
# 2·R(a) − 1 for a ≤ 2.3, in powers of 2a − 2, with a relative error of R below 2⁻²⁹ before the
# coefficients are rounded
_DEFLATED = (
    2.8364913995012213e-09, -1.1382043576980294e-08, -1.2643451044587801e-07,
    8.908429742889322e-07, 2.0905586864338365e-06, -3.945186289040167e-05, 5.026161736446733e-05,
    0.00123228742219906, -0.005400086933459889, -0.02718270886640468, 0.2899936403283561,
    0.4121146719080464,
)  # fmt: skip
# z, and what its float32 lacks, −2·R(z)·(z − float32(z)): of no weight but next to z
_ZERO, _BEYOND_ZERO = 1.278464542761073795, 2.030448591e-08
_NEAR = 2.3


def _exp_of_negative(a: Array) -> tuple[Array, Array]:
    """e⁻ᵃ·2ˢ for 0 ≤ a ≤ 112, as a power of two and p: it is power·(1 + p).

    As in `exponential.py`, k is the integer nearest to −a/ln 2, and p = eʳ − 1, r = −a − k·ln 2.
    Adding a number so large that its last bit is 1 rounds a/ln 2 to k, in one instruction, and
    leaves k + 127 + s, the bits of the power's exponent, where a shift moves them into place.
    """
    bits = lax.bitcast_convert_type(a * -_INVERSE_LN2 + _ROUNDER, jnp.int32)
    power = lax.bitcast_convert_type(bits << 23, jnp.float32)
    k = (bits - _ROUNDER_BITS).astype(jnp.float32)
    minus_r = (a + k * _LN2_HI) + k * _LN2_LO
    return power, (minus_r * minus_r) * polynomial(_EXP, minus_r) - minus_r


def silu_derivative(x: Array) -> Array:
    """silu′ in float32, by the equations above.

    Args:
      x: float32 array of any shape.

    Returns:
      An array of the shape of `x`, within 2 ulp.
    """
    negative = x < 0
    a = jnp.where(negative, -x, x)
    a = jnp.where(a > _SATURATION, jnp.float32(_SATURATION), a)
    power, p = _exp_of_negative(a)
    e = power * p + power
    half_c = jnp.float32(2.0 ** -(_SHIFT + 1))
    hi = 2 * a - 2
    half_d = e * half_c + 0.5  # (1 + E)/2
    # one division whose result is used once: XLA breaks a fused loop at any other
    lo = ((hi * half_d + a) * e) * (-half_c / (half_d * half_d))
    hi, lo = _near(a, hi, lo)
    lead = power * hi
    product = lead + (e * lo + lead * p)
    sign, one = jnp.where(negative, -half_c, half_c), jnp.where(negative, 0, jnp.float32(1))
    return product * sign + one


def _near(a: Array, b: Array, lo: Array) -> tuple[Array, Array]:
    """2·hi and 2·lo, with the polynomial of b = 2a − 2 for a < 2.3; elsewhere they are b and lo."""
    t = a - _ZERO
    small, near = a < 0.5, a < _NEAR
    beyond = jnp.where(small, a + jnp.float32(1 - _ZERO), jnp.float32(_BEYOND_ZERO))
    near_lo = t * polynomial(_DEFLATED, b) + beyond
    near_hi = jnp.where(small, jnp.float32(-1), t)
    return jnp.where(near, near_hi, b), jnp.where(near, near_lo, lo)
