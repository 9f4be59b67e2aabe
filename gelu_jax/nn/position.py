"""Positions of tokens: rotary and relative (learned ones are a table of the Transformer)."""

from collections.abc import Iterator
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gelu_jax.errors import Problem, check
from gelu_jax.nn import checks
from gelu_jax.nn.parameters import wide_dtype


@dataclass(frozen=True)
class RotaryScaling:
    """How LLaMA 3 stretches rotary positions to longer contexts.

    Pairs that turn less often than low over the original context turn `factor` times slower, those
    that turn more often than high are left alone, those between are interpolated.

    Attributes:
      factor: how much slower.
      low_frequency_factor: turns over the original context up to which a pair is slowed down fully.
      high_frequency_factor: turns over the original context from which a pair is left alone.
      original_positions: tokens of the original context.

    Raises:
      ConfigError: a field has a wrong value.
    """

    factor: float = 8.0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_positions: int = 8192

    def __post_init__(self):
        checks.field_types(self)
        check(self._problems())

    def _problems(self) -> Iterator[Problem]:
        yield from checks.positive(
            factor=self.factor,
            low_frequency_factor=self.low_frequency_factor,
            original_positions=self.original_positions,
        )
        if not self.high_frequency_factor > self.low_frequency_factor:
            reason = f"must be above low_frequency_factor = {self.low_frequency_factor}"
            yield Problem("high_frequency_factor", self.high_frequency_factor, reason)


@dataclass(frozen=True)
class RotaryConfig:
    """What rotary positions are made of.

    Attributes:
      theta: base θ of the frequencies.
      fraction: share of each head that is rotated, in (0, 1].
      scaling: a stretch to longer contexts; None for none.

    Raises:
      ConfigError: a field has a wrong value.
    """

    theta: float = 10_000.0
    fraction: float = 1.0
    scaling: RotaryScaling | None = None

    def __post_init__(self):
        checks.field_types(self)
        check(self._problems())

    def _problems(self) -> Iterator[Problem]:
        yield from checks.positive(theta=self.theta, fraction=self.fraction)
        if self.fraction > 1:
            yield Problem("fraction", self.fraction, "must lie in (0, 1]")


def rotary(
    x: Float[Array, "b t h k"],
    positions: Int[Array, "#b t"],
    config: RotaryConfig = RotaryConfig(),
) -> Float[Array, "b t h k"]:
    """Rotates pairs (x_i, x_{i+r/2}) of the first r = fraction·k entries by position·θ^(−2i/r).

    Su et al. 2021, equation 34; the pairing of halves is that of GPT-NeoX and of LLaMA's public
    weights.

    Args:
      x: queries or keys, (b, t, h, k), of any floating dtype.
      positions: of the tokens, (b or 1, t).
      config: base, share and stretch.
    Returns:
      An array of the shape and dtype of x: computed in float32 (float64 stays), rounded once.

    >>> x = jnp.array([1.0, 0.0]).reshape(1, 1, 1, 2)
    >>> [round(float(entry), 4) for entry in rotary(x, jnp.array([[1]])).ravel()]  # cos 1, sin 1
    [0.5403, 0.8415]
    """
    r = 2 * int(x.shape[-1] * config.fraction / 2)
    wide = wide_dtype(x.dtype)
    frequencies = jnp.asarray(_frequencies(r, config), wide)
    angles = positions[..., None, None].astype(wide) * frequencies[None, None, None]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second, rest = jnp.split(x, (r // 2, r), axis=-1)
    first, second = first.astype(wide), second.astype(wide)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return jnp.concatenate([rotated.astype(x.dtype), rest], axis=-1)


def _frequencies(r: int, config: RotaryConfig) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    frequencies = config.theta ** (-np.arange(0, r, 2) / r)  # on the host: one rounding, later
    if config.scaling is not None:
        s = config.scaling
        turns = s.original_positions * frequencies / (2 * np.pi)
        low, high = s.low_frequency_factor, s.high_frequency_factor
        kept = np.clip((turns - low) / (high - low), 0, 1)
        frequencies = frequencies * (kept + (1 - kept) / s.factor)
    return frequencies


def token_positions(
    num_tokens: int,
    mask: Bool[Array, "b t"] | None = None,
    earlier: Bool[Array, "b s"] | None = None,
) -> Int[Array, "#b t"]:
    """The position of each token: the number of real tokens before it in its row.

    A row that is padded on the left gets the positions that it has without padding.

    Args:
      num_tokens: t.
      mask: (b, t), True at real tokens; None for no padding.
      earlier: (b, s), the mask of a cache with the tokens before them; None for none.
    Returns:
      Positions, (b or 1, t).

    >>> token_positions(4, jnp.array([[False, False, True, True]]))
    Array([[0, 0, 0, 1]], dtype=int32)
    """
    if mask is None:
        positions = jnp.arange(num_tokens)[None]
    else:
        positions = jnp.maximum(jnp.cumsum(mask, axis=1, dtype=jnp.int32) - 1, 0)
    if earlier is None:
        return positions
    return positions + earlier.sum(1, keepdims=True, dtype=jnp.int32)


@dataclass(frozen=True)
class RelativeConfig:
    """T5's buckets of distances: half of them hold one distance each, the others grow in width.

    Attributes:
      num_buckets: a multiple of 4.
      max_distance: distances from here on share the last bucket.

    Raises:
      ConfigError: a field has a wrong value.
    """

    num_buckets: int = 32
    max_distance: int = 128

    def __post_init__(self):
        checks.field_types(self)
        check(self._problems())

    def _problems(self) -> Iterator[Problem]:
        if self.num_buckets < 4 or self.num_buckets % 4:
            best = max(4, 4 * round(self.num_buckets / 4))
            reason = f"must be a multiple of 4; nearest: {best}"
            yield Problem("num_buckets", self.num_buckets, reason)
        if not self.max_distance > self.num_buckets // 2:
            reason = f"must be above num_buckets / 2; nearest: {self.num_buckets // 2 + 1}"
            yield Problem("max_distance", self.max_distance, reason)


def relative_bias(
    table: Float[Array, "n h"],
    queries: Int[Array, " t"],
    keys: Int[Array, " s"],
    config: RelativeConfig,
    *,
    causal: bool,
) -> Float[Array, "1 h t s"]:
    """A bias of the attention scores that depends on key − query (Raffel et al. 2020, section 2.1).

    Full attention gives half of the buckets to keys that come later; causal attention gives all
    to the past.

    Args:
      table: a row (h,) for each of n buckets.
      queries: positions of the queries, (t,).
      keys: positions of the keys, (s,).
      config: the buckets.
      causal: whether the attention is.
    Returns:
      A bias (1, h, t, s) for `attention`.

    >>> table = jnp.arange(8.0)[:, None]
    >>> positions = jnp.arange(3)
    >>> relative_bias(table, positions, positions, RelativeConfig(8, 16), causal=False)[0, 0]
    Array([[0., 5., 6.],
           [1., 0., 5.],
           [2., 1., 0.]], dtype=float32)
    """
    buckets = config.num_buckets if causal else config.num_buckets // 2
    distance = queries[:, None] - keys[None]
    steps = jnp.maximum(distance, 0) if causal else abs(distance)
    table_of_buckets = jnp.asarray(_buckets(buckets, config.max_distance))
    bucket = table_of_buckets[jnp.minimum(steps, config.max_distance)]
    later = 0 if causal else jnp.where(distance < 0, buckets, 0)
    return table[bucket + later].transpose(2, 0, 1)[None]


def _buckets(num_buckets: int, max_distance: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    """The bucket of every distance from 0 to max_distance, in the float32 steps of T5 itself."""
    near = num_buckets // 2
    distances = np.arange(max_distance + 1)
    ratio = np.maximum(distances, 1).astype(np.float32) / np.float32(near)
    scale = np.float32(np.log(max_distance / near))
    wide = near + (np.log(ratio) / scale * np.float32(num_buckets - near)).astype(np.int32)
    return np.where(distances < near, distances, np.minimum(wide, num_buckets - 1)).astype(np.int32)
