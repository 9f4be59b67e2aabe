"""Activations built on the normal distribution: Φ its cdf, φ its pdf."""

import jax.numpy as jnp
from jax import Array

from gelu_jax.activations.elementwise import Scaled, elementwise
from gelu_jax.activations.exponential import exp, polynomial
from gelu_jax.activations.pairs import Number, Pair, clamped, pair, plain, times, where

# e^(−a²/2) is carried 2⁴⁸ times too large, so that only its products become subnormal
_SHIFT = 48
_C = 2.0**-_SHIFT
_INVERSE_SQRT_2PI = "0.39894228040143267793994605993438187"
# (a + 4)·M(a) in q = (a − 4)/(a + 4), M Mills' ratio Φ(−a)/φ(a): tests/golden/fit_mills.py
_MILLS_32 = (
    3.5993621457819686e-05, -4.2934193535563415e-05, -0.0005488694799060305,
    0.0003684050033609697, 0.004082832570961485, -0.008733101685840709,
    -0.018900583028851524, 0.15139319585421257, -0.46754089445347, 0.9704094860765329,
    -1.523770913024456, 1.8932190638520106,
)  # fmt: skip
_MILLS_64 = (
    -1.2973962119621134e-11, -1.760075310982905e-09, -6.087589520809661e-09,
    4.713985677856887e-09, 4.8438579092290615e-08, 3.3192814921195657e-08,
    -2.1299652187926593e-07, -3.880747297904129e-07, 6.803847061118666e-07,
    2.5602540113092814e-06, -1.577918967782438e-06, -1.4839435039942406e-05,
    1.7962440389515913e-06, 8.809457859469084e-05, -4.783255958012461e-06,
    -0.0005792690800401166, 0.00033424461824698343, 0.00408785565417938,
    -0.008722295274662555, -0.018900450859888892, 0.1513917623124698,
    -0.4675409629983896, 0.9704095548675878, -1.5237709108199828, 1.8932190633084853,
)  # fmt: skip


def _mills(a):
    """Mills' ratio Φ(−a)/φ(a) for a ≥ 0."""
    inverse = 1 / (a + 4)
    q = 1 - inverse.scaled(8)
    coefficients = _MILLS_32 if a.hi.dtype == jnp.float32 else _MILLS_64
    ratio = pair(polynomial(coefficients[:-3], q.sum()))
    for c in coefficients[-3:]:
        ratio = q * ratio + c
    return inverse * ratio


def _pdf(a: Pair) -> Pair:
    """φ(a)·2⁴⁸."""
    return exp((a * a).scaled(-0.5), _SHIFT) * _INVERSE_SQRT_2PI


def _magnitude(x: Pair) -> Pair:
    return where(x.hi < 0, -x, x)


def _reflected(x: Pair, tail: Pair) -> tuple[Pair, Array]:
    """tail/2⁴⁸ on the left and 1 − tail/2⁴⁸ on the right, as a pair and a power of two."""
    left = x.hi < 0
    power = jnp.where(left, jnp.full_like(x.hi, _C), jnp.ones_like(x.hi))
    return where(left, tail, 1 - tail.scaled(_C)), power


def _bounded(x: Number) -> Pair:
    """x within the bounds where Φ has become 0 and 1."""
    bound = 15.5 if plain(x).dtype == jnp.float32 else 38.5
    return pair(clamped(x, -bound, bound))


def _cdf(x: Pair) -> tuple[Pair, Array]:
    a = _magnitude(x)
    return _reflected(x, _pdf(a) * _mills(a))


def _gelu(x: Number) -> Scaled:
    p, power = _cdf(_bounded(x))
    low = -15.5 if plain(x).dtype == jnp.float32 else -38.5
    return Scaled(times(clamped(x, low, jnp.inf), p), power).linear_beyond(x, -low)


def _gelu_derivative(x: Number) -> Scaled:
    """Φ(x) + x·φ(x), on the left as φ(a)·(Φ(−a)/φ(a) − a) with a = −x."""
    x = _bounded(x)
    a = _magnitude(x)
    return Scaled(*_reflected(x, _pdf(a) * (_mills(a) - a)))


@elementwise(_gelu_derivative)
def gelu(x: Number) -> Scaled:
    """x·Φ(x)."""
    return _gelu(x)


def _gelu_10_derivative(x: Number) -> Scaled:
    slope = _gelu_derivative(x)
    return Scaled(slope.number, jnp.where(plain(x) >= 10, jnp.zeros_like(slope.power), slope.power))


@elementwise(_gelu_10_derivative)
def gelu_10(x: Number) -> Scaled:
    """gelu(x) clipped to [−10, 10]."""
    return _gelu(clamped(x, -jnp.inf, 10))


_MEAN, _INVERSE_DEVIATION = "0.707107", "3.54490508516634467112143072369237313670926461"


def _laplace_argument(x: Number) -> Pair:
    low, high = (-3.625, 5.0) if plain(x).dtype == jnp.float32 else (-10.0, 11.5)
    return (pair(clamped(x, low, high)) - _MEAN) * _INVERSE_DEVIATION


def _laplace_derivative(x: Number) -> Scaled:
    return Scaled(_pdf(_laplace_argument(x)) * _INVERSE_DEVIATION, _C)


@elementwise(_laplace_derivative)
def laplace(x: Number) -> Scaled:
    """Φ((x − 0.707107)/0.282095)."""
    return Scaled(*_cdf(_laplace_argument(x)))
