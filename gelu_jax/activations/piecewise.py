"""Activations made of straight lines and exponentials."""

import jax.numpy as jnp
from jax import Array

from gelu_jax.activations.elementwise import elementwise


@elementwise(jnp.ones_like)
def identity(x: Array) -> Array:
    """The input itself."""
    return x


@elementwise(lambda x: (x > 0).astype(x.dtype))
def relu(x: Array) -> Array:
    """max(x, 0)."""
    return jnp.maximum(x, 0)


@elementwise(lambda x: 2 * jnp.maximum(x, 0))
def relu_squared(x: Array) -> Array:
    """max(x, 0)²."""
    return jnp.square(jnp.maximum(x, 0))


@elementwise(lambda x: ((x > 0) & (x < 6)).astype(x.dtype))
def relu6(x: Array) -> Array:
    """min(max(x, 0), 6)."""
    return jnp.clip(x, 0, 6)


@elementwise(lambda x: jnp.where(x > 0, 1.0, 0.01).astype(x.dtype))
def leaky_relu(x: Array) -> Array:
    """x where positive, 0.01·x elsewhere."""
    return jnp.where(x > 0, x, 0.01 * x)


@elementwise(lambda x: jnp.exp(jnp.minimum(x, 0)))
def elu(x: Array) -> Array:
    """x where positive, eˣ − 1 elsewhere."""
    return jnp.where(x > 0, x, jnp.expm1(jnp.minimum(x, 0)))
