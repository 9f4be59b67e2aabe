"""The table of names: every activation, and the aliases under which users know it."""

from collections.abc import Mapping
from types import MappingProxyType

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
        config.json files or "flax.nnx.gelu" (`gelu-jax activations` lists them).

    Returns:
      The function.

    Raises:
      ValueError: `name` is unknown; the message lists the nearest names. Or it is "prelu", "xielu"
        or "fatrelu", whose parameters are arguments: `prelu(x, slope)`, `xielu(x, p, n)`,
        `fatrelu(x, threshold)`.

    Examples:
      >>> activation("gelu_new").__name__
      'gelu_tanh'
    """
    name = _ALIASES.get(name, name)
    if name in _PARAMETRIC:
        raise ValueError(
            f"activation = {name!r}: {_PARAMETRIC[name]}; call gelu_jax.activations.{name}"
        )
    try:
        return ACTIVATIONS[name]
    except KeyError:
        raise ValueError(f"activation = {name!r}: unknown; {nearest(name, _ALIASES)}") from None
