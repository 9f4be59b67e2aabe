"""EfficientNet and its block MBConv: the use of Swish (silu) in vision (Tan & Le 2019).

For inference with trained weights: batch normalisation uses the statistics stored with them, and
does not update them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from gelu_jax.activations import activation
from gelu_jax.errors import Problem, check
from gelu_jax.nn import checks
from gelu_jax.nn.axes import Axes, metadata
from gelu_jax.nn.linear import Linear, LinearConfig, require_part
from gelu_jax.nn.parameters import (
    cast,
    constant,
    kernel,
    numbered,
    set_numbered,
    wide_dtype,
)


def convolution(
    x: Float[Array, "b y x c"],
    w: Float[Array, "p q i d"],
    *,
    stride: int = 1,
    groups: int = 1,
) -> Float[Array, "b u v d"]:
    """A 2-d convolution, padded ("SAME") to an output of ⌈size/stride⌉, more at the end.

    Args:
      x: (b, height, width, channels).
      w: kernel, (p, q, channels/groups, d).
      stride: step of the kernel along height and width.
      groups: groups of channels that are convolved by themselves.
    Returns:
      An array (b, ⌈height/stride⌉, ⌈width/stride⌉, d).

    >>> convolution(jnp.ones((1, 5, 5, 3)), jnp.ones((3, 3, 3, 8)), stride=2).shape
    (1, 3, 3, 8)
    """
    return jax.lax.conv_general_dilated(
        x,
        w,
        window_strides=(stride, stride),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def batch_norm(
    x: Float[Array, "... d"],
    mean: Float[Array, " d"],
    variance: Float[Array, " d"],
    scale: Float[Array, " d"],
    bias: Float[Array, " d"],
    *,
    epsilon: float = 1e-3,
) -> Float[Array, "... d"]:
    """(x − mean)/√(variance + ε)·scale + bias with stored statistics (Ioffe & Szegedy 2015).

    Args:
      x: input, (..., d), of any floating dtype.
      mean: (d,).
      variance: (d,).
      scale: (d,).
      bias: (d,).
      epsilon: added to the variance.
    Returns:
      An array of the shape and dtype of x: computed in float32 (float64 stays), rounded once.

    >>> one, zero = jnp.ones(1), jnp.zeros(1)
    >>> batch_norm(jnp.array([3.0]), one, 4 * one, one, zero, epsilon=0.0)
    Array([1.], dtype=float32)
    """
    wide, rank = wide_dtype(x.dtype), x.ndim
    mean, variance, scale, bias = (
        jax.lax.broadcast_to_rank(each.astype(wide), rank) for each in (mean, variance, scale, bias)
    )
    factor = scale * jax.lax.rsqrt(variance + epsilon)
    return ((x.astype(wide) - mean) * factor + bias).astype(x.dtype)


@dataclass(frozen=True)
class MBConvConfig:
    """The block MBConv: widen, convolve each channel by itself, squeeze and excite, narrow.

    Attributes:
      d_in: channels of the input.
      d_out: channels of the output.
      d_squeeze: width of the squeeze-and-excitation bottleneck.
      expansion: factor by which the channels are widened.
      kernel_size: height and width of the depthwise kernel.
      stride: of the depthwise convolution.
      skip: whether the input is added to the output, which needs stride = 1 and d_in = d_out.
      activation: name of the activation, as `gelu_jax.activation` takes it.
      epsilon: added to the variance in batch norm.
      dtype: dtype that the block computes in.
      param_dtype: dtype that the parameters are stored in.

    Raises:
      ConfigError: a field has a wrong value.
    """

    d_in: int
    d_out: int
    d_squeeze: int
    expansion: int = 6
    kernel_size: int = 3
    stride: int = 1
    skip: bool = False
    activation: str = "silu"
    epsilon: float = 1e-3
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        checks.field_types(self)
        check(self._problems())

    def _problems(self) -> Iterator[Problem]:
        yield from checks.positive(
            d_in=self.d_in,
            d_out=self.d_out,
            d_squeeze=self.d_squeeze,
            expansion=self.expansion,
            kernel_size=self.kernel_size,
            stride=self.stride,
        )
        yield from checks.small(epsilon=self.epsilon)
        yield from checks.floating(dtype=self.dtype, param_dtype=self.param_dtype)
        if self.skip and (self.stride != 1 or self.d_in != self.d_out):
            yield Problem("skip", self.skip, "needs stride = 1 and d_in = d_out")

    @property
    def d_hidden(self) -> int:
        """Channels between widening and narrowing."""
        return self.d_in * self.expansion


@dataclass(frozen=True)
class ConvNormConfig:
    """A convolution with a square kernel and no bias, then batch norm.

    Attributes:
      d_in: channels of the input.
      d_out: channels of the output.
      kernel_size: height and width of the kernel.
      stride: of the convolution.
      groups: groups of channels that are convolved by themselves; d_in for a depthwise convolution.
      epsilon: added to the variance in batch norm.
      dtype: dtype that the pair computes in.
      param_dtype: dtype that the parameters are stored in.
    """

    d_in: int
    d_out: int
    kernel_size: int = 1
    stride: int = 1
    groups: int = 1
    epsilon: float = 1e-3
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        checks.field_types(self)


class ConvNorm(nnx.Module):
    """The pair as an NNX module.

    Parameters: ``w``, ``scale`` and ``bias``; batch statistics: ``mean`` and ``variance``.

    Args:
      config: the pair's config.
      rngs: source of the initial values.
    """

    axes: ClassVar[Axes] = {
        "w": "p q c e", "scale": "e", "bias": "e", "mean": "e", "variance": "e",
    }  # fmt: skip

    def __init__(self, config: ConvNormConfig, *, rngs: nnx.Rngs):
        c = self.config = config
        k, d_in, dtype, axes = c.kernel_size, c.d_in // c.groups, c.param_dtype, self.axes
        shape, fan_in, vector = (k, k, d_in, c.d_out), k * k * d_in, (c.d_out,)
        self.w = kernel(rngs, shape, fan_in=fan_in, std=None, dtype=dtype, axes=axes["w"])
        self.scale = constant(1.0, vector, dtype, axes["scale"])
        self.bias = constant(0.0, vector, dtype, axes["bias"])
        self.mean = nnx.BatchStat(jnp.zeros(vector, dtype), **metadata(axes["mean"]))
        self.variance = nnx.BatchStat(jnp.ones(vector, dtype), **metadata(axes["variance"]))

    def __call__(self, x: Float[Array, "b y x c"]) -> Float[Array, "b u v d"]:
        """Applies convolution and batch norm.

        Args:
          x: (b, height, width, d_in).
        Returns:
          An array (b, ⌈height/stride⌉, ⌈width/stride⌉, d_out) of ``config.dtype``.
        """
        c = self.config
        y = convolution(x.astype(c.dtype), cast(self.w, c.dtype), stride=c.stride, groups=c.groups)
        statistics = self.mean[...], self.variance[...], self.scale[...], self.bias[...]
        return batch_norm(y, *statistics, epsilon=c.epsilon)


class MBConv(nnx.Module):
    """The block as an NNX module.

    Args:
      config: the block's config.
      rngs: source of the initial values.

    >>> block = MBConv(MBConvConfig(8, 12, d_squeeze=2, stride=2), rngs=nnx.Rngs(0))
    >>> block(jnp.ones((1, 6, 6, 8))).shape
    (1, 3, 3, 12)
    """

    def __init__(self, config: MBConvConfig, *, rngs: nnx.Rngs):
        c = self.config = config
        f, k = c.d_hidden, c.kernel_size
        wide = c.expansion != 1
        self.expand = _conv_norm(c, c.d_in, f, rngs=rngs) if wide else None
        self.depthwise = _conv_norm(c, f, f, k, c.stride, groups=f, rngs=rngs)
        self.squeeze = _linear(c, f, c.d_squeeze, rngs)
        self.excite = _linear(c, c.d_squeeze, f, rngs)
        self.project = _conv_norm(c, f, c.d_out, rngs=rngs)

    def __call__(self, x: Float[Array, "b y x c"]) -> Float[Array, "b u v d"]:
        """Applies the block.

        Args:
          x: (b, height, width, d_in).
        Returns:
          An array (b, ⌈height/stride⌉, ⌈width/stride⌉, d_out) of ``config.dtype``.
        """
        c, phi = self.config, activation(self.config.activation)
        h = x if self.expand is None else phi(self.expand(x))
        h = phi(self.depthwise(h))
        gate = jax.nn.sigmoid(self.excite(phi(self.squeeze(h.mean((1, 2))))))
        y = self.project(h * gate[:, None, None])
        return x + y if c.skip else y


@dataclass(frozen=True)
class EfficientNetConfig:
    """EfficientNet: a stem of stride 2, MBConv blocks, a 1 × 1 convolution, a mean, a head.

    Attributes:
      d_stem: channels of the stem.
      blocks: configs of the MBConv blocks.
      d_top: channels of the last convolution.
      channels: of an image.
      num_classes: classes of the classifier; None for no classifier.
      activation: name of the activation, as `gelu_jax.activation` takes it.
      epsilon: added to the variance in batch norm.
      dtype: dtype that the network computes in; logits are float32.
      param_dtype: dtype that the parameters are stored in.
      kind: "efficientnet", which tells model configs apart in a config file.

    Raises:
      ConfigError: a field has a wrong value, or widths do not follow on each other.
    """

    d_stem: int
    blocks: tuple[MBConvConfig, ...]
    d_top: int
    channels: int = 3
    num_classes: int | None = None
    activation: str = "silu"
    epsilon: float = 1e-3
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    kind: Literal["efficientnet"] = "efficientnet"

    def __post_init__(self):
        checks.field_types(self)
        check(self._problems())

    def _problems(self) -> Iterator[Problem]:
        yield from checks.positive(
            d_stem=self.d_stem,
            d_top=self.d_top,
            channels=self.channels,
            num_classes=self.num_classes,
        )
        yield from checks.small(epsilon=self.epsilon)
        width = self.d_stem
        for i, block in enumerate(self.blocks):
            yield from checks.equal(width, "the width before it", {f"blocks.{i}.d_in": block.d_in})
            width = block.d_out


class EfficientNet(nnx.Module):
    """The network as an NNX module.

    Args:
      config: the network's config.
      rngs: source of the initial values.
    """

    def __init__(self, config: EfficientNetConfig, *, rngs: nnx.Rngs):
        c = self.config = config
        width, classes = c.blocks[-1].d_out if c.blocks else c.d_stem, c.num_classes
        self.stem = _conv_norm(c, c.channels, c.d_stem, 3, 2, rngs=rngs)
        set_numbered(self, "blocks", (MBConv(block, rngs=rngs) for block in c.blocks))
        self.top = _conv_norm(c, width, c.d_top, rngs=rngs)
        self.classifier = None if classes is None else _linear(c, c.d_top, classes, rngs)

    @property
    def blocks(self) -> tuple[MBConv, ...]:
        """The blocks, the first one first."""
        return numbered(self, "blocks")

    def __call__(self, images: Float[Array, "b y x c"]) -> Float[Array, "b u v d"]:
        """Computes the last feature map.

        Args:
          images: (b, height, width, channels).
        Returns:
          Features (b, u, v, d_top).
        """
        phi = activation(self.config.activation)
        x = phi(self.stem(images))
        for block in self.blocks:
            x = block(x)
        return phi(self.top(x))

    def pool(self, features: Float[Array, "b u v d"]) -> Float[Array, "b d"]:
        """Averages a feature map over height and width.

        Args:
          features: (b, u, v, d_top).
        Returns:
          An array (b, d_top).
        """
        return features.mean((1, 2))

    def logits(self, features: Float[Array, "b u v d"]) -> Float[Array, "b e"]:
        """Classifies images by their last feature map.

        Args:
          features: (b, u, v, d_top).
        Returns:
          Logits (b, classes) in float32.
        Raises:
          ValueError: the model has no classifier.
        """
        head = require_part(self.classifier, "classifier")
        return head(self.pool(features)).astype(jnp.float32)


def _conv_norm(
    config: MBConvConfig | EfficientNetConfig,
    d_in: int,
    d_out: int,
    kernel_size: int = 1,
    stride: int = 1,
    *,
    groups: int = 1,
    rngs: nnx.Rngs,
) -> ConvNorm:
    c, shape = config, (d_in, d_out, kernel_size, stride, groups)
    return ConvNorm(ConvNormConfig(*shape, c.epsilon, c.dtype, c.param_dtype), rngs=rngs)


def _linear(
    config: MBConvConfig | EfficientNetConfig, d_in: int, d_out: int, rngs: nnx.Rngs
) -> Linear:
    dtype, param_dtype = config.dtype, config.param_dtype
    return Linear(LinearConfig(d_in, d_out, dtype=dtype, param_dtype=param_dtype), rngs=rngs)
