"""Pure elementwise functions, each with its derivative rule and its stated error."""

from gelu_jax.activations.elementwise import (
    Elementwise,
)
from gelu_jax.activations.gaussian import (
    gelu,
    gelu_tanh,
)
from gelu_jax.activations.logistic import (
    gelu_sigmoid,
    sigmoid,
    silu,
    tanh,
)
from gelu_jax.activations.names import (
    ACTIVATIONS,
    activation,
)
from gelu_jax.activations.piecewise import (
    elu,
    identity,
    leaky_relu,
    relu,
    relu6,
    relu_squared,
)

__all__ = [
    "ACTIVATIONS",
    "Elementwise",
    "activation",
    "elu",
    "gelu",
    "gelu_sigmoid",
    "gelu_tanh",
    "identity",
    "leaky_relu",
    "relu",
    "relu6",
    "relu_squared",
    "sigmoid",
    "silu",
    "tanh",
]
