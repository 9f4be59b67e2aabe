"""The name table: every canonical activation, and every spelling that users bring."""

from collections.abc import Mapping
from types import MappingProxyType

from gelu_jax.activations.elementwise import Elementwise
from gelu_jax.activations.gaussian import gelu, gelu_tanh
from gelu_jax.activations.logistic import gelu_sigmoid, sigmoid, silu, tanh
from gelu_jax.activations.piecewise import elu, identity, leaky_relu, relu, relu6, relu_squared
from gelu_jax.errors import nearest

_FUNCTIONS = (
    identity, relu, relu_squared, relu6, leaky_relu, elu,
    gelu, gelu_tanh, gelu_sigmoid, silu, sigmoid, tanh,
)  # fmt: skip

ACTIVATIONS: Mapping[str, Elementwise] = MappingProxyType({f.__name__: f for f in _FUNCTIONS})

_ALIASES = {
    "linear": "identity",
    "relu2": "relu_squared",
    "gelu_new": "gelu_tanh",
    "quick_gelu": "gelu_sigmoid",
    "swish": "silu",
}


def activation(name: str) -> Elementwise:
    """The activation of that name, canonical or alias."""
    try:
        return ACTIVATIONS[_ALIASES.get(name, name)]
    except KeyError:
        raise ValueError(
            f"activation = {name!r}: unknown; {nearest(name, [*ACTIVATIONS, *_ALIASES])}"
        ) from None
