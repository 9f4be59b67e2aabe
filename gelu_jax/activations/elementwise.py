"""The one place for: float32 inside, one rounding out, derivative rule, only the input kept."""

from collections.abc import Callable
from functools import wraps

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

Elementwise = Callable[[ArrayLike], Array]
Equation = Callable[[Array], Array]


def floating(x: ArrayLike, name: str) -> Array:
    """The input as an array, or a `TypeError` that names the function and the dtype it got."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{name}: expected a floating dtype, got {x.dtype}; cast the input first")
    return x


def _rounded_once(equation: Equation) -> Equation:
    """Computes in float32 (float64 stays float64) and rounds the result to the input's dtype."""

    def f(x: Array) -> Array:
        wide = jnp.float64 if x.dtype == jnp.float64 else jnp.float32
        return equation(x.astype(wide)).astype(x.dtype)

    return f


def elementwise(derivative: Equation) -> Callable[[Equation], Elementwise]:
    """Makes an activation of its equation and the equation of its derivative."""

    def decorate(value: Equation) -> Elementwise:
        slope = jax.jit(_rounded_once(derivative))

        @jax.custom_jvp
        def activation(x: Array) -> Array:
            return _rounded_once(value)(x)

        # without `checkpoint` the backward pass would keep the derivative in float32
        @jax.checkpoint
        def tangent(x: Array, dx: Array) -> Array:
            return slope(x) * dx

        @activation.defjvp
        def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:  # pyright: ignore[reportUnusedFunction]
            (x,), (dx,) = primals, tangents
            return activation(x), tangent(x, dx)

        compiled = jax.jit(activation)

        @wraps(value)
        def call(x: ArrayLike) -> Array:
            return compiled(floating(x, value.__name__))

        return call

    return decorate
