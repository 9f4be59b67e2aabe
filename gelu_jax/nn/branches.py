"""Branches beyond the plain activations: clamped ones, and ones with learned parameters.

A clamped SwiGLU is a variant like any other: a tuple of two independent branches.
"""

import math
from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from gelu_jax.activations import Elementwise, gelu_sigmoid, prelu, sigmoid, silu, xielu
from gelu_jax.nn.parameters import constant, wide_dtype

# `where`, not `minimum`: at the limit itself the slope is 1, as it is in torch's clamp.


@dataclass(frozen=True)
class Clamped:
    """φ(min(x, L)): the gate is clamped before its activation.

    Attributes:
      phi: the activation φ.
      limit: L.
    """

    phi: Elementwise
    limit: float

    def __call__(self, x: ArrayLike) -> Array:
        x = jnp.asarray(x)
        return self.phi(jnp.where(x > self.limit, self.limit, x))


@dataclass(frozen=True)
class Capped:
    """min(φ(x), L): the gate is clamped after its activation.

    Attributes:
      phi: the activation φ.
      limit: L.
    """

    phi: Elementwise
    limit: float

    def __call__(self, x: ArrayLike) -> Array:
        y = self.phi(x)
        return jnp.where(y > self.limit, self.limit, y)


@dataclass(frozen=True)
class Clip:
    """clip(x, −L, L) + shift: the other branch of a clamped pair.

    Attributes:
      limit: L.
      shift: added after clipping.
    """

    limit: float
    shift: float = 0.0

    def __call__(self, x: ArrayLike) -> Array:
        x = jnp.asarray(x)
        inside = jnp.where(x > self.limit, self.limit, jnp.where(x < -self.limit, -self.limit, x))
        return inside + self.shift


def gpt_oss_swiglu(limit: float = 7.0) -> tuple[Clamped, Clip]:
    """g·σ(1.702g)·(u + 1) with g = min(gate, L), u = clip(up, ±L) (gpt-oss model card 2025).

    Args:
      limit: L.
    Returns:
      The two branches, gate first.

    >>> gate, up = gpt_oss_swiglu()
    >>> round(float(gate(9.0) * up(-9.0)), 3)  # 7·σ(1.702·7)·(−7 + 1)
    -42.0
    """
    return Clamped(gelu_sigmoid, limit), Clip(limit, shift=1.0)


def clamped_swiglu(limit: float = 10.0) -> tuple[Clamped, Clip]:
    """silu(min(gate, L))·clip(up, ±L), as in DeepSeek-V4 (L = 10), HY-V4 and GLM5.

    Args:
      limit: L.
    Returns:
      The two branches, gate first.

    >>> gate, up = clamped_swiglu()
    >>> round(float(gate(99.0) * up(99.0)), 2)  # 10·σ(10)·10
    100.0
    """
    return Clamped(silu, limit), Clip(limit)


def step_swiglu(limit: float) -> tuple[Capped, Clip]:
    """min(silu(gate), L)·clip(up, ±L), as in Step-3.7, whose config states L for each layer.

    Args:
      limit: L.
    Returns:
      The two branches, gate first.

    >>> gate, up = step_swiglu(7.0)
    >>> float(gate(99.0) * up(99.0))
    49.0
    """
    return Capped(silu, limit), Clip(limit)


class LearnedBranch(nnx.Module):
    """A branch with scalar parameters of its own, of which each block has a copy.

    Args:
      param_dtype: dtype that the parameters are stored in.
    """

    num_parameters: int = 1

    def __init__(self, param_dtype: DTypeLike = jnp.float32):
        raise NotImplementedError

    def __call__(self, x: ArrayLike) -> Array:
        """Applies the activation.

        Args:
          x: array of any shape and floating dtype.
        Returns:
          An array of the shape and dtype of x.
        """
        raise NotImplementedError


class PReLU(LearnedBranch):
    """x where positive, a·x elsewhere; a starts at ¼ (He et al. 2015, equation 1).

    Args:
      param_dtype: dtype that a is stored in.

    >>> PReLU()(jnp.array([-4.0, 4.0]))
    Array([-1.,  4.], dtype=float32)
    """

    def __init__(self, param_dtype: DTypeLike = jnp.float32):
        self.slope = constant(0.25, (), param_dtype)

    def __call__(self, x: ArrayLike) -> Float[Array, "..."]:
        return prelu(x, self.slope[...])


class Swish(LearnedBranch):
    """x·σ(βx); β starts at 1, where it is silu (Ramachandran et al. 2017, section 4).

    Args:
      param_dtype: dtype that β is stored in.

    >>> bool(Swish()(1.0) == silu(1.0))
    True
    """

    def __init__(self, param_dtype: DTypeLike = jnp.float32):
        self.beta = constant(1.0, (), param_dtype)

    def __call__(self, x: ArrayLike) -> Float[Array, "..."]:
        x = jnp.asarray(x)
        wide = x.astype(wide_dtype(x.dtype))
        return (wide * sigmoid(self.beta[...].astype(wide.dtype) * wide)).astype(x.dtype)


class XIELU(LearnedBranch):
    """`gelu_jax.activations.xielu` with αp = softplus(a), αn = ½ + softplus(b), β = ½.

    Both α start at 0.8 (Huang & Schlag 2024, section 4.2).

    Args:
      param_dtype: dtype that a and b are stored in.

    >>> round(float(XIELU()(2.0)), 4)  # 0.8·2² + ½·2
    4.2
    """

    num_parameters = 2
    beta = 0.5

    def __init__(self, param_dtype: DTypeLike = jnp.float32):
        self.raw_alpha_p = constant(math.log(math.expm1(0.8)), (), param_dtype)
        self.raw_alpha_n = constant(math.log(math.expm1(0.8 - self.beta)), (), param_dtype)

    def __call__(self, x: ArrayLike) -> Float[Array, "..."]:
        alpha_p = nnx.softplus(self.raw_alpha_p[...])
        alpha_n = self.beta + nnx.softplus(self.raw_alpha_n[...])
        return xielu(x, alpha_p, alpha_n, beta=self.beta)
