"""Activations built on the normal distribution, Φ and φ."""

import math

import jax
import jax.numpy as jnp
from jax import Array

from gelu_jax.activations.elementwise import elementwise

LAPLACE_MEAN, LAPLACE_DEVIATION = 0.707107, 0.282095


def _cdf(x: Array) -> Array:
    return 0.5 * jax.lax.erfc(-x / math.sqrt(2))


def _pdf(x: Array) -> Array:
    x = jnp.clip(x, -40, 40)
    return jnp.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def _gelu(x: Array) -> Array:
    return jnp.maximum(x, -40) * _cdf(x)


def _gelu_derivative(x: Array) -> Array:
    return _cdf(x) + jnp.clip(x, -40, 40) * _pdf(x)


@elementwise(_gelu_derivative)
def gelu(x: Array) -> Array:
    """x·Φ(x)."""
    return _gelu(x)


@elementwise(lambda x: jnp.where(x >= 10, 0.0, _gelu_derivative(x)))
def gelu_10(x: Array) -> Array:
    """gelu(x) clipped to [−10, 10]."""
    return jnp.minimum(_gelu(x), 10)


@elementwise(lambda x: _pdf((x - LAPLACE_MEAN) / LAPLACE_DEVIATION) / LAPLACE_DEVIATION)
def laplace(x: Array) -> Array:
    """Φ((x − 0.707107)/0.282095)."""
    return _cdf((x - LAPLACE_MEAN) / LAPLACE_DEVIATION)
