"""Activations made of straight lines, parabolas and one exponential."""

from fractions import Fraction

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gelu_jax.activations.double_word import Number, Pair, clamped, cut, pair, plain, where
from gelu_jax.activations.elementwise import Scaled, elementwise, floating
from gelu_jax.activations.exponential import exp, expm1, expm1_less_x


def _choose(x: Array, condition: Array, then: float, otherwise: float) -> Array:
    """One of two constants; NaN where x is NaN."""
    return jnp.where(jnp.isnan(x), x, jnp.where(condition, then, otherwise).astype(x.dtype))


@elementwise(lambda x: _choose(plain(x), plain(x) == plain(x), 1, 1))
def identity(x: Number) -> Array:
    """The input itself."""
    return plain(x)


@elementwise(lambda x: _choose(plain(x), plain(x) > 0, 1, 0))
def relu(x: Number) -> Array:
    """max(x, 0), with derivative 0 at 0."""
    return jnp.maximum(plain(x), 0)


@elementwise(lambda x: 2 * jnp.maximum(plain(x), 0))
def relu_squared(x: Number) -> Array:
    """max(x, 0)² (So et al. 2021, "Primer")."""
    return jnp.square(jnp.maximum(plain(x), 0))


@elementwise(lambda x: _choose(plain(x), (plain(x) > 0) & (plain(x) < 6), 1, 0))
def relu6(x: Number) -> Array:
    """min(max(x, 0), 6), with derivative 0 at 0 and at 6."""
    return jnp.clip(plain(x), 0, 6)


@elementwise(lambda x: _choose(plain(x), plain(x) > 0, 1, 0.01))
def leaky_relu(x: Number) -> Array:
    """x where positive, 0.01·x elsewhere."""
    x = plain(x)
    return jnp.where(x > 0, x, x / 100)


def _exp_below_0(x: Number) -> Scaled:
    """e^min(x, 0), carried 2⁴⁸ times too large."""
    low = -112 if plain(x).dtype == jnp.float32 else -720
    return Scaled(exp(clamped(x, low, 0), 48), 2.0**-48)


def _elu(x: Array) -> Array:
    return jnp.where(x >= 0, x, expm1(plain(clamped(x, -80, 0))).sum())


@elementwise(_exp_below_0)
def elu(x: Number) -> Array:
    """x where positive, eˣ − 1 elsewhere (Clevert et al. 2015, α = 1)."""
    return _elu(plain(x))


@elementwise(_exp_below_0)
def celu(x: Number) -> Array:
    """max(x, 0) + min(0, eˣ − 1): CELU (Barron 2017) at α = 1, where it is ELU."""
    return _elu(plain(x))


# λ and λα (Klambauer et al. 2017, equation 14)
_SCALE = "1.0507009873554804934193349852946"
_SCALE_ALPHA = "1.75809934084737685994021752081231"


def _selu_derivative(x: Number) -> Scaled:
    left = _exp_below_0(x)
    positive = plain(x) > 0
    one = jnp.ones_like(plain(x))
    slope = where(positive, Pair(one, is_cut=True) * _SCALE, pair(left.number) * _SCALE_ALPHA)
    return Scaled(slope, jnp.where(positive, one, left.power))


@elementwise(_selu_derivative)
def selu(x: Number) -> Scaled:
    """λ·(x where positive, α(eˣ − 1) elsewhere) (Klambauer et al. 2017)."""
    v = plain(x)
    # close to 0 it is linear, and so small that the low part of a product would be subnormal
    tiny = jnp.abs(v) < (2.0**-40 if v.dtype == jnp.float32 else 2.0**-64)
    up = jnp.where(tiny, jnp.asarray(2.0**64, v.dtype), jnp.asarray(1, v.dtype))
    raised = x.scaled(up) if isinstance(x, Pair) else pair(x * up)
    left = where(tiny, raised, exp(pair(clamped(x, -80, 0)), 0) - 1)
    number = where(v >= 0, raised * _SCALE, left * _SCALE_ALPHA)
    return Scaled(where(jnp.isinf(v) & (v > 0), Pair(v), number), 1 / up)


@elementwise(lambda x: _choose(plain(x), jnp.abs(plain(x)) < 3, 1 / 6, 0))
def hard_sigmoid(x: Number) -> Array:
    """relu6(x + 3)/6 (Howard et al. 2019)."""
    return jnp.clip(plain(x) + 3, 0, 6) / 6


def _hard_silu_derivative(x: Number) -> Array:
    x = plain(x)
    return jnp.where(x >= 3, 1, (2 * jnp.clip(x, -3, 3) + 3) * jnp.where(x <= -3, 0, 1 / 6))


def _sixth(x: Pair) -> Pair:
    """x/6, exact where that is possible: what is halfway between two float16 must stay so."""
    quotient = x.hi / 6
    hi = cut(quotient)
    # written so that −0 leaves −0
    rest = -(6 * hi - x.hi) - 6 * (quotient - hi)
    return Pair(quotient, (rest if x.lo is None else rest + x.lo) / 6)


@elementwise(_hard_silu_derivative)
def hard_silu(x: Number) -> Scaled:
    """x·relu6(x + 3)/6 (Howard et al. 2019)."""
    near = clamped(x, -3, 3)
    shifted = pair(near) + 3
    if isinstance(near, Pair):
        return Scaled(_sixth(near * shifted), 1.0).linear_beyond(x, 3)
    return Scaled(near * (shifted * Fraction(1, 6)).sum(), 1.0).linear_beyond(x, 3)


def prelu(x: ArrayLike, slope: ArrayLike = 0.25) -> Array:
    """x where positive, slope·x elsewhere; the slope is learned, from 0.25 on (He et al. 2015).

    Differentiable in the slope too, which broadcasts against x; the result has the dtype of x.
    """
    x = floating(x, "prelu")
    return jnp.where(x > 0, x, (jnp.asarray(slope) * x).astype(x.dtype))


@jax.checkpoint
def _xielu(x: Array, alpha_p: Array, alpha_n: Array, beta: Array, below: Array) -> Array:
    right = alpha_p * jnp.square(jnp.maximum(x, 0))
    least = jnp.minimum(x, below)
    left = alpha_n * (expm1_less_x(least) + (least - jnp.minimum(x, 0)))
    return jnp.where(x > 0, right, left) + beta * x


def xielu(
    x: ArrayLike,
    alpha_p: ArrayLike = 0.8,
    alpha_n: ArrayLike = 0.8,
    beta: ArrayLike = 0.5,
    below: ArrayLike = -1e-6,
) -> Array:
    """αp·x² + βx where positive, αn·(e^min(x, ε) − 1 − x) + βx elsewhere (Huang and Schlag 2024).

    αp and αn are the effective coefficients, αp = softplus(a) and αn = β + softplus(b) of the
    learned a and b; both start at 0.8. Differentiable in all but ε; computed in float32 or wider.
    """
    x = floating(x, "xielu")
    wide = jnp.float64 if x.dtype == jnp.float64 else jnp.float32
    parameters = (jnp.asarray(p, wide) for p in (alpha_p, alpha_n, beta, below))
    return _xielu(x.astype(wide), *parameters).astype(x.dtype)
