"""Activations made of straight lines, parabolas and one exponential."""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gelu_jax.activations.elementwise import elementwise, floating

SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946


def _where(condition: Array, then: Array | float, otherwise: Array | float, x: Array) -> Array:
    """A choice that hands a NaN input on."""
    return jnp.where(jnp.isnan(x), x, jnp.where(condition, then, otherwise)).astype(x.dtype)


@elementwise(lambda x: _where(x == x, 1.0, 1.0, x))
def identity(x: Array) -> Array:
    """The input itself."""
    return x


@elementwise(lambda x: _where(x > 0, 1.0, 0.0, x))
def relu(x: Array) -> Array:
    """max(x, 0)."""
    return jnp.maximum(x, 0)


@elementwise(lambda x: 2 * jnp.maximum(x, 0))
def relu_squared(x: Array) -> Array:
    """max(x, 0)²."""
    return jnp.square(jnp.maximum(x, 0))


@elementwise(lambda x: _where((x > 0) & (x < 6), 1.0, 0.0, x))
def relu6(x: Array) -> Array:
    """min(max(x, 0), 6)."""
    return jnp.clip(x, 0, 6)


@elementwise(lambda x: _where(x > 0, 1.0, 0.01, x))
def leaky_relu(x: Array) -> Array:
    """x where positive, 0.01·x elsewhere."""
    return jnp.where(x > 0, x, 0.01 * x)


@elementwise(lambda x: jnp.exp(jnp.minimum(x, 0)))
def elu(x: Array) -> Array:
    """x where positive, eˣ − 1 elsewhere."""
    return jnp.where(x > 0, x, jnp.expm1(jnp.minimum(x, 0)))


@elementwise(lambda x: jnp.exp(jnp.minimum(x, 0)))
def celu(x: Array) -> Array:
    """max(x, 0) + min(0, eˣ − 1): CELU at α = 1, where it is ELU."""
    return jnp.where(x > 0, x, jnp.expm1(jnp.minimum(x, 0)))


@elementwise(lambda x: SELU_SCALE * _where(x > 0, 1.0, SELU_ALPHA * jnp.exp(jnp.minimum(x, 0)), x))
def selu(x: Array) -> Array:
    """λ·(x where positive, α(eˣ − 1) elsewhere)."""
    return SELU_SCALE * jnp.where(x > 0, x, SELU_ALPHA * jnp.expm1(jnp.minimum(x, 0)))


@elementwise(lambda x: _where((x > -3) & (x < 3), 1 / 6, 0.0, x))
def hard_sigmoid(x: Array) -> Array:
    """relu6(x + 3)/6."""
    return jnp.clip(x + 3, 0, 6) / 6


@elementwise(lambda x: _where(x <= -3, 0.0, jnp.where(x >= 3, 1.0, (2 * x + 3) / 6), x))
def hard_silu(x: Array) -> Array:
    """x·relu6(x + 3)/6."""
    return jnp.where(x >= 3, x, jnp.maximum(x, -3) * (jnp.clip(x, -3, 3) + 3) / 6)


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
