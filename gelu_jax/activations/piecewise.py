"""Activations made of straight lines, parabolas and one exponential."""

from fractions import Fraction

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gelu_jax.activations.elementwise import Scaled, elementwise, floating
from gelu_jax.activations.exponential import exp, expm1
from gelu_jax.activations.pairs import Number, Pair, clamped, pair, plain, times, where


def _choose(x: Number, condition: Array, then: float, otherwise: float) -> Array:
    """One of two constants, NaN where x is NaN."""
    x = plain(x)
    return jnp.where(jnp.isnan(x), x, jnp.where(condition, then, otherwise).astype(x.dtype))


@elementwise(lambda x: _choose(x, plain(x) == plain(x), 1, 1))
def identity(x):
    """The input itself."""
    return plain(x)


@elementwise(lambda x: _choose(x, plain(x) > 0, 1, 0))
def relu(x):
    """max(x, 0)."""
    return jnp.maximum(plain(x), 0)


@elementwise(lambda x: 2 * jnp.maximum(plain(x), 0))
def relu_squared(x):
    """max(x, 0)²."""
    return jnp.square(jnp.maximum(plain(x), 0))


@elementwise(lambda x: _choose(x, (plain(x) > 0) & (plain(x) < 6), 1, 0))
def relu6(x):
    """min(max(x, 0), 6)."""
    return clamped(plain(x), 0, 6)


@elementwise(lambda x: _choose(x, plain(x) > 0, 1, 0.01))
def leaky_relu(x):
    """x where positive, 0.01·x elsewhere."""
    x = plain(x)
    return jnp.where(x > 0, x, 0.01 * x)


def _exp_below_0(x: Number) -> Scaled:
    """e^min(x, 0)."""
    low = -120.0 if plain(x).dtype == jnp.float32 else -740.0
    return Scaled(exp(clamped(x, low, 0), 48), 2.0**-48)


def _elu(x: Number) -> Array:
    x = plain(x)
    return jnp.where(x >= 0, x, expm1(clamped(x, -80, 0)).sum())


@elementwise(_exp_below_0)
def elu(x: Number) -> Array:
    """x where positive, eˣ − 1 elsewhere."""
    return _elu(x)


@elementwise(_exp_below_0)
def celu(x: Number) -> Array:
    """max(x, 0) + min(0, eˣ − 1): CELU at α = 1, where it is ELU."""
    return _elu(x)


_SCALE = "1.0507009873554804934193349852946"
_SCALE_ALPHA = "1.7580993408473768599402175208123"


def _selu_derivative(x: Number) -> Scaled:
    left = _exp_below_0(x if isinstance(x, Pair) else pair(clamped(x, -720, 0)))
    positive = plain(x) > 0
    scale = Pair(jnp.ones_like(plain(x)), is_cut=True) * _SCALE
    power = jnp.where(positive, jnp.ones_like(plain(x)), left.power)
    return Scaled(where(positive, scale, left.number * _SCALE_ALPHA), power)


@elementwise(_selu_derivative)
def selu(x: Number) -> Scaled:
    """λ·(x where positive, α(eˣ − 1) elsewhere)."""
    v = plain(x)
    tiny = abs(v) < 2.0**-40
    up = jnp.where(tiny, jnp.asarray(2.0**64, v.dtype), jnp.asarray(1, v.dtype))
    left = where(tiny, pair(x).scaled(up), exp(pair(clamped(x, -80, 0)), 0) - 1)
    number = where(v >= 0, pair(x).scaled(up) * _SCALE, left * _SCALE_ALPHA)
    return Scaled(number, 1 / up)


@elementwise(lambda x: _choose(x, abs(plain(x)) < 3, 1 / 6, 0))
def hard_sigmoid(x):
    """relu6(x + 3)/6."""
    return clamped(plain(x) + 3, 0, 6) * (1 / 6)


def _hard_silu_derivative(x: Number) -> Array:
    x = plain(x)
    return jnp.where(x >= 3, 1, (2 * clamped(x, -3, 3) + 3) * jnp.where(x <= -3, 0, 1 / 6))


@elementwise(_hard_silu_derivative)
def hard_silu(x: Number) -> Scaled:
    """x·relu6(x + 3)/6."""
    near = pair(clamped(x, -3, 3))
    return Scaled(times(clamped(x, -3, jnp.inf), (near + 3) * Fraction(1, 6)), 1.0).linear_beyond(x, 3)


def prelu(x: ArrayLike, slope: ArrayLike) -> Array:
    """x where positive, slope·x elsewhere; the slope is learned."""
    x = floating(x, "prelu")
    return jnp.where(x > 0, x, (jnp.asarray(slope) * x).astype(x.dtype))


def xielu(
    x: ArrayLike, alpha_p: ArrayLike, alpha_n: ArrayLike, beta: float = 0.5, eps: float = -1e-6
) -> Array:
    """αp·x² + βx where positive, αn·(e^min(x, ε) − 1 − x) + βx elsewhere; both α are learned."""
    x = floating(x, "xielu")
    wide = jnp.float64 if x.dtype == jnp.float64 else jnp.float32
    v = x.astype(wide)
    p, n = jnp.asarray(alpha_p, wide), jnp.asarray(alpha_n, wide)
    positive = p * jnp.square(jnp.maximum(v, 0))
    negative = n * (jnp.expm1(jnp.minimum(v, eps)) - v)
    return (jnp.where(v > 0, positive, negative) + beta * v).astype(x.dtype)
