"""The table of names: every activation, and the aliases under which users know it."""

import ast
import inspect
from collections.abc import Mapping
from functools import cache, partial
from types import MappingProxyType
from typing import Any

from gelu_jax.activations.capped import situ, softcap_25
from gelu_jax.activations.catalogue import CATALOGUE
from gelu_jax.activations.documentation import Elementwise
from gelu_jax.activations.gaussian import gelu, gelu_10, laplace
from gelu_jax.activations.gompertz import golu
from gelu_jax.activations.logistic import (
    gelu_sigmoid,
    gelu_tanh,
    mish,
    powlu,
    sigmoid,
    silu,
    softplus,
    sqrt_softplus,
    tanh,
)
from gelu_jax.activations.piecewise import (
    celu,
    elu,
    fatrelu,
    hard_sigmoid,
    hard_silu,
    identity,
    leaky_relu,
    leaky_relu_squared,
    relu,
    relu6,
    relu_squared,
    selu,
)
from gelu_jax.errors import nearest

_FUNCTIONS = (
    identity, relu, relu_squared, relu6, leaky_relu, leaky_relu_squared, elu, celu, selu,
    hard_sigmoid, hard_silu,
    gelu, gelu_10, laplace,
    sigmoid, tanh, silu, gelu_sigmoid, gelu_tanh, softplus, sqrt_softplus, mish,
    golu, powlu, situ, softcap_25,
)  # fmt: skip

ACTIVATIONS: Mapping[str, Elementwise] = MappingProxyType({f.__name__: f for f in _FUNCTIONS})
"""Canonical name → function, for every activation without learned parameters."""

_ALIASES = {alias: entry.name for entry in CATALOGUE for alias in entry.names}

# the function alone, with default parameters, would silently drop what a checkpoint has learned
_PARAMETRIC = {
    "prelu": "carries learned parameters",
    "xielu": "carries learned parameters",
    "fatrelu": "has a threshold, which differs from model to model",
}


def activation(name: str) -> Elementwise:
    """Looks an activation up by its name.

    Args:
      name: a canonical name, such as "gelu_tanh", or one in use elsewhere, such as "gelu_new" of
        config.json files or "flax.nnx.gelu" (`gelu-jax activations` lists them); with its
        parameters in parentheses, such as "leaky_relu(0.2)", "elu(alpha=0.5)" or
        "gelu(approximate='tanh')".

    Returns:
      The function; with parameters, the same one for the same name.

    Raises:
      ValueError: `name` is unknown; the message lists the nearest names. Or its parameters are not
        those of the function. Or it is "prelu" or "xielu", whose learned parameters are arguments,
        `prelu(x, slope)` and `xielu(x, p, n)`, or "fatrelu" without its threshold.

    Examples:
      >>> activation("gelu_new").__name__
      'gelu_tanh'
      >>> activation("leaky_relu(0.2)")(-1.0)
      Array(-0.2, dtype=float32)
    """
    if "(" in name:
        return _with_parameters(name)
    name = _ALIASES.get(name, name)
    if name in _PARAMETRIC:
        raise ValueError(
            f"activation = {name!r}: {_PARAMETRIC[name]}; call gelu_jax.activations.{name}"
        )
    try:
        return ACTIVATIONS[name]
    except KeyError:
        raise ValueError(f"activation = {name!r}: unknown; {nearest(name, _ALIASES)}") from None


@cache
def _with_parameters(call: str) -> Elementwise:
    """The function of a call such as "elu(alpha=0.5)", of which x is left out."""
    try:
        parsed = ast.parse(call, mode="eval").body
        assert isinstance(parsed, ast.Call)
        assert isinstance(parsed.func, ast.Name)
        args = [ast.literal_eval(argument) for argument in parsed.args]
        named = {str(each.arg): ast.literal_eval(each.value) for each in parsed.keywords}
    except (SyntaxError, ValueError, AssertionError):
        example = "such as 'leaky_relu(0.2)'"
        raise ValueError(
            f"activation = {call!r}: not a name with numbers or strings in parentheses, {example}"
        ) from None
    name = parsed.func.id
    f: Any = fatrelu if name == "fatrelu" else activation(name)
    try:
        bound = inspect.signature(f).bind(0.0, *args, **named).arguments
        chosen = {key: value for key, value in bound.items() if key != "x"}
        f(0.0, **chosen)  # says what is wrong with a value
    except (TypeError, ValueError) as error:
        raise ValueError(f"activation = {call!r}: {error}") from None
    return partial(f, **chosen) if chosen else f
