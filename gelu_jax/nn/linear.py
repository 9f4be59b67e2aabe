"""A linear map with its bias: poolers, projections and classifiers are made of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from gelu_jax.errors import Problem, check
from gelu_jax.nn import checks
from gelu_jax.nn.parameters import cast, constant, kernel

Part = TypeVar("Part")


@dataclass(frozen=True)
class LinearConfig:
    """x W + b from d_in to d_out; ``use_bias`` False leaves b out."""

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
    """The map as an NNX module: parameters ``w`` (d, e) and, where wanted, ``b``.

    >>> Linear(LinearConfig(4, 3), rngs=nnx.Rngs(0))(jnp.ones((2, 4))).shape
    (2, 3)
    """

    def __init__(self, config: LinearConfig, *, rngs: nnx.Rngs):
        c = self.config = config
        self.w = kernel(rngs, (c.d_in, c.d_out), fan_in=c.d_in, std=c.init_std, dtype=c.param_dtype)
        self.b = constant(0.0, (c.d_out,), c.param_dtype) if c.use_bias else None

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... e"]:
        y = x.astype(self.config.dtype) @ cast(self.w, self.config.dtype)
        return y if self.b is None else y + cast(self.b, self.config.dtype)


def linear_on(config: Any, d_out: int, *, use_bias: bool = True, rngs: nnx.Rngs) -> Linear:
    """A map from the hidden states of the stack that the config describes, in its dtypes."""
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


def wanted(part: Part | None, name: str) -> Part:
    """An optional part of a model, where it has it; ValueError where it does not."""
    if part is None:
        raise ValueError(f"{name}: this model has none")
    return part
