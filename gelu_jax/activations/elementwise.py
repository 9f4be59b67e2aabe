"""The one place for: low precision in, float32 inside, one rounding out, derivative rule."""

from collections.abc import Callable
from functools import wraps

import jax
import jax.numpy as jnp
from jax import Array

Elementwise = Callable[[Array], Array]


def _in_float32(f: Elementwise) -> Elementwise:
    def g(x: Array) -> Array:
        wide = jnp.promote_types(x.dtype, jnp.float32)
        return f(x.astype(wide)).astype(x.dtype)

    return g


def elementwise(derivative: Elementwise) -> Callable[[Elementwise], Elementwise]:
    """Makes an activation of an equation and its derivative, both written for float32 or wider."""

    def decorate(value: Elementwise) -> Elementwise:
        @jax.custom_jvp
        def activation(x: Array) -> Array:
            return _in_float32(value)(x)

        @activation.defjvp
        def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:  # pyright: ignore[reportUnusedFunction]
            (x,), (dx,) = primals, tangents
            return activation(x), _in_float32(derivative)(x) * dx

        @wraps(value)
        def call(x: Array) -> Array:
            return activation(jnp.asarray(x))

        return call

    return decorate
