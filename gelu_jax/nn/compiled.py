"""Functions of a model that are compiled once per shape where nobody else compiles them."""

from collections.abc import Callable
from functools import partial, wraps
from typing import ParamSpec, TypeVar

import jax
from flax.linen import get_logical_axis_rules
from jax.core import Tracer

P = ParamSpec("P")
R = TypeVar("R")


def compiled_once(*static: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Compiles a function for each shape of its arguments, except within other transformations.

    Called on arrays, it runs as one program, which later calls with arguments of the same shapes
    (and models of the same config) reuse; weights are arguments of it, never constants. Within
    `jax.jit`, `jax.grad` and the like it is the plain function.

    Args:
      *static: names of keyword arguments that are no arrays, which must be hashable.
    Returns:
      The decorator.

    >>> @compiled_once("power")
    ... def raised(x, *, power):
    ...     print("traced")
    ...     return x**power
    >>> raised(jax.numpy.ones(2), power=2) is not raised(jax.numpy.zeros(2), power=2)
    traced
    True
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @partial(jax.jit, static_argnames=("rules", *static))
        def program(rules: object, *args: P.args, **options: P.kwargs) -> R:
            del rules  # a function that shards by them is another program under others
            return function(*args, **options)

        @wraps(function)
        def call(*args: P.args, **options: P.kwargs) -> R:
            if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((args, options))):
                return function(*args, **options)
            return program(tuple(get_logical_axis_rules()), *args, **options)

        return call

    return decorate
