"""Activations built on the logistic function σ(x) = 1/(1 + e⁻ˣ)."""

import jax.numpy as jnp
from jax import Array

from gelu_jax.activations.elementwise import Scaled, elementwise
from gelu_jax.activations.exponential import exp, expm1, polynomial
from gelu_jax.activations.pairs import Number, Pair, clamped, pair, plain, times, where

# σ(v) = C/(C + C·e⁻ᵛ): scaled down by C, e⁻ᵛ stays in range until even x·σ(v) is zero
_SHIFT = -48
_C = 2.0**_SHIFT


def _bounds(x: Number) -> tuple[float, float]:
    """Where x·σ(x) has become 0 and x, and its derivative 0 and 1, in float32 and in float64."""
    return (-112.0, 30.0) if plain(x).dtype == jnp.float32 else (-720.0, 45.0)


def _within(x: Number) -> Number:
    return clamped(x, *_bounds(x))


def _magnitude(x: Pair) -> Pair:
    """|x|, differentiable from the left at 0."""
    return where(x.hi > 0, x, -x)


def _logistic(v: Number) -> tuple[Pair, Pair]:
    """C·e⁻ᵛ and C + C·e⁻ᵛ: over the second, the first is σ(−v) and C is σ(v)."""
    e = exp(-v, _SHIFT)
    if isinstance(v, Pair):
        return e, e + _C
    # an array: the smaller term first, so that the sum rounds once
    large = e.hi > _C
    c = jnp.full_like(e.hi, _C)
    return e, Pair(jnp.where(large, e.hi, c), jnp.where(large, c, e.hi) + e.lo, is_wide=True)


def _gate(x: Number, v: Number) -> Scaled:
    """x·σ(v)."""
    _, d = _logistic(v)
    low, high = _bounds(x)
    near = clamped(x, low, jnp.inf)
    ratio = near * (1 / d) if isinstance(near, Pair) else near / d.sum()
    return Scaled(ratio, _C).linear_beyond(x, high)


def _gate_derivative(v: Pair, w: Pair) -> Scaled:
    """σ(v)·(1 + w·σ(−v)): the derivative of x·σ(v), where w = x·v′."""
    e, d = _logistic(v)
    q = 1 / d
    return Scaled((w * (e * q) + 1) * q, _C)


def _bell(v: Pair) -> Scaled:
    """σ(v)·σ(−v), the derivative of σ."""
    e, d = _logistic(-_magnitude(v))
    q = 1 / d
    return Scaled(e * q * q, _C)


def _symmetric(x: Number) -> Number:
    low = _bounds(x)[0]
    return clamped(x, low, -low)


def _sigmoid(x: Number) -> Scaled:
    return Scaled(1 / _logistic(_within(x))[1], _C)


@elementwise(lambda x: _bell(pair(_symmetric(x))))
def sigmoid(x: Number) -> Scaled:
    """1/(1 + e⁻ˣ)."""
    return _sigmoid(x)


def _tanh_derivative(x: Number) -> Scaled:
    bell = _bell(pair(clamped(x, -360, 360) if plain(x).dtype == jnp.float64 else clamped(x, -56, 56)).scaled(2))
    return Scaled(bell.number, bell.power * 4)


@elementwise(_tanh_derivative)
def tanh(x: Number) -> Array:
    """tanh x."""
    x = plain(x)
    e = expm1(-2 * jnp.abs(clamped(x, -20, 20)))
    ratio = e.sum() / (e + 2).sum()
    sign = jnp.where(x > 0, jnp.asarray(-1, x.dtype), jnp.asarray(1, x.dtype))
    return jnp.where(x == 0, x, ratio * sign)


def _silu_derivative(x: Number) -> Scaled:
    v = pair(_within(x))
    return _gate_derivative(v, v)


@elementwise(_silu_derivative)
def silu(x: Number) -> Scaled:
    """x·σ(x)."""
    return _gate(x, clamped(x, _bounds(x)[0], _bounds(x)[1]))


def _sigmoid_argument(x: Number) -> Pair:
    low, high = (-65.5, 18) if plain(x).dtype == jnp.float32 else (-422, 26)
    return pair(clamped(x, low, high)) * "1.702"


def _gelu_sigmoid_derivative(x: Number) -> Scaled:
    v = _sigmoid_argument(x)
    return _gate_derivative(v, v)


@elementwise(_gelu_sigmoid_derivative)
def gelu_sigmoid(x: Number) -> Scaled:
    """x·σ(1.702·x)."""
    return _gate(x, _sigmoid_argument(x))


# √(8/π) and what it makes of the cubic term and of the cubic term's slope
_LINEAR = "1.59576912160573071175978423973752747"
_CUBIC = "0.07135481627260024877633875227986354"
_SLOPE = "0.21406444881780074632901625683959062"


def _tanh_argument(x: Number) -> tuple[Pair, Pair]:
    """x and x², within the bounds of √(8/π)(x + 0.044715·x³)."""
    low, high = (-11, 6) if plain(x).dtype == jnp.float32 else (-21.5, 7.5)
    x = pair(clamped(x, low, high))
    return x, x * x


def _gelu_tanh_derivative(x: Number) -> Scaled:
    x, square = _tanh_argument(x)
    return _gate_derivative(x * (square * _CUBIC + _LINEAR), x * (square * _SLOPE + _LINEAR))


@elementwise(_gelu_tanh_derivative)
def gelu_tanh(x: Number) -> Scaled:
    """x·σ(2u), u = √(2/π)(x + 0.044715·x³)."""
    v, square = _tanh_argument(x)
    return _gate(x, v * (square * _CUBIC + _LINEAR))


def _log1p(x: Pair) -> Pair:
    """log(1 + e^−|x|)/C, as 2·artanh(1/(1 + 2e^|x|))."""
    g = 1 / (exp(_magnitude(x), _SHIFT).scaled(2) + _C)
    square = jnp.square(g.sum() * _C)
    terms = 9 if square.dtype == jnp.float32 else 17
    series = tuple(1 / (2 * i + 1) for i in range(terms, 0, -1))
    return (g + g.scaled(square * polynomial(series, square))).scaled(2)


def _softplus(x: Number) -> tuple[Pair, Array]:
    """log(1 + eˣ) as a pair and a power of two."""
    near = pair(_within(x))
    tail = _log1p(near)
    right = tail.scaled(_C) + near
    positive = near.hi > 0
    power = jnp.where(positive, jnp.ones_like(near.hi), jnp.full_like(near.hi, _C))
    return where(positive, right, tail), power


@elementwise(_sigmoid)
def softplus(x: Number) -> Scaled:
    """log(1 + eˣ)."""
    return Scaled(*_softplus(x)).linear_beyond(x, _bounds(x)[1])


def _root(x: Number) -> tuple[Pair, Array]:
    """√log(1 + eˣ) as a pair and a power of two."""
    s, power = _softplus(clamped(x, -40, jnp.inf))
    return where(plain(x) > _bounds(x)[1], Pair(plain(x)), s).sqrt(), jnp.sqrt(power)


def _exp_half(x: Number) -> Pair:
    """e^(x/2)·2⁴⁸, which √log(1 + eˣ) has become below −40."""
    return exp(pair(clamped(x, -240 if plain(x).dtype == jnp.float32 else -1440, 0)).scaled(0.5), 48)


def _left_or(x: Number, left: Pair, right: Pair, power: Array) -> Scaled:
    far = plain(x) < -40
    return Scaled(where(far, left, right), jnp.where(far, jnp.asarray(2.0**-48, power.dtype), power))


def _sqrt_softplus_derivative(x: Number) -> Scaled:
    root, power = _root(x)
    slope = 1 / (_logistic(pair(clamped(x, -40, _bounds(x)[1])))[1] * root).scaled(2)
    return _left_or(x, _exp_half(x).scaled(0.5), slope, _C / power)


@elementwise(_sqrt_softplus_derivative)
def sqrt_softplus(x: Number) -> Scaled:
    """√log(1 + eˣ)."""
    return _left_or(x, _exp_half(x), *_root(x))


def _mish_parts(x: Number) -> tuple[Pair, Pair, Pair]:
    """σ(x)/C, σ(−x) and 1 − σ(−x)², of which tanh(softplus(x)) is p/(2 − p)."""
    e, d = _logistic(pair(_within(x)))
    q = 1 / d
    u = e * q
    return q, u, q.scaled(_C) * (u + 1)


def _mish_derivative(x: Number) -> Scaled:
    q, u, p = _mish_parts(x)
    x = pair(_within(x))
    r = 1 / (2 - p)
    return Scaled(q * r * ((u + 1) + (x * (u * u) * r).scaled(4)), _C)


@elementwise(_mish_derivative)
def mish(x: Number) -> Scaled:
    """x·tanh(log(1 + eˣ))."""
    q, u, p = _mish_parts(x)
    low, high = _bounds(x)
    return Scaled(times(clamped(x, low, jnp.inf), q * (u + 1) * (1 / (2 - p))), _C).linear_beyond(x, high)
