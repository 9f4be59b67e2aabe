"""Branches beyond the plain activations: clamped, over all units, and with learned parameters.

A clamped SwiGLU is a variant like any other: a tuple of two independent branches. A branch sees the
pre-activations of whole tokens, (..., f), so that it may also compare or norm a token's units.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from gelu_jax.activations import (
    Elementwise,
    fatrelu,
    gelu_sigmoid,
    gelu_tanh,
    prelu,
    sigmoid,
    silu,
    situ,
    softcap_25,
    tanh,
    xielu,
)
from gelu_jax.nn.axes import Axes
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


def situ_glu() -> tuple[Elementwise, Elementwise]:
    """4·tanh(g/4)·σ(g) times 25·tanh(u/25), Kimi K3's SwiGLU that ends (technical report, eq. 12).

    Accuracy: each factor as stated for `situ` and `softcap_25`; their product is within 5 ulp in
    float32, and of 16-bit pre-activations, rounded once, within 0.51 ulp of its dtype.

    Returns:
      The two branches, gate first.

    >>> gate, up = situ_glu()
    >>> round(float(gate(99.0) * up(99.0)), 1)  # 4·25·tanh(99/25)
    99.9
    """
    return situ, softcap_25


@dataclass(frozen=True)
class FATReLU:
    """`gelu_jax.activations.fatrelu` at one threshold, as MiniCPM-S has it in its config.

    Attributes:
      threshold: T, below which a unit is 0.

    >>> FATReLU(0.5)(jnp.array([0.25, 0.75]))
    Array([0.  , 0.75], dtype=float32)
    """

    threshold: float

    def __call__(self, x: ArrayLike) -> Array:
        return fatrelu(x, self.threshold)


@dataclass(frozen=True)
class GaussianTopK:
    """φ(max(x − c, 0)) with c = mean x + z·deviation x over a token's units, and Φ(z) = sparsity.

    Of normal pre-activations the share `sparsity` is 0: 95 % in the first layers of Gemma 3n, whose
    gate it is. No sorting; how many units are left differs from token to token.

    Accuracy: computed in float32, in float64 for a float64 x, and rounded once. c is within
    2⁻²² · (1 + z)·√(mean x²) for up to 2¹⁶ units, which bounds the error of what φ is given.

    Source: transformers 5.23, ``Gemma3nTextMLP``, where c is rounded to the dtype of x.

    Attributes:
      sparsity: the share of units that are 0, in (0, 1).
      phi: the activation φ.

    >>> x = jnp.array([-1.0, 0.0, 0.0, 1.0])  # mean 0, deviation √½
    >>> jnp.round(GaussianTopK(0.5)(x), 4)
    Array([0.    , 0.    , 0.    , 0.8412], dtype=float32)
    """

    sparsity: float = 0.95
    phi: Elementwise = gelu_tanh

    def __call__(self, x: ArrayLike) -> Array:
        x = jnp.asarray(x)
        wide = x.astype(wide_dtype(x.dtype))
        centered = wide - wide.mean(-1, keepdims=True)
        variance = jnp.square(centered).mean(-1, keepdims=True)
        # the root of 0, where all units are equal, has no derivative
        deviation = jnp.sqrt(jnp.maximum(variance, jnp.finfo(wide.dtype).tiny))
        cutoff = NormalDist().inv_cdf(self.sparsity) * deviation
        return self.phi(jnp.maximum(centered - cutoff, 0)).astype(x.dtype)


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


class SiTU(LearnedBranch):
    """β·tanh(x/β)·σ(x); β starts at 4, where it is `gelu_jax.activations.situ` (Kimi K3).

    β is a length: its sign does not count.

    Args:
      param_dtype: dtype that β is stored in.

    >>> round(float(SiTU()(100.0)), 4)
    4.0
    """

    def __init__(self, param_dtype: DTypeLike = jnp.float32):
        self.beta = constant(4.0, (), param_dtype)

    def __call__(self, x: ArrayLike) -> Float[Array, "..."]:
        x = jnp.asarray(x)
        wide = x.astype(wide_dtype(x.dtype))
        beta = self.beta[...].astype(wide.dtype)
        return (beta * tanh(wide / beta) * sigmoid(wide)).astype(x.dtype)


class PolyNorm(LearnedBranch):
    """w₀·N(x³) + w₁·N(x²) + w₂·N(x) + b, N(u) = u/√(mean u² + ε), the means over a token's units.

    The gate of Motif 2.6B. Each w starts at ⅓, b at 0; ε = 1e-6 (Zhuo et al. 2024, "Polynomial
    composition activations", equation 4, arXiv 2411.03884).

    Accuracy: computed in float32, in float64 for a float64 x, and rounded once: within
    2⁻²¹·(|w₀N(x³)| + |w₁N(x²)| + |w₂N(x)| + |b|) for up to 2¹⁶ units. Finite for every finite x.

    Args:
      param_dtype: dtype that w and b are stored in.

    >>> jnp.round(PolyNorm()(jnp.array([-1.0, 1.0])), 4)
    Array([-0.3333,  1.    ], dtype=float32)
    """

    axes: ClassVar[Axes] = {"weight": "n"}
    num_parameters = 4
    epsilon = 1e-6

    def __init__(self, param_dtype: DTypeLike = jnp.float32):
        self.weight = constant(1 / 3, (3,), param_dtype, self.axes["weight"])
        self.bias = constant(0.0, (), param_dtype)

    def __call__(self, x: ArrayLike) -> Float[Array, "..."]:
        x = jnp.asarray(x)
        wide = x.astype(wide_dtype(x.dtype))
        w, b = (p[...].astype(wide.dtype) for p in (self.weight, self.bias))
        # by the greatest |x| where it exceeds 1, so that no power overflows: N is the same
        size = jax.lax.stop_gradient(jnp.maximum(jnp.abs(wide).max(-1, keepdims=True), 1))
        cube, square, line = (self._normed(wide / size, size, power) for power in (3, 2, 1))
        return (w[0] * cube + w[1] * square + w[2] * line + b).astype(x.dtype)

    def _normed(self, v: Array, size: Array, power: int) -> Array:
        """N(u) for u = (v·size)^power."""
        u = v**power
        epsilon = self.epsilon / size ** (2 * power)
        return u * jax.lax.rsqrt(jnp.square(u).mean(-1, keepdims=True) + epsilon)


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
