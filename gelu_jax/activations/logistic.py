"""Activations built on the logistic function σ(x) = 1/(1 + e⁻ˣ).

Every equation is written so that no two terms cancel: 1 − σ(v) is computed as σ(−v), a quotient of
its own, and the tanh in GELU's approximation as a σ. The one exception is 1 + x·v′·σ(−v) in the
derivative of a gate x·σ(v). It has a zero left of 0, next to which its error stays small beside the
two terms, but not beside their sum.
"""

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
from gelu_jax.activations.exponential import exp, expm1, log, polynomial, precise_exp
from gelu_jax.activations.gate32 import silu_derivative

# σ(v) = C/(C + C·e⁻ᵛ): scaled down by C, e⁻ᵛ stays in range until even x·σ(v) has become zero
_SHIFT = -48
_C = 2.0**_SHIFT


def _saturation_bounds(x: Number) -> tuple[float, float]:
    """Where x·σ(x) has become 0 and x, and its derivative 0 and 1, in float32 and in float64."""
    return (-112.0, 30.0) if as_array(x).dtype == jnp.float32 else (-720.0, 45.0)


def _clamp_both(x: Number) -> Number:
    return clamp(x, *_saturation_bounds(x))


def _clamp_below(x: Number) -> Number:
    return clamp(x, _saturation_bounds(x)[0], jnp.inf)


def _exp_and_sum(v: Number) -> tuple[DoubleWord, DoubleWord]:
    """C·e⁻ᵛ and C + C·e⁻ᵛ: over the second, the first is σ(−v) and C is σ(v)."""
    e = exp(-v, _SHIFT)
    if isinstance(v, DoubleWord):
        return e, e + _C
    # for an array, e.hi is a power of two and C another: the larger of them becomes hi, and the
    # smaller one and e.lo are added first, so that rounding the sum later is the only error
    steep, c = e.hi > _C, jnp.full_like(e.hi, _C)
    small = DoubleWord(jnp.where(steep, c, e.hi), e.lo).rounded()
    return e, DoubleWord(jnp.where(steep, e.hi, c), small, guard_bits_only=True)


def _gate(x: Number, v: Number) -> Scaled:
    """x·σ(v), as x·C/(C + C·e⁻ᵛ) with the last C taken up by the scale."""
    _, d = _exp_and_sum(v)
    near = _clamp_below(x)
    ratio = near * (1 / d) if isinstance(near, DoubleWord) else near / d.rounded()
    return Scaled(ratio, _C).linear_above(x, _saturation_bounds(x)[1])


def _gate_derivative(v: DoubleWord, w: DoubleWord) -> Scaled:
    """(1 + w·σ(−v))·σ(v): the derivative of x·σ(v), where w = x·v′."""
    e, d = _exp_and_sum(v)
    q = 1 / d
    return Scaled((w * (e * q) + 1) * q, _C)


def _logistic_density(v: DoubleWord) -> Scaled:
    """σ(v)·σ(−v), the derivative of σ, which is even: taken where e⁻ᵛ is at least 1."""
    e, d = _exp_and_sum(-magnitude(v))
    q = 1 / d
    return Scaled(e * q * q, _C)


def _sigmoid(x: Number) -> Scaled:
    return Scaled(1 / _exp_and_sum(_clamp_both(x))[1], _C)


def _sigmoid_derivative(x: Number) -> Scaled:
    low = _saturation_bounds(x)[0]
    return _logistic_density(double_word(clamp(x, low, -low)))


@elementwise(_sigmoid_derivative)
def sigmoid(x: Number) -> Scaled:
    """The logistic function σ.

    sigmoid(x) = 1/(1 + e⁻ˣ), with derivative σ(x)·σ(−x).

    Examples:
      >>> sigmoid(jnp.float16(0.0))
      Array(0.5, dtype=float16)
    """
    return _sigmoid(x)


def _tanh_derivative(x: Number) -> Scaled:
    low = _saturation_bounds(x)[0] / 2
    density = _logistic_density(double_word(clamp(x, low, -low)).scaled(2))
    return Scaled(density.number, density.power * 4)


@elementwise(_tanh_derivative)
def tanh(x: Number) -> Array:
    """The hyperbolic tangent.

    tanh(x) = (eˣ − e⁻ˣ)/(eˣ + e⁻ˣ), with derivative 4·σ(2x)·σ(−2x).

    Examples:
      >>> tanh(jnp.float16(1.0))
      Array(0.7617, dtype=float16)
    """
    x = as_array(x)
    # with e = e^(−2|x|) − 1, which keeps its digits next to 0, tanh |x| = −e/(e + 2)
    e = expm1(-2 * jnp.abs(jnp.clip(x, -20, 20)))
    sign = jnp.where(x > 0, jnp.asarray(-1, x.dtype), jnp.asarray(1, x.dtype))
    return jnp.where(x == 0, x, e.rounded() / (e + 2).rounded() * sign)


def _silu_derivative(x: Number) -> Number | Scaled:
    # what float32 promises is kept without double words, in less than half the time; 16 bits and
    # float64 need the bits of the equation below
    if isinstance(x, Array) and x.dtype == jnp.float32:
        return silu_derivative(x)
    v = double_word(_clamp_both(x))
    return _gate_derivative(v, v)


@elementwise(_silu_derivative)
def silu(x: Number) -> Scaled:
    """The sigmoid linear unit, also called swish.

    silu(x) = x·σ(x), with derivative σ(x)·(1 + x·σ(−x)).

    Accuracy: within 0.05 of −1.2785, where the derivative is zero, its error is at most 2⁻²⁴
    (float64: 2⁻⁵³) times 0.22, the size of the two terms that cancel there.

    Source: Elfwing et al. 2017, "Sigmoid-weighted linear units", arXiv 1702.03118; Ramachandran et
    al. 2017, "Searching for activation functions", arXiv 1710.05941.

    Examples:
      >>> silu(jnp.float16(1.0))
      Array(0.731, dtype=float16)
      >>> silu(jnp.bfloat16(-90.0))
      Array(-7.38357e-38, dtype=bfloat16)
    """
    return _gate(x, _clamp_both(x))


def _sigmoid_argument(x: Number) -> DoubleWord:
    low, high = (-65.5, 18) if as_array(x).dtype == jnp.float32 else (-422, 26)
    return double_word(clamp(x, low, high)) * "1.702"


def _gelu_sigmoid_derivative(x: Number) -> Scaled:
    v = _sigmoid_argument(x)
    return _gate_derivative(v, v)


@elementwise(_gelu_sigmoid_derivative, in_float32=("bfloat16",))
def gelu_sigmoid(x: Number) -> Scaled:
    """The sigmoid approximation of `gelu`, within 0.0203 of it; also called quick GELU.

    gelu_sigmoid(x) = x·σ(1.702·x), with derivative σ(v)·(1 + v·σ(−v)) where v = 1.702·x.

    Accuracy: within 0.05 of −0.7512, where the derivative is zero, its error is at most 2⁻²⁴
    (float64: 2⁻⁵³) times 0.22, the size of the two terms that cancel there.

    Source: Hendrycks and Gimpel 2016, "Gaussian error linear units (GELUs)", section 2,
    arXiv 1606.08415.

    Examples:
      >>> gelu_sigmoid(jnp.float16(1.0))
      Array(0.8457, dtype=float16)
    """
    return _gate(x, _sigmoid_argument(x))


# √(8/π), times 0.044715, and times 3·0.044715
_LINEAR = "1.59576912160573071175978423973752747"
_CUBIC = "0.07135481627260024877633875227986354"
_SLOPE = "0.21406444881780074632901625683959062"


def _clamp_and_square(x: Number) -> tuple[DoubleWord, DoubleWord]:
    """x and x², within bounds that keep √(8/π)(x + 0.044715·x³) within those of σ."""
    low, high = (-11, 6) if as_array(x).dtype == jnp.float32 else (-21.5, 7.5)
    near = double_word(clamp(x, low, high))
    return near, near * near


def _gelu_tanh_derivative(x: Number) -> Scaled:
    near, square = _clamp_and_square(x)
    v, w = near * (square * _CUBIC + _LINEAR), near * (square * _SLOPE + _LINEAR)
    return _gate_derivative(v, w)


@elementwise(_gelu_tanh_derivative, in_float32=("bfloat16",))
def gelu_tanh(x: Number) -> Scaled:
    """The tanh approximation of `gelu`, within 4.73e-4 of it; GPT-2's activation.

    gelu_tanh(x) = ½·x·(1 + tanh u) = x·σ(2u) with u = √(2/π)·(x + 0.044715·x³); its derivative is
    σ(2u)·(1 + 2x·u′·σ(−2u)).

    Accuracy: within 0.05 of −0.7525, where the derivative is zero, its error is at most 2⁻²⁴
    (float64: 2⁻⁵³) times 0.23, the size of the two terms that cancel there.

    Source: Hendrycks and Gimpel 2016, "Gaussian error linear units (GELUs)", section 2,
    arXiv 1606.08415.

    Examples:
      >>> gelu_tanh(jnp.float16(1.0))
      Array(0.8413, dtype=float16)
    """
    near, square = _clamp_and_square(x)
    return _gate(x, near * (square * _CUBIC + _LINEAR))


def _log1p_exp(x: DoubleWord) -> DoubleWord:
    """log(1 + e^−|x|)/C, as 2·artanh g with g = 1/(1 + 2·e^|x|), a series in g² ≤ 1/9."""
    g = 1 / (exp(magnitude(x), _SHIFT).scaled(2) + _C)
    square = jnp.square(g.rounded() * _C)
    terms = 9 if square.dtype == jnp.float32 else 17
    series = tuple(1 / (2 * i + 1) for i in range(terms, 0, -1))
    return (g + g.scaled(square * polynomial(series, square))).scaled(2)


def _softplus(x: Number) -> tuple[DoubleWord, Array]:
    """log(1 + eˣ) for x within bounds, as a double word and a power of two.

    It is max(x, 0) + log(1 + e^−|x|), both of them positive.
    """
    near = double_word(_clamp_both(x))
    tail = _log1p_exp(near)
    right, positive = tail.scaled(_C) + near, near.hi >= 0
    power = jnp.where(positive, jnp.ones_like(near.hi), jnp.full_like(near.hi, _C))
    return where(positive, right, tail), power


@elementwise(_sigmoid)
def softplus(x: Number) -> Scaled:
    """The smooth approximation of the rectified linear unit.

    softplus(x) = log(1 + eˣ), with derivative σ(x).

    Source: Dugas et al. 2000, "Incorporating second-order functional knowledge for better option
    pricing".

    Examples:
      >>> softplus(jnp.float16(-8.0))
      Array(0.0003355, dtype=float16)
    """
    return Scaled(*_softplus(x)).linear_above(x, _saturation_bounds(x)[1])


def _largest(x: Number) -> float:
    return float(jnp.finfo(as_array(x).dtype).max)


def _sqrt_softplus(x: Number) -> tuple[DoubleWord, Array]:
    """√log(1 + eˣ) for finite x ≥ −40, as a double word and a power of two."""
    # only ∞ is clamped to the largest float, which no product that counts follows
    near = clamp(x, -40, _largest(x))
    s, power = _softplus(near)
    far = as_array(near) > _saturation_bounds(x)[1]
    return where(far, DoubleWord(as_array(near)), s).sqrt(), jnp.sqrt(power)


def _exp_half_or(x: Number, factor: float, right: DoubleWord, power: Array) -> Scaled:
    """factor·e^(x/2) below −40, where √log(1 + eˣ) has become e^(x/2); elsewhere right·power."""
    low = 2 * _saturation_bounds(x)[0]
    left = exp(double_word(clamp(x, low, 0)).scaled(0.5), 48).scaled(factor)
    far = as_array(x) < -40
    return Scaled(where(far, left, right), jnp.where(far, jnp.full_like(power, 2.0**-48), power))


def _sqrt_softplus_derivative(x: Number) -> Scaled:
    root, power = _sqrt_softplus(x)
    d = _exp_and_sum(double_word(clamp(x, -40, _saturation_bounds(x)[1])))[1]
    power = jnp.where(as_array(x) > _largest(x), jnp.zeros_like(power), _C / power)
    return _exp_half_or(x, 0.5, 1 / (d * root).scaled(2), power)


@elementwise(_sqrt_softplus_derivative)
def sqrt_softplus(x: Number) -> Scaled:
    """The square root of `softplus`.

    sqrt_softplus(x) = √log(1 + eˣ), with derivative σ(x)/(2·√log(1 + eˣ)), finite everywhere.

    Examples:
      >>> sqrt_softplus(jnp.bfloat16(-160.0))
      Array(1.80556e-35, dtype=bfloat16)
    """
    return _exp_half_or(x, 1.0, *_sqrt_softplus(x)).linear_above(x, _largest(x))


def _mish_parts(x: Number) -> tuple[DoubleWord, DoubleWord, DoubleWord]:
    """σ(x)/C, u = σ(−x) and p = 1 − u², with which tanh(log(1 + eˣ)) = p/(2 − p).

    p is σ(x)·(1 + u), as 1 − u = σ(x): nothing cancels.
    """
    e, d = _exp_and_sum(double_word(_clamp_both(x)))
    q = 1 / d
    u = e * q
    return q, u, q.scaled(_C) * (u + 1)


def _mish_derivative(x: Number) -> Scaled:
    """σ(x)·(1 + u + 4x·u²/(2 − p))/(2 − p)."""
    q, u, p = _mish_parts(x)
    r = 1 / (2 - p)
    bend = double_word(_clamp_both(x)) * (u * u) * r
    return Scaled(q * r * ((u + 1) + bend.scaled(4)), _C)


@elementwise(_mish_derivative)
def mish(x: Number) -> Scaled:
    """The self-gated unit of `softplus` and tanh.

    mish(x) = x·tanh(log(1 + eˣ)); with u = σ(−x) and p = 1 − u² it is x·p/(2 − p), and its
    derivative σ(x)·(1 + u + 4x·u²/(2 − p))/(2 − p).

    Accuracy: within 0.05 of −1.1924, where the derivative is zero, its error is at most 2⁻²⁴
    (float64: 2⁻⁵³) times 0.26, the size of the two terms that cancel there.

    Source: Misra 2019, "Mish: a self regularized non-monotonic activation function",
    arXiv 1908.08681.

    Examples:
      >>> mish(jnp.float16(1.0))
      Array(0.865, dtype=float16)
    """
    q, u, p = _mish_parts(x)
    factor = q * (u + 1) * (1 / (2 - p))
    return Scaled(_clamp_below(x) * in_form_of(factor, x), _C).linear_above(
        x, _saturation_bounds(x)[1]
    )


# x^(3/(√x + 1)) is x·h with h = x^(3/(√x + 1) − 1), which is carried 2¹⁰⁰ times too large
_RAISED = 100


def _power_parts(x: Number) -> tuple[DoubleWord, DoubleWord, DoubleWord, DoubleWord]:
    """√x, log x, p = 3/(√x + 1) and h·2¹⁰⁰ for x > 0, within bounds beyond which h is 0 or 1/x."""
    low, high = (2.0**-76, 2.0**126) if as_array(x).dtype == jnp.float32 else (2.0**-540, 2.0**1020)
    near = double_word(clamp(x, low, high))
    root, logarithm = near.sqrt(), log(near)
    p = 3 / (root + 1)
    return root, logarithm, p, precise_exp((p - 1) * logarithm, _RAISED).apart()


def _powlu_derivative(x: Number) -> Scaled:
    """σ(x)·h·(p·(1 − √x·log x/(2·(√x + 1))) + x·σ(−x)) where x > 0, elsewhere that of silu."""
    v = double_word(_clamp_both(x))
    e, d = _exp_and_sum(v)
    q = 1 / d
    # x·σ(−x), which is nothing beside the rest where x is beyond the bounds
    w = v * (e * q).scaled(jnp.where(as_array(x) > v.rounded(), 0, jnp.ones_like(v.hi)))
    root, logarithm, p, h = _power_parts(x)
    bend = root * logarithm / (root + 1)
    right = h * q.scaled(_C) * (p * (1 - bend.scaled(0.5)) + w)
    positive = as_array(x) > 0
    power = jnp.where(positive, jnp.full_like(v.hi, 2.0**-_RAISED), jnp.full_like(v.hi, _C))
    return Scaled(where(positive, right, (w + 1) * q), power)


@elementwise(_powlu_derivative)
def powlu(x: Number) -> Scaled:
    """The power linear unit at power 3: `silu` whose growth on the right ends at 5.32.

    powlu(x) = x^p·σ(x) with p = 3/(√x + 1) where x > 0, elsewhere x·σ(x). Its derivative is
    x^(p − 1)·σ(x)·(p·(1 − √x·log x/(2·(√x + 1))) + x·σ(−x)) and that of `silu`. Right of 12.90 it
    falls, to 1. At 0 its slope jumps from ½ to 0.

    Accuracy: within 0.05 of −1.2785 and 12.897, where the derivative is zero, its error is at most
    2⁻²⁴ (float64: 2⁻⁵³) times 0.27, the size of the two terms that cancel there.

    Source: Jiang et al. 2026, "PowLU: an activation function for stable pre-training of LLMs",
    arXiv 2605.25704, at the power of flash-linear-attention's ``powglu``.

    Examples:
      >>> powlu(jnp.float16(4.0))
      Array(3.928, dtype=float16)
    """
    q = 1 / _exp_and_sum(double_word(_clamp_both(x)))[1]
    positive = as_array(x) > 0
    factor = where(positive, _power_parts(x)[3] * q.scaled(_C), q)
    high = 2.0**126 if as_array(x).dtype == jnp.float32 else 2.0**1020
    value = clamp(x, _saturation_bounds(x)[0], high) * in_form_of(factor, x)
    one = jnp.ones_like(as_array(x))
    value = with_sign_of_zero(value, x)
    return Scaled(value, jnp.where(positive, 2.0**-_RAISED * one, _C * one))
