"""Activations built on the logistic function σ(x) = 1/(1 + e⁻ˣ)."""

import math

import jax
import jax.numpy as jnp
from jax import Array

from gelu_jax.activations.elementwise import elementwise


def _magnitude(x: Array) -> Array:
    """|x|, differentiable at 0 from the left."""
    return jnp.where(x > 0, x, -x)


def _gate(x: Array, v: Array) -> Array:
    """x·σ(v)."""
    return jnp.maximum(x, -200) / (1 + jnp.exp(jnp.clip(-v, -88, 89)))


def _gate_derivative(v: Array, w: Array) -> Array:
    """σ(v) + w·σ(v)·σ(−v): the derivative of x·σ(v) where w = x·v′."""
    e = jnp.exp(-_magnitude(v))
    return jnp.where(v > 0, 1 + e + w * e, e * (1 + e + w)) / jnp.square(1 + e)


@elementwise(lambda x: jnp.exp(-_magnitude(x)) / jnp.square(1 + jnp.exp(-_magnitude(x))))
def sigmoid(x: Array) -> Array:
    """1/(1 + e⁻ˣ)."""
    return jax.nn.sigmoid(x)


@elementwise(
    lambda x: 4 * jnp.exp(-2 * _magnitude(x)) / jnp.square(1 + jnp.exp(-2 * _magnitude(x)))
)
def tanh(x: Array) -> Array:
    """tanh x."""
    return jnp.tanh(x)


def _bounded(x: Array) -> Array:
    return jnp.clip(x, -100, 100)


@elementwise(lambda x: _gate_derivative(_bounded(x), _bounded(x)))
def silu(x: Array) -> Array:
    """x·σ(x)."""
    return _gate(x, x)


@elementwise(lambda x: _gate_derivative(1.702 * _bounded(x), 1.702 * _bounded(x)))
def gelu_sigmoid(x: Array) -> Array:
    """x·σ(1.702·x)."""
    return _gate(x, 1.702 * _bounded(x))


def _tanh_argument(x: Array) -> Array:
    x = jnp.clip(x, -15, 15)
    return 2 * math.sqrt(2 / math.pi) * x * (1 + 0.044715 * x * x)


def _tanh_weight(x: Array) -> Array:
    x = jnp.clip(x, -15, 15)
    return 2 * math.sqrt(2 / math.pi) * x * (1 + 3 * 0.044715 * x * x)


@elementwise(lambda x: _gate_derivative(_tanh_argument(x), _tanh_weight(x)))
def gelu_tanh(x: Array) -> Array:
    """x·σ(2u), u = √(2/π)(x + 0.044715·x³)."""
    return _gate(x, _tanh_argument(x))


def _softplus(x: Array) -> Array:
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-_magnitude(x)))


@elementwise(jax.nn.sigmoid)
def softplus(x: Array) -> Array:
    """log(1 + eˣ)."""
    return _softplus(x)


@elementwise(lambda x: jax.nn.sigmoid(x) / (2 * jnp.sqrt(_softplus(jnp.maximum(x, -80)))))
def sqrt_softplus(x: Array) -> Array:
    """√log(1 + eˣ)."""
    return jnp.sqrt(_softplus(x))


def _mish_derivative(x: Array) -> Array:
    x = _bounded(x)
    e = jnp.exp(-_magnitude(x))
    positive = 1 + 2 * e, 1 + 2 * e * (1 + e), 4 * e * e * (1 + e)
    negative = e * (2 + e), 2 + e * (2 + e), 4 * e * (1 + e)
    n, d, slope = (jnp.where(x > 0, p, m) for p, m in zip(positive, negative, strict=True))
    return (n * d + x * slope) / (d * d)


@elementwise(_mish_derivative)
def mish(x: Array) -> Array:
    """x·tanh(log(1 + eˣ))."""
    e = jnp.exp(-_magnitude(x))
    n = jnp.where(x > 0, 1 + 2 * e, e * (2 + e))
    return jnp.maximum(x, -200) * (n / (n + 2 * jnp.where(x > 0, e * e, 1)))
