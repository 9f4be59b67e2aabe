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

from collections.abc import Iterable, Mapping
from itertools import count, takewhile
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array

from gelu_jax.nn.axes import metadata


def kernel(
    rngs: nnx.Rngs,
    shape: tuple[int, ...],
    *,
    fan_in: int,
    std: float | None,
    scale: float = 1.0,
    dtype: DTypeLike,
    axes: str,
) -> nnx.Param[Array]:
    """A parameter with normal initial values.

    Args:
      rngs: source of the values.
      shape: of the parameter.
      fan_in: number of inputs that each output sums over.
      std: standard deviation; None for 1/√fan_in.
      scale: multiplies the standard deviation.
      dtype: of the parameter.
      axes: the names of its axes (`gelu_jax.nn.axes`).
    Returns:
      The parameter.
    """
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


def cast(param: nnx.Param[Array], dtype: DTypeLike) -> Array:
    """A parameter's value in the dtype that its module computes in.

    Args:
      param: the parameter.
      dtype: of the result.
    Returns:
      An array of the parameter's shape.
    """
    return param[...].astype(dtype)


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
    """A parameter tree of version 0.1, which has ``w_in: {0, 1}``, as ``w_in_0`` and ``w_in_1``.

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
    """What stands under a key of a parameter tree, also where version 0.1 wrote the tree.

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
    for place, name in places:
        if name in place:
            return place[name]
    raise KeyError(key)
