"""Activations built on the logistic function σ(x) = 1/(1 + e⁻ˣ).

Error in ulp: at most 0.5 in bfloat16 and float16 (correctly rounded), 2 in float32, 4 in float64,
value and derivative; close to a zero of its derivative, where two terms cancel, a derivative in
float32 errs by at most 2⁻²⁴ of the larger. Every function keeps only its input for the backward
pass. tests/test_numerics.py measures all of this.
"""

import jax.numpy as jnp
from jax import Array

from gelu_jax.activations.double_word import (
    Number,
    Pair,
    clamped,
    magnitude,
    pair,
    plain,
    times,
    where,
)
from gelu_jax.activations.elementwise import Scaled, elementwise
from gelu_jax.activations.exponential import exp, expm1, polynomial

# σ(v) = C/(C + C·e⁻ᵛ): scaled down by C, e⁻ᵛ stays in range until even x·σ(v) is zero
_SHIFT = -48
_C = 2.0**_SHIFT


def _bounds(x: Number) -> tuple[float, float]:
    """Where x·σ(x) has become 0 and x, and its derivative 0 and 1, in float32 and in float64."""
    return (-112.0, 30.0) if plain(x).dtype == jnp.float32 else (-720.0, 45.0)


def _within(x: Number) -> Number:
    return clamped(x, *_bounds(x))


def _from_below(x: Number) -> Number:
    return clamped(x, _bounds(x)[0], jnp.inf)


def _logistic(v: Number) -> tuple[Pair, Pair]:
    """C·e⁻ᵛ and C + C·e⁻ᵛ: over the second, the first is σ(−v) and C is σ(v)."""
    e = exp(-v, _SHIFT)
    if isinstance(v, Pair):
        return e, e + _C
    # an array's sum is rounded once, if the smaller of its two large terms goes first
    steep, c = e.hi > _C, jnp.full_like(e.hi, _C)
    small = Pair(jnp.where(steep, c, e.hi), e.lo).sum()
    return e, Pair(jnp.where(steep, e.hi, c), small, is_wide=True)


def _gate(x: Number, v: Number) -> Scaled:
    """x·σ(v)."""
    _, d = _logistic(v)
    near = _from_below(x)
    ratio = near * (1 / d) if isinstance(near, Pair) else near / d.sum()
    return Scaled(ratio, _C).linear_beyond(x, _bounds(x)[1])


def _gate_derivative(v: Pair, w: Pair) -> Scaled:
    """(1 + w·σ(−v))·σ(v): the derivative of x·σ(v), where w = x·v′."""
    e, d = _logistic(v)
    q = 1 / d
    return Scaled((w * (e * q) + 1) * q, _C)


def _bell(v: Pair) -> Scaled:
    """σ(v)·σ(−v), the derivative of σ."""
    e, d = _logistic(-magnitude(v))
    q = 1 / d
    return Scaled(e * q * q, _C)


def _sigmoid(x: Number) -> Scaled:
    return Scaled(1 / _logistic(_within(x))[1], _C)


def _sigmoid_derivative(x: Number) -> Scaled:
    low = _bounds(x)[0]
    return _bell(pair(clamped(x, low, -low)))


@elementwise(_sigmoid_derivative)
def sigmoid(x: Number) -> Scaled:
    """1/(1 + e⁻ˣ); its derivative is σ(x)·σ(−x).

    >>> sigmoid(0.0).item()
    0.5
    """
    return _sigmoid(x)


def _tanh_derivative(x: Number) -> Scaled:
    low = _bounds(x)[0] / 2
    bell = _bell(pair(clamped(x, low, -low)).scaled(2))
    return Scaled(bell.number, bell.power * 4)


@elementwise(_tanh_derivative)
def tanh(x: Number) -> Array:
    """tanh x; its derivative is 4·σ(2x)·σ(−2x).

    >>> tanh(float("inf")).item()
    1.0
    """
    x = plain(x)
    e = expm1(-2 * jnp.abs(jnp.clip(x, -20, 20)))
    sign = jnp.where(x > 0, jnp.asarray(-1, x.dtype), jnp.asarray(1, x.dtype))
    return jnp.where(x == 0, x, e.sum() / (e + 2).sum() * sign)


def _silu_derivative(x: Number) -> Scaled:
    v = pair(_within(x))
    return _gate_derivative(v, v)


@elementwise(_silu_derivative)
def silu(x: Number) -> Scaled:
    """x·σ(x), also called swish (Elfwing et al. 2017; Ramachandran et al. 2017).

    >>> silu(jnp.bfloat16(-90.0)) == jnp.bfloat16(-7.3785e-38)
    Array(True, dtype=bool)
    """
    return _gate(x, _within(x))


def _sigmoid_argument(x: Number) -> Pair:
    low, high = (-65.5, 18) if plain(x).dtype == jnp.float32 else (-422, 26)
    return pair(clamped(x, low, high)) * "1.702"


def _gelu_sigmoid_derivative(x: Number) -> Scaled:
    v = _sigmoid_argument(x)
    return _gate_derivative(v, v)


@elementwise(_gelu_sigmoid_derivative, bfloat16_in_pairs=False)
def gelu_sigmoid(x: Number) -> Scaled:
    """x·σ(1.702·x), within 0.0203 of gelu (Hendrycks and Gimpel 2016, section 2).

    >>> abs(gelu_sigmoid(1.0) - 0.84579575).item() < 1e-7
    True
    """
    return _gate(x, _sigmoid_argument(x))


# √(8/π), times 0.044715, and times 3·0.044715
_LINEAR = "1.59576912160573071175978423973752747"
_CUBIC = "0.07135481627260024877633875227986354"
_SLOPE = "0.21406444881780074632901625683959062"


def _tanh_argument(x: Number) -> tuple[Pair, Pair]:
    """x and x², within bounds that keep √(8/π)(x + 0.044715·x³) within those of σ."""
    low, high = (-11, 6) if plain(x).dtype == jnp.float32 else (-21.5, 7.5)
    near = pair(clamped(x, low, high))
    return near, near * near


def _gelu_tanh_derivative(x: Number) -> Scaled:
    near, square = _tanh_argument(x)
    return _gate_derivative(near * (square * _CUBIC + _LINEAR), near * (square * _SLOPE + _LINEAR))


@elementwise(_gelu_tanh_derivative, bfloat16_in_pairs=False)
def gelu_tanh(x: Number) -> Scaled:
    """½x(1 + tanh u) = x·σ(2u) with u = √(2/π)(x + 0.044715·x³) (Hendrycks and Gimpel 2016).

    Within 4.73e-4 of gelu.

    >>> abs(gelu_tanh(1.0) - 0.84119199).item() < 1e-7
    True
    """
    near, square = _tanh_argument(x)
    return _gate(x, near * (square * _CUBIC + _LINEAR))


def _log1p(x: Pair) -> Pair:
    """log(1 + e^−|x|)/C, as 2·artanh(1/(1 + 2e^|x|))."""
    g = 1 / (exp(magnitude(x), _SHIFT).scaled(2) + _C)
    square = jnp.square(g.sum() * _C)
    terms = 9 if square.dtype == jnp.float32 else 17
    series = tuple(1 / (2 * i + 1) for i in range(terms, 0, -1))
    return (g + g.scaled(square * polynomial(series, square))).scaled(2)


def _softplus(x: Number) -> tuple[Pair, Array]:
    """log(1 + eˣ) for x within bounds, as a pair and a power of two."""
    near = pair(_within(x))
    tail = _log1p(near)
    right, positive = tail.scaled(_C) + near, near.hi >= 0
    power = jnp.where(positive, jnp.ones_like(near.hi), jnp.full_like(near.hi, _C))
    return where(positive, right, tail), power


@elementwise(_sigmoid)
def softplus(x: Number) -> Scaled:
    """log(1 + eˣ); its derivative is σ(x).

    >>> softplus(jnp.float16(-11.0)) == jnp.float16(1.67e-5)
    Array(True, dtype=bool)
    """
    return Scaled(*_softplus(x)).linear_beyond(x, _bounds(x)[1])


def _largest(x: Number) -> float:
    return float(jnp.finfo(plain(x).dtype).max)


def _sqrt_softplus(x: Number) -> tuple[Pair, Array]:
    """√log(1 + eˣ) for finite x ≥ −40, as a pair and a power of two."""
    near = clamped(x, -40, _largest(x))
    s, power = _softplus(near)
    far = plain(near) > _bounds(x)[1]
    return where(far, Pair(plain(near)), s).sqrt(), jnp.sqrt(power)


def _left_or(x: Number, factor: float, right: Pair, power: Array) -> Scaled:
    """Below −40, where √log(1 + eˣ) has become e^(x/2), factor·e^(x/2); elsewhere right·power."""
    low = 2 * _bounds(x)[0]
    left = exp(pair(clamped(x, low, 0)).scaled(0.5), 48).scaled(factor)
    far = plain(x) < -40
    return Scaled(where(far, left, right), jnp.where(far, jnp.full_like(power, 2.0**-48), power))


def _sqrt_softplus_derivative(x: Number) -> Scaled:
    root, power = _sqrt_softplus(x)
    d = _logistic(pair(clamped(x, -40, _bounds(x)[1])))[1]
    power = jnp.where(plain(x) > _largest(x), jnp.zeros_like(power), _C / power)
    return _left_or(x, 0.5, 1 / (d * root).scaled(2), power)


@elementwise(_sqrt_softplus_derivative)
def sqrt_softplus(x: Number) -> Scaled:
    """√log(1 + eˣ); its derivative is σ(x)/(2√log(1 + eˣ)).

    >>> sqrt_softplus(-160.0).item() > 0
    True
    """
    return _left_or(x, 1.0, *_sqrt_softplus(x)).linear_beyond(x, _largest(x))


def _mish_parts(x: Number) -> tuple[Pair, Pair, Pair]:
    """σ(x)/C, u = σ(−x) and p = 1 − u², with which tanh(log(1 + eˣ)) = p/(2 − p)."""
    e, d = _logistic(pair(_within(x)))
    q = 1 / d
    u = e * q
    return q, u, q.scaled(_C) * (u + 1)


def _mish_derivative(x: Number) -> Scaled:
    """σ(x)·(1 + u + 4x·u²/(2 − p))/(2 − p)."""
    q, u, p = _mish_parts(x)
    r = 1 / (2 - p)
    bend = pair(_within(x)) * (u * u) * r
    return Scaled(q * r * ((u + 1) + bend.scaled(4)), _C)


@elementwise(_mish_derivative)
def mish(x: Number) -> Scaled:
    """x·tanh(log(1 + eˣ)) (Misra 2019).

    >>> abs(mish(1.0) - 0.86509839).item() < 1e-7
    True
    """
    q, u, p = _mish_parts(x)
    factor = q * (u + 1) * (1 / (2 - p))
    return Scaled(times(_from_below(x), factor), _C).linear_beyond(x, _bounds(x)[1])
