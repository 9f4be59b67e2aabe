"""What JAX and torch offer in place of our activations, to measure ours beside them."""

import importlib.util
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import jax
import numpy as np
from jax import Array
from numpy.typing import NDArray

JAX_NN: Mapping[str, Callable[[Array], Array]] = {
    "identity": jax.nn.identity,
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "celu": jax.nn.celu,
    "selu": jax.nn.selu,
    "hard_sigmoid": jax.nn.hard_sigmoid,
    "hard_silu": jax.nn.hard_silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": jax.nn.gelu,
    "gelu_sigmoid": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "sigmoid": jax.nn.sigmoid,
    "tanh": jax.nn.tanh,
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
    "mish": jax.nn.mish,
}
"""What JAX itself offers, or what its users write with it (`gelu_sigmoid`)."""


def torch_functions() -> Mapping[str, Callable[[Any], Any]]:
    """The same of torch, which nothing here depends on: empty where it is not installed."""
    if importlib.util.find_spec("torch") is None:
        return {}
    F: Any = import_module("torch.nn.functional")
    return {
        "relu": F.relu,
        "relu6": F.relu6,
        "leaky_relu": F.leaky_relu,
        "elu": F.elu,
        "celu": F.celu,
        "selu": F.selu,
        "hard_sigmoid": F.hardsigmoid,
        "hard_silu": F.hardswish,
        "gelu": F.gelu,
        "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
        "gelu_sigmoid": lambda x: x * F.sigmoid(1.702 * x),
        "sigmoid": F.sigmoid,
        "tanh": F.tanh,
        "silu": F.silu,
        "softplus": F.softplus,
        "mish": F.mish,
    }


def tensor(x: NDArray[Any]) -> Any:
    """A torch tensor of the same bits; torch knows no bfloat16 of NumPy's."""
    torch: Any = import_module("torch")
    if x.dtype.name != "bfloat16":
        return torch.from_numpy(x)
    return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)


def torch_value_and_derivative(
    f: Callable[[Any], Any], x: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """f and f′ at every 16-bit element, by torch's own backward pass."""
    torch: Any = import_module("torch")
    t = tensor(x).requires_grad_(True)
    y = f(t)
    (slope,) = torch.autograd.grad(y, t, torch.ones_like(y))
    value, derivative = (u.detach().view(torch.int16).numpy().view(x.dtype) for u in (y, slope))
    return value, derivative
