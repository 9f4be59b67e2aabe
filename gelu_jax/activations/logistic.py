"""Activations built on the logistic function."""

import jax
import jax.numpy as jnp
from jax import Array

from gelu_jax.activations.elementwise import elementwise


@elementwise(lambda x: jax.nn.sigmoid(x) * jax.nn.sigmoid(-x))
def sigmoid(x: Array) -> Array:
    """1/(1 + e⁻ˣ)."""
    return jax.nn.sigmoid(x)


@elementwise(lambda x: 1 - jnp.square(jnp.tanh(x)))
def tanh(x: Array) -> Array:
    """tanh x."""
    return jnp.tanh(x)


@elementwise(lambda x: jax.nn.sigmoid(x) * (1 + x * jax.nn.sigmoid(-x)))
def silu(x: Array) -> Array:
    """x·σ(x)."""
    return x * jax.nn.sigmoid(x)


@elementwise(lambda x: jax.nn.sigmoid(1.702 * x) * (1 + 1.702 * x * jax.nn.sigmoid(-1.702 * x)))
def gelu_sigmoid(x: Array) -> Array:
    """x·σ(1.702x)."""
    return x * jax.nn.sigmoid(1.702 * x)
