"""The stem of Whisper's encoder: convolutions over time, fixed positions (Radford et al. 2022).

Its input is log-mel spectrograms, which are computed elsewhere.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from gelu_jax.activations import gelu
from gelu_jax.errors import Problem, check
from gelu_jax.nn import checks
from gelu_jax.nn.axes import Axes, matmul, metadata
from gelu_jax.nn.parameters import add_bias, cast, constant, kernel, wide_dtype
from gelu_jax.nn.position import sinusoids

_WIDTH = 3  # of both kernels, in frames
_STRIDE = 2  # of the second


def convolve_frames(
    x: Float[Array, "b t c"], w: Float[Array, "n c d"], *, stride: int = 1
) -> Float[Array, "b u d"]:
    """A convolution over time, y_u = Σⱼ x_{s·u + j − ⌊n/2⌋} Wⱼ, with zeros before and after x.

    It is one product of (t/s, n·c) and (n·c, d), for which x is held n/s times over.

    Args:
      x: (b, frames, channels), of any floating dtype.
      w: kernel, (n, channels, d), n odd.
      stride: step s of the kernel, in frames.
    Returns:
      An array (b, ⌈frames/s⌉, d) in float32 (float64 stays).

    >>> convolve_frames(jnp.ones((1, 4, 1)), jnp.ones((3, 1, 1)))[0, :, 0]
    Array([2., 3., 3., 2.], dtype=float32)
    """
    n, frames = w.shape[0], x.shape[1]
    x = jnp.pad(x, ((0, 0), (n // 2, n // 2), (0, 0)))
    taps = jnp.stack([x[:, j : j + frames : stride] for j in range(n)], axis=2)
    return matmul(taps, w, features=2, preferred_element_type=wide_dtype(x.dtype))


@dataclass(frozen=True)
class SpeechStemConfig:
    """What the stem is made of.

    Attributes:
      num_mels: frequency bands m of the spectrogram.
      num_positions: positions t that the encoder sees, half as many as the spectrogram has frames.
      d_model: width of the output.
      init_std: standard deviation of the kernels; None for 1/√fan_in each.
      dtype: dtype that the stem computes in.
      param_dtype: dtype that the parameters are stored in.

    Raises:
      ConfigError: a field has a wrong value.
    """

    num_mels: int
    num_positions: int
    d_model: int
    init_std: float | None = None
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        checks.field_types(self)
        check(self._problems())

    def _problems(self) -> Iterator[Problem]:
        yield from checks.positive(
            num_mels=self.num_mels, num_positions=self.num_positions, init_std=self.init_std
        )
        yield from checks.floating(dtype=self.dtype, param_dtype=self.param_dtype)
        if self.d_model < 4 or self.d_model % 2:
            yield Problem("d_model", self.d_model, "must be even, and 4 or more: sines and cosines")

    @property
    def num_frames(self) -> int:
        """Frames of the spectrogram."""
        return _STRIDE * self.num_positions


class SpeechStem(nnx.Module):
    """gelu(conv₂(gelu(conv₁(x)))) + P as an NNX module (Radford et al. 2022, section 2.2).

    Parameters: ``w_first`` (3, m, d), ``b_first`` (d,), ``w_second`` (3, d, d), ``b_second`` (d,).
    The positions P are ``positions`` (t, d), sines and cosines in a new stem: a variable that is
    no parameter, and has no gradient.

    Args:
      config: the stem's config.
      rngs: source of the initial values.

    >>> config = SpeechStemConfig(num_mels=5, num_positions=6, d_model=8)
    >>> stem = SpeechStem(config, rngs=nnx.Rngs(0))
    >>> stem(jnp.ones((1, 5, 12))).shape
    (1, 6, 8)
    """

    axes: ClassVar[Axes] = {
        "w_first": "n c d", "b_first": "d", "w_second": "n c d", "b_second": "d",
        "positions": "t d",
    }  # fmt: skip

    def __init__(self, config: SpeechStemConfig, *, rngs: nnx.Rngs):
        c = self.config = config
        d, dtype, axes = c.d_model, c.param_dtype, self.axes

        def drawn(name: str, channels: int) -> nnx.Param[Array]:
            shape, fan_in, names = (_WIDTH, channels, d), _WIDTH * channels, axes[name]
            return kernel(rngs, shape, fan_in=fan_in, std=c.init_std, dtype=dtype, axes=names)

        self.w_first = drawn("w_first", c.num_mels)
        self.b_first = constant(0.0, (d,), dtype, axes["b_first"])
        self.w_second = drawn("w_second", d)
        self.b_second = constant(0.0, (d,), dtype, axes["b_second"])
        table = sinusoids(c.num_positions, d).astype(dtype)
        self.positions = nnx.Variable(table, **metadata(axes["positions"]))

    def __call__(self, features: Float[Array, "b m f"]) -> Float[Array, "b t d"]:
        """Computes the encoder's input.

        Args:
          features: log-mel spectrograms, (b, m, 2·t), of any floating dtype.
        Returns:
          An array (b, t, d) of ``config.dtype``.
        Raises:
          ConfigError: the spectrograms have another number of bands or frames.
        """
        c = self.config
        check(self._misshapen(features))
        x = features.astype(c.dtype).mT
        x = gelu(self._convolved(x, self.w_first, self.b_first)).astype(c.dtype)
        y = gelu(self._convolved(x, self.w_second, self.b_second, stride=_STRIDE))
        positions = jax.lax.stop_gradient(self.positions[...]).astype(y.dtype)
        return add_bias(y, positions).astype(c.dtype)

    def _convolved(
        self, x: Array, w: nnx.Param[Array], b: nnx.Param[Array], stride: int = 1
    ) -> Array:
        y = convolve_frames(x, cast(w, self.config.dtype), stride=stride)
        return add_bias(y, cast(b, y.dtype))

    def _misshapen(self, features: Array) -> Iterator[Problem]:
        c = self.config
        if tuple(features.shape[1:]) != (c.num_mels, c.num_frames):
            reason = f"must have the shape (b, {c.num_mels}, {c.num_frames})"
            yield Problem("features", tuple(features.shape), reason)
