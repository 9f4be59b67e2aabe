"""Activations that end at a bound: a tanh whose slope at 0 is 1, alone and as the gate of SiTU.

Everything is a quotient of polynomials in q = e^(−2a/β), a = |x|, which is between 0 and 1:

    β·tanh(a/β) = β·(1 − q)/(1 + q)        its derivative is 4q/(1 + q)²

Next to 0, where 1 − q cancels, it is a·T((a/β)²), a Taylor polynomial. For β = 4, σ takes the same
q, because e⁻ᵃ = q²: σ(a) = 1/(1 + q²) and σ(−a) = q²/(1 + q²). In

    situ′(x) = 4q·(1 + q + q² − q³)/((1 + q)·(1 + q²))²         x ≥ 0
    situ′(x) = 4q²·(q³ + q² + q − 1)/((1 + q)·(1 + q²))²        x < 0

only the last bracket cancels, at the zero of situ′. So q is a double word even in float32.
"""

from fractions import Fraction

import jax.numpy as jnp
from jax import Array

from gelu_jax.activations.double_word import (
    DoubleWord,
    Number,
    as_array,
    clamp,
    double_word,
    in_form_of,
    magnitude,
    where,
    with_sign_of_zero,
)
from gelu_jax.activations.elementwise import Scaled, elementwise
from gelu_jax.activations.exponential import polynomial, precise_exp

# q is carried 1/C times too large, so that it stays in range until its products are zero
_SHIFT = 48
_C = 2.0**-_SHIFT
_NEAR = 0.375  # where |x|/β is below it, the Taylor polynomial is taken


def _tanh_coefficients(terms: int) -> tuple[Fraction, ...]:
    """Those of tanh y = Σ tₙ·y²ⁿ⁺¹, from tanh′ = 1 − tanh²: (2n + 1)·tₙ = −Σ tᵢ·tₙ₋₁₋ᵢ."""
    t = [Fraction(1)]
    for n in range(1, terms):
        t.append(-sum((t[i] * t[n - 1 - i] for i in range(n)), Fraction()) / (2 * n + 1))
    return tuple(t)


_TANH = _tanh_coefficients(16)


def _tanh_over_argument(y: Array) -> DoubleWord:
    """tanh(y)/y for |y| ≤ 3/8, as 1 + y²·polynomial(y²): what is left out is below 2⁻³³ (2⁻⁶⁴)."""
    square, terms = y * y, 9 if y.dtype == jnp.float32 else 16
    rest = square * polynomial(tuple(map(float, _TANH[terms - 1 : 0 : -1])), square)
    return DoubleWord(jnp.ones_like(y), rest, is_split=True)


def _bound(x: Number, beta: int) -> float:
    """The |x| where e^(−2|x|/β) has become 0 in the dtype of x."""
    return (112 if as_array(x).dtype == jnp.float32 else 720) * beta / 2


def _q(x: Number, beta: int) -> DoubleWord:
    """e^(−2|x|/β)/C."""
    bound = _bound(x, beta)
    near = double_word(magnitude(clamp(x, -bound, bound)))
    return precise_exp(near * Fraction(-2, beta), _SHIFT).apart()


def _soft_cap_derivative(x: Number) -> Scaled:
    q = _q(x, 25)
    r = 1 / (q.scaled(_C) + 1)
    return Scaled(q.scaled(4) * r * r, _C)


@elementwise(_soft_cap_derivative)
def softcap_25(x: Number) -> Number:
    """The identity, bent to end at ±25: the up projection's branch in SiTU-GLU.

    softcap_25(x) = 25·tanh(x/25), with derivative 1 − tanh²(x/25).

    Source: Moonshot AI 2026, "Kimi K3" technical report, equation 12.

    Examples:
      >>> softcap_25(jnp.float16(50.0))
      Array(24.1, dtype=float16)
    """
    v = as_array(x)
    q = _q(x, 25).scaled(_C)
    far = (1 - q) * 25 / (q + 1)
    far = in_form_of(where(v < 0, -far, far), x)
    near = jnp.abs(v) < 25 * _NEAR
    y = jnp.where(near, v, 0) / 25
    value = where(near, x * in_form_of(_tanh_over_argument(y), x), far)
    return with_sign_of_zero(value, x)


def _situ_derivative(x: Number) -> Scaled:
    raised = _q(x, 4)
    q = raised.scaled(_C)
    square = q * q
    r = 1 / ((q + 1) * (square + 1))
    negative = as_array(x) < 0
    left = raised * raised * (q * square + square + q - 1)
    right = raised * (1 + q + square - q * square)
    power = jnp.where(negative, jnp.full_like(q.hi, _C**2), jnp.full_like(q.hi, _C))
    return Scaled((where(negative, left, right) * (r * r)).scaled(4), power)


@elementwise(_situ_derivative)
def situ(x: Number) -> Scaled:
    """The sigmoid tanh unit at β = 4, `silu` bent to end at 4: the gate of SiTU-GLU.

    situ(x) = 4·tanh(x/4)·σ(x), with derivative σ(x)·(1 − tanh²(x/4) + 4·tanh(x/4)·σ(−x)).

    Accuracy: within 0.05 of −1.2188, where the derivative is zero, its error is at most 2⁻²⁴
    (float64: 2⁻⁵³) times 0.2083, the size of the two terms that cancel there.

    Source: Moonshot AI 2026, "Kimi K3" technical report, equation 12.

    Examples:
      >>> situ(jnp.float16(1.0))
      Array(0.7163, dtype=float16)
    """
    v = as_array(x)
    raised = _q(x, 4)
    q = raised.scaled(_C)
    square = q * q
    r = 1 / (square + 1)
    tanh = (1 - q).scaled(4) / (q + 1) * r
    negative, near = v < 0, jnp.abs(v) < 4 * _NEAR
    far = in_form_of(where(negative, -(tanh * (raised * raised)), tanh), x)
    y = jnp.where(near, v, 0) / 4
    sigmoid = where(negative, square * r, r)
    value = where(near, x * in_form_of(_tanh_over_argument(y) * sigmoid, x), far)
    one = jnp.ones_like(v)
    return Scaled(with_sign_of_zero(value, x), jnp.where(negative & ~near, _C**2 * one, one))
