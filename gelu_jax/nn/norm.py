"""Normalisation: LayerNorm and RMSNorm are one equation, with and without the mean."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from gelu_jax.errors import Problem, check
from gelu_jax.nn import checks
from gelu_jax.nn.axes import Axes, aligned
from gelu_jax.nn.parameters import add_bias, constant, wide_dtype


def layer_norm(
    x: Float[Array, "... d"],
    scale: Float[Array, " d"],
    bias: Float[Array, " d"] | None = None,
    *,
    epsilon: float = 1e-6,
) -> Float[Array, "... d"]:
    """LayerNorm, (x − mean x)/√(var x + ε)·scale + bias (Ba et al. 2016, equation 4).

    Args:
      x: input, (..., d), of any floating dtype.
      scale: (d,).
      bias: (d,), or None.
      epsilon: added to the mean of squares.
    Returns:
      An array of the shape and dtype of x: computed in float32 (float64 stays), rounded once.

    >>> layer_norm(jnp.array([1.0, 3.0]), jnp.ones(2), epsilon=0.0)
    Array([-1.,  1.], dtype=float32)
    """
    wide = x.astype(wide_dtype(x.dtype))
    centered = wide - wide.mean(-1, keepdims=True)
    return _scaled(centered, scale, bias, epsilon).astype(x.dtype)


def rms_norm(
    x: Float[Array, "... d"],
    scale: Float[Array, " d"],
    bias: Float[Array, " d"] | None = None,
    *,
    epsilon: float = 1e-6,
) -> Float[Array, "... d"]:
    """RMSNorm, x/√(mean x² + ε)·scale (+ bias) (Zhang & Sennrich 2019, equation 4).

    Args:
      x: input, (..., d), of any floating dtype.
      scale: (d,).
      bias: (d,), or None.
      epsilon: added to the mean of squares.
    Returns:
      An array of the shape and dtype of x: computed in float32 (float64 stays), rounded once.

    >>> rms_norm(jnp.array([1.0, -1.0]), jnp.ones(2), epsilon=0.0)
    Array([ 1., -1.], dtype=float32)
    """
    wide = x.astype(wide_dtype(x.dtype))
    return _scaled(wide, scale, bias, epsilon).astype(x.dtype)


def _scaled(x: Array, scale: Array, bias: Array | None, epsilon: float) -> Array:
    y = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + epsilon)
    y = y * aligned(scale.astype(x.dtype), x)
    return add_bias(y, None if bias is None else bias.astype(x.dtype))


_NORMS = {"layer": layer_norm, "rms": rms_norm}


@dataclass(frozen=True)
class NormConfig:
    """What a norm is made of.

    Attributes:
      d_model: width of the input.
      kind: "layer" for LayerNorm, "rms" for RMSNorm.
      use_bias: whether a bias is added.
      epsilon: added to the mean of squares.
      zero_centered: whether the parameter is the scale minus 1, as in Gemma's weights.
      dtype: dtype of the output; the norm itself is computed in float32.
      param_dtype: dtype that the parameters are stored in.

    Raises:
      ConfigError: a field has a wrong value.
    """

    d_model: int
    kind: Literal["layer", "rms"] = "layer"
    use_bias: bool = False
    epsilon: float = 1e-6
    zero_centered: bool = False
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        checks.field_types(self)
        check(self._problems())

    def _problems(self) -> Iterator[Problem]:
        yield from checks.positive(d_model=self.d_model)
        yield from checks.small(epsilon=self.epsilon)
        yield from checks.one_of(tuple(_NORMS), kind=self.kind)
        yield from checks.floating(dtype=self.dtype, param_dtype=self.param_dtype)


class Norm(nnx.Module):
    """The norm as an NNX module: parameters ``scale`` (d,), and ``bias`` (d,) or None.

    Args:
      config: the norm's config.
      rngs: not used, since scales start at 1 and biases at 0; taken as every module takes it.

    >>> Norm(NormConfig(4, kind="rms"), rngs=nnx.Rngs(0))(jnp.ones((2, 4))).shape
    (2, 4)
    """

    axes: ClassVar[Axes] = {"scale": "d", "bias": "d"}

    def __init__(self, config: NormConfig, *, rngs: nnx.Rngs):
        c = self.config = config
        start = 0.0 if c.zero_centered else 1.0
        shape, dtype, axes = (c.d_model,), c.param_dtype, self.axes
        self.scale = constant(start, shape, dtype, axes["scale"])
        self.bias = constant(0.0, shape, dtype, axes["bias"]) if c.use_bias else None

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        """Applies the norm.

        Args:
          x: input, (..., d), of any floating dtype.
        Returns:
          An array (..., d) of ``config.dtype``.
        """
        c = self.config
        bias = None if self.bias is None else self.bias[...]
        scale = self.scale[...]
        if c.zero_centered:  # the sum in float32: 1 + scale would lose the scale's low bits
            scale = 1 + scale.astype(wide_dtype(scale.dtype))
        return _NORMS[c.kind](x.astype(c.dtype), scale, bias, epsilon=c.epsilon)
