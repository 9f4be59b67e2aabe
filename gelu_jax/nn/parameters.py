"""Parameters: their initial values, and the dtype they are read in.

| tensor                                  | ``init_std=None`` (fan-in) | ``init_std=s`` |
|-----------------------------------------|----------------------------|----------------|
| branch kernels ``w_in`` (d, f)          | N(0, 1/d)                  | N(0, s²)       |
| output kernel ``w_out`` (f, d)          | N(0, c²/f)                 | N(0, c²s²)     |
| attention query, key, value (d, h, k)   | N(0, 1/d)                  | N(0, s²)       |
| attention output (h, k, d)              | N(0, c²/(h·k))             | N(0, c²s²)     |
| token embedding, untied head (v, d)     | N(0, 1/d)                  | N(0, s²)       |
| learned positions (t, d)                | N(0, 1/d)                  | N(0, s²)       |
| norm scale; every bias                  | 1; 0                       | 1; 0           |

c is ``output_init_scale``: 1 for a part on its own, 1/√(2·layers) inside a `Transformer`, so that
the 2·layers branches that are summed into the residual stream start with unit variance together
(Radford et al. 2019, section 2.3). The branches of a gated block do not count into the fan.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import count, takewhile
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array

from gelu_jax.errors import Problem
from gelu_jax.nn.axes import aligned, metadata


def kernel(
    rngs: nnx.Rngs,
    shape: tuple[int, ...],
    *,
    fan_in: int,
    std: float | None,
    scale: float = 1.0,
    dtype: DTypeLike,
    axes: str,
    init: nnx.Initializer | None = None,
) -> nnx.Param[Array]:
    """A parameter with normal initial values, or with those of an initializer of flax or JAX.

    Args:
      rngs: source of the values.
      shape: of the parameter.
      fan_in: number of inputs that each output sums over.
      std: standard deviation; None for 1/√fan_in.
      scale: multiplies the standard deviation, and what `init` gives.
      dtype: of the parameter.
      axes: the names of its axes (`gelu_jax.nn.axes`).
      init: called with a key, the shape (inputs, outputs) and the dtype, so that it sees the fan
        of a kernel with heads as well; None for the normal distribution.
    Returns:
      The parameter.
    """
    if init is not None:
        matrix = init(rngs.params(), (fan_in, math.prod(shape) // fan_in), dtype)
        return nnx.Param(scale * matrix.reshape(shape), **metadata(axes))
    deviation = scale * (fan_in**-0.5 if std is None else std)
    value = deviation * jax.random.normal(rngs.params(), shape, dtype)
    return nnx.Param(value, **metadata(axes))


def constant(
    value: float, shape: tuple[int, ...], dtype: DTypeLike, axes: str = ""
) -> nnx.Param[Array]:
    """A parameter whose entries start at one value: biases at 0, norm scales at 1.

    Args:
      value: the initial value.
      shape: of the parameter.
      dtype: of the parameter.
      axes: the names of its axes (`gelu_jax.nn.axes`).
    Returns:
      The parameter.
    """
    return nnx.Param(jnp.full(shape, value, dtype), **metadata(axes))


def init_problems(init_std: float | None, kernel_init: nnx.Initializer | None) -> Iterator[Problem]:
    """Checks how the kernels of a config start.

    Args:
      init_std: standard deviation of a normal distribution, or None.
      kernel_init: an initializer, or None.
    Returns:
      The problems found.
    """
    if init_std is not None and kernel_init is not None:
        yield Problem(
            "init_std", init_std, "kernel_init has the kernels' scale; give one of the two"
        )


def bias(
    rngs: nnx.Rngs,
    shape: tuple[int, ...],
    dtype: DTypeLike,
    init: nnx.Initializer | None = None,
    *,
    axes: str,
) -> nnx.Param[Array]:
    """A bias.

    Args:
      rngs: source of the values that `init` draws.
      shape: of the parameter.
      dtype: of the parameter.
      init: an initializer of flax or JAX; None for zeros, which draw nothing.
      axes: the names of its axes (`gelu_jax.nn.axes`).
    Returns:
      The parameter.
    """
    if init is None:
        return constant(0.0, shape, dtype, axes)
    return nnx.Param(init(rngs.params(), shape, dtype), **metadata(axes))


def cast(param: nnx.Param[Array], dtype: DTypeLike) -> Array:
    """A parameter's value in the dtype that its module computes in.

    Args:
      param: the parameter.
      dtype: of the result.
    Returns:
      An array of the parameter's shape; what a library for quantized weights has put into the place
      of the parameter, as it is.
    """
    value: Any = param[...]
    return value.astype(dtype) if isinstance(value, Array) else value


def wide_dtype(*dtypes: DTypeLike) -> DTypeLike:
    """The dtype that is computed in where a result is rounded once: at least float32.

    Args:
      *dtypes: of the inputs, floating ones.
    Returns:
      float64 if one of them is, else float32.
    """
    return jnp.float64 if jnp.float64 in [jnp.dtype(each) for each in dtypes] else jnp.float32


def add(x: Array, y: Array) -> Array:
    """x + y; of two dtypes the wider one is named, for `jax.numpy_dtype_promotion("strict")`.

    Args:
      x: array of any shape and floating dtype.
      y: array of the same shape.
    Returns:
      The sum, in the dtype that JAX promotes to.
    """
    dtype = x.dtype if x.dtype == y.dtype else wide_dtype(x.dtype, y.dtype)
    return x.astype(dtype) + y.astype(dtype)


def add_bias(y: Array, bias: Array | None) -> Array:
    """y + bias.

    Args:
      y: array of any shape.
      bias: an array with the last axes of y, or None.
    Returns:
      The sum; y itself where there is no bias.
    """
    return y if bias is None else y + aligned(bias, y)


def set_numbered(module: nnx.Module, name: str, parts: Iterable[Any]) -> None:
    """Gives a module several parts of one kind, as ``name_0``, ``name_1``, …

    A list would put integers among the keys of the parameter tree, which Linen, msgpack and export
    do not know.

    Args:
      module: the module.
      name: what the parts are called.
      parts: parameters or modules, in order.
    """
    for i, part in enumerate(parts):
        setattr(module, f"{name}_{i}", part)


def numbered(module: nnx.Module, name: str) -> tuple[Any, ...]:
    """The parts that `set_numbered` gave to a module.

    Args:
      module: the module.
      name: what the parts are called.
    Returns:
      The parts, in order.
    """
    names = (f"{name}_{i}" for i in count())
    return tuple(getattr(module, n) for n in takewhile(lambda n: hasattr(module, n), names))


def current_names(tree: Mapping[Any, Any], like: Mapping[Any, Any]) -> dict[Any, Any]:
    """A parameter tree of an earlier version, with its ``w_in: {0, 1}`` as ``w_in_0``, ``w_in_1``.

    Args:
      tree: nested dicts of parameters, in the names of either version; what came through msgpack
        or JSON has "0" for 0.
      like: the tree of the model that they are for, such as
        ``nnx.to_pure_dict(nnx.state(model))``.
    Returns:
      The values of `tree` under the keys of `like`.
    Raises:
      KeyError: a parameter is missing.

    >>> current_names({"w_in": {"0": 1.0}, "w_out": 2.0}, {"w_in_0": 0.0, "w_out": 0.0})
    {'w_in_0': 1.0, 'w_out': 2.0}
    """
    found = {key: entry(tree, key) for key in like}
    return {
        key: current_names(found[key], below) if isinstance(below, Mapping) else found[key]
        for key, below in like.items()
    }


def entry(tree: Mapping[Any, Any], key: Any) -> Any:
    """What stands under a key of a parameter tree, also where an earlier version wrote it.

    Args:
      tree: a dict of parameters, or of further dicts.
      key: today's key.
    Returns:
      The value.
    Raises:
      KeyError: there is none.
    """
    name, _, number = str(key).rpartition("_")
    parts = tree.get(name) if number.isdecimal() else None
    places = [(tree, key), (tree, str(key))]
    if isinstance(parts, Mapping):
        places += [(parts, int(number)), (parts, number)]
    for place, known in places:
        if known in place:
            return place[known]
    raise KeyError(key)
