"""A linear map with its bias, of which poolers, projections and classifiers are made."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from gelu_jax.errors import Problem, check
from gelu_jax.nn import checks
from gelu_jax.nn.axes import Axes, aligned, matmul
from gelu_jax.nn.parameters import cast, constant, kernel

Part = TypeVar("Part")


@dataclass(frozen=True)
class LinearConfig:
    """What a linear map is made of.

    Attributes:
      d_in: width of the input.
      d_out: width of the output.
      use_bias: whether b is added.
      init_std: standard deviation of W; None for 1/√d_in.
      dtype: dtype that the map computes in.
      param_dtype: dtype that the parameters are stored in.

    Raises:
      ConfigError: a field has a wrong value.
    """

    d_in: int
    d_out: int
    use_bias: bool = True
    init_std: float | None = None
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        check(self._problems())

    def _problems(self) -> Iterator[Problem]:
        yield from checks.positive(d_in=self.d_in, d_out=self.d_out, init_std=self.init_std)
        yield from checks.floating(dtype=self.dtype, param_dtype=self.param_dtype)


class Linear(nnx.Module):
    """The map x W + b as an NNX module: parameters ``w`` (d, e), and ``b`` (e,) or None.

    Args:
      config: the map's config.
      rngs: source of the initial values.

    >>> Linear(LinearConfig(4, 3), rngs=nnx.Rngs(0))(jnp.ones((2, 4))).shape
    (2, 3)
    """

    axes: ClassVar[Axes] = {"w": "d e", "b": "e"}

    def __init__(self, config: LinearConfig, *, rngs: nnx.Rngs):
        c = self.config = config
        shape, dtype, axes = (c.d_in, c.d_out), c.param_dtype, self.axes
        self.w = kernel(rngs, shape, fan_in=c.d_in, std=c.init_std, dtype=dtype, axes=axes["w"])
        self.b = constant(0.0, (c.d_out,), dtype, axes["b"]) if c.use_bias else None

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... e"]:
        """Applies the map.

        Args:
          x: input, (..., d), of any floating dtype.
        Returns:
          An array (..., e) of ``config.dtype``.
        """
        y = matmul(x.astype(self.config.dtype), cast(self.w, self.config.dtype))
        return y if self.b is None else y + aligned(cast(self.b, self.config.dtype), y)


def linear_head(config: Any, d_out: int, *, use_bias: bool = True, rngs: nnx.Rngs) -> Linear:
    """A linear map of a model's hidden states.

    Args:
      config: the model's config, which gives width, dtypes and init_std: it has a ``block``.
      d_out: width of the output.
      use_bias: whether a bias is added.
      rngs: source of the initial values.
    Returns:
      The map.
    """
    return Linear(
        LinearConfig(
            config.block.d_model,
            d_out,
            use_bias=use_bias,
            init_std=config.init_std,
            dtype=config.dtype,
            param_dtype=config.param_dtype,
        ),
        rngs=rngs,
    )


def require_part(part: Part | None, name: str) -> Part:
    """An optional part of a model that a method needs.

    Args:
      part: the part, or None where the model has none.
      name: its name.
    Returns:
      The part.
    Raises:
      ValueError: the model has none.
    """
    if part is None:
        raise ValueError(f"{name}: this model has none")
    return part
