"""The activations that JAX and torch offer, to measure ours beside them."""

import importlib.util
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
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
    "relu_squared": lambda x: jnp.square(jax.nn.relu(x)),
    "leaky_relu_squared": lambda x: jnp.square(jax.nn.leaky_relu(x, 0.5)),
    "golu": lambda x: x * jnp.exp(-jnp.exp(-x)),
    "powlu": lambda x: jax.nn.sigmoid(x) * jnp.where(x > 0, x ** (3 / (jnp.sqrt(x) + 1)), x),
    "situ": lambda x: 4 * jnp.tanh(x / 4) * jax.nn.sigmoid(x),
    "softcap_25": lambda x: 25 * jnp.tanh(x / 25),
}
"""Our name → what `jax.nn` offers under it; where it has no such function, what users write."""


def torch_functions() -> Mapping[str, Callable[[Any], Any]]:
    """What torch offers under our names; nothing where torch is not installed."""
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


def to_torch(x: NDArray[Any]) -> Any:
    """A torch tensor with the bits of a NumPy array.

    Args:
      x: array of any shape, of a float dtype or of ml_dtypes' bfloat16, which torch cannot read.

    Returns:
      The tensor; it shares its memory with `x`.
    """
    torch: Any = import_module("torch")
    if x.dtype.name != "bfloat16":
        return torch.from_numpy(x)
    return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)


def torch_value_and_derivative(
    f: Callable[[Any], Any], x: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """f and f′ at every element, by torch and its backward pass.

    Args:
      f: an elementwise function of torch.
      x: float16 or bfloat16 array of any shape.

    Returns:
      f(x) and f′(x), each of the shape and dtype of `x`.
    """
    torch: Any = import_module("torch")
    t = to_torch(x).requires_grad_(True)
    y = f(t)
    (slope,) = torch.autograd.grad(y, t, torch.ones_like(y))
    value, derivative = (u.detach().view(torch.int16).numpy().view(x.dtype) for u in (y, slope))
    return value, derivative
