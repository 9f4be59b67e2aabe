"""Activations built on the normal distribution."""

import math

import jax
import jax.numpy as jnp
from jax import Array

from gelu_jax.activations.elementwise import elementwise


def _gelu_derivative(x: Array) -> Array:
    return 0.5 * jax.lax.erfc(-x / math.sqrt(2)) + x * jnp.exp(-x * x / 2) / math.sqrt(2 * math.pi)


@elementwise(_gelu_derivative)
def gelu(x: Array) -> Array:
    """x·Φ(x)."""
    return 0.5 * x * jax.lax.erfc(-x / math.sqrt(2))


def _gelu_tanh_inner(x: Array) -> Array:
    return 2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)


def _gelu_tanh_derivative(x: Array) -> Array:
    u = _gelu_tanh_inner(x)
    du = 2 * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)
    s = jax.nn.sigmoid(u)
    return s + x * du * s * (1 - s)


@elementwise(_gelu_tanh_derivative)
def gelu_tanh(x: Array) -> Array:
    """x·σ(2√(2/π)(x + 0.044715x³))."""
    return x * jax.nn.sigmoid(_gelu_tanh_inner(x))
