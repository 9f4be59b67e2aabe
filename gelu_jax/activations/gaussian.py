"""Activations built on the normal distribution: Φ its distribution function, φ its density.

Error in ulp: at most 0.5 in bfloat16 and float16 (correctly rounded), 2 in float32, 4 in float64,
value and derivative; close to a zero of its derivative, where two terms cancel, a derivative in
float32 errs by at most 2⁻²⁴ of the larger. Every function keeps only its input for the backward
pass. tests/test_numerics.py measures all of this.
"""

import jax.numpy as jnp
from jax import Array

from gelu_jax.activations.elementwise import Scaled, elementwise
from gelu_jax.activations.exponential import exp, polynomial
from gelu_jax.activations.pairs import Number, Pair, clamped, magnitude, pair, plain, times, where

# e^(−a²/2) is carried 1/C times too large, so that it stays in range until its products are zero
_SHIFT = 48
_C = 2.0**-_SHIFT
_INVERSE_SQRT_2PI = "0.39894228040143267793994605993438187"
# (a + 4)·M(a) in powers of (a − 4)/(a + 4), M(a) = Φ(−a)/φ(a): tests/golden/fit_mills.py
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


def _mills(a: Pair) -> Pair:
    """Mills' ratio Φ(−a)/φ(a) for a ≥ 0, to 2⁻²⁷."""
    inverse = 1 / (a + 4)
    q = 1 - inverse.scaled(8)
    coefficients = _MILLS_32 if a.hi.dtype == jnp.float32 else _MILLS_64
    ratio = pair(polynomial(coefficients[:-3], q.sum()))
    for c in coefficients[-3:]:
        ratio = q * ratio + c
    return inverse * ratio


def _density(a: Pair) -> Pair:
    """φ(a)/C."""
    return exp((a * a).scaled(-0.5), _SHIFT) * _INVERSE_SQRT_2PI


def _reflected(x: Pair, tail: Pair) -> tuple[Pair, Array]:
    """tail·C on the left and 1 − tail·C on the right, as a pair and a power of two."""
    left = x.hi < 0
    power = jnp.where(left, jnp.full_like(x.hi, _C), jnp.ones_like(x.hi))
    return where(left, tail, 1 - tail.scaled(_C)), power


def _bound(x: Number) -> float:
    """Where Φ(−x) has become 0 and Φ(x) 1, in float32 and in float64."""
    return 15.5 if plain(x).dtype == jnp.float32 else 38.5


def _bounded(x: Number) -> Pair:
    return pair(clamped(x, -_bound(x), _bound(x)))


def _cdf(x: Pair) -> tuple[Pair, Array]:
    """Φ(x) as a pair and a power of two."""
    a = magnitude(x)
    return _reflected(x, _density(a) * _mills(a))


def _gelu(x: Number) -> Scaled:
    cdf, power = _cdf(_bounded(x))
    near = clamped(x, -_bound(x), jnp.inf)
    return Scaled(times(near, cdf), power).linear_beyond(x, _bound(x))


def _gelu_derivative(x: Number) -> Scaled:
    """Φ(x) + x·φ(x); on the left, where a = −x, φ(a)·(Φ(−a)/φ(a) − a)."""
    near = _bounded(x)
    a = magnitude(near)
    return Scaled(*_reflected(near, _density(a) * (_mills(a) - a)))


@elementwise(_gelu_derivative)
def gelu(x: Number) -> Scaled:
    """x·Φ(x) (Hendrycks and Gimpel 2016, section 2); its derivative is Φ(x) + x·φ(x).

    >>> abs(gelu(1.0) - 0.84134475).item() < 1e-7
    True
    >>> gelu(jnp.bfloat16(-5.0)) == jnp.bfloat16(-1.4333e-6)
    Array(True, dtype=bool)
    """
    return _gelu(x)


def _gelu_10_derivative(x: Number) -> Scaled:
    slope = _gelu_derivative(x)
    return Scaled(slope.number, jnp.where(plain(x) >= 10, jnp.zeros_like(slope.power), slope.power))


@elementwise(_gelu_10_derivative)
def gelu_10(x: Number) -> Scaled:
    """gelu(x) clipped to [−10, 10]; its derivative is 0 from 10 on.

    >>> gelu_10(100.0).item()
    10.0
    """
    return _gelu(clamped(x, -jnp.inf, 10))


_MEAN, _INVERSE_DEVIATION = "0.707107", "3.54490508516634467112143072369237313670926461"


def _laplace_argument(x: Number) -> Pair:
    low, high = (-3.625, 5.0) if plain(x).dtype == jnp.float32 else (-10.0, 11.5)
    return (pair(clamped(x, low, high)) - _MEAN) * _INVERSE_DEVIATION


def _laplace_derivative(x: Number) -> Scaled:
    return Scaled(_density(_laplace_argument(x)) * _INVERSE_DEVIATION, _C)


@elementwise(_laplace_derivative)
def laplace(x: Number) -> Scaled:
    """Φ((x − 0.707107)/0.282095), a bounded stand-in for relu_squared (Ma et al. 2022, "Mega").

    >>> abs(laplace(0.707107) - 0.5).item() < 1e-6
    True
    """
    return Scaled(*_cdf(_laplace_argument(x)))
