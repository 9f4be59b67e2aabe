"""Positions of tokens: rotary, relative, sines (learned ones are a table of the Transformer)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gelu_jax.errors import Problem, check
from gelu_jax.nn import checks
from gelu_jax.nn.parameters import wide_dtype

Frequencies = np.ndarray[tuple[int], np.dtype[np.float64]]


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
      kind: "llama3", which tells stretches apart in a config file.

    Raises:
      ConfigError: a field has a wrong value.
    """

    factor: float = 8.0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_positions: int = 8192
    kind: Literal["llama3"] = "llama3"

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

    def stretched(self, frequencies: Frequencies, theta: float) -> Frequencies:
        """The frequencies after the stretch.

        Args:
          frequencies: of the pairs, (r/2,).
          theta: their base.
        Returns:
          An array (r/2,).
        """
        turns = self.original_positions * frequencies / (2 * np.pi)
        low, high = self.low_frequency_factor, self.high_frequency_factor
        kept = np.clip((turns - low) / (high - low), 0, 1)
        return frequencies * (kept + (1 - kept) / self.factor)


@dataclass(frozen=True)
class LinearScaling:
    """Position interpolation: all pairs turn `factor` times slower (Chen et al. 2023).

    Attributes:
      factor: how much slower.
      kind: "linear", which tells stretches apart in a config file.

    Raises:
      ConfigError: the factor is not above 0.
    """

    factor: float
    kind: Literal["linear"] = "linear"

    def __post_init__(self):
        checks.field_types(self)
        check(checks.positive(factor=self.factor))

    def stretched(self, frequencies: Frequencies, theta: float) -> Frequencies:
        """The frequencies after the stretch.

        Args:
          frequencies: of the pairs, (r/2,).
          theta: their base.
        Returns:
          An array (r/2,).
        """
        del theta
        return frequencies / self.factor


@dataclass(frozen=True)
class YarnScaling:
    """YaRN: slow pairs turn `factor` times slower, fast ones as they were (Peng et al. 2023).

    Between the pair that turns `slow_turns` times over the original context and the one that turns
    `fast_turns` times, the share of the stretch falls linearly with the pair's index.

    Attributes:
      factor: how much slower.
      original_positions: tokens of the original context.
      fast_turns: turns over the original context from which a pair is left alone.
      slow_turns: turns up to which a pair is slowed down fully.
      magnitude: multiplies queries and keys; None for 0.1·log(factor) + 1.
      whole_pairs: whether the two bounds are rounded outward to whole pairs.
      kind: "yarn", which tells stretches apart in a config file.

    Raises:
      ConfigError: a field has a wrong value.
    """

    factor: float
    original_positions: int
    fast_turns: float = 32.0
    slow_turns: float = 1.0
    magnitude: float | None = None
    whole_pairs: bool = True
    kind: Literal["yarn"] = "yarn"

    def __post_init__(self):
        checks.field_types(self)
        check(
            checks.positive(
                factor=self.factor,
                original_positions=self.original_positions,
                fast_turns=self.fast_turns,
                slow_turns=self.slow_turns,
                magnitude=self.magnitude,
            )
        )

    def stretched(self, frequencies: Frequencies, theta: float) -> Frequencies:
        """The frequencies after the stretch.

        Args:
          frequencies: of the pairs, (r/2,).
          theta: their base.
        Returns:
          An array (r/2,).
        """
        pairs = len(frequencies)
        bounds = [self._pair(turns, pairs, theta) for turns in (self.fast_turns, self.slow_turns)]
        if self.whole_pairs:
            bounds = [np.floor(bounds[0]), np.ceil(bounds[1])]
        first, last = max(bounds[0], 0), min(bounds[1], 2 * pairs - 1)
        last = last + 0.001 if first == last else last
        slowed = np.clip((np.arange(pairs) - first) / (last - first), 0, 1)
        return frequencies * (slowed / self.factor + (1 - slowed))

    def _pair(self, turns: float, pairs: int, theta: float) -> float:
        """The index, a fraction, of the pair that turns so often over the original context."""
        return pairs * np.log(self.original_positions / (turns * 2 * np.pi)) / np.log(theta)

    @property
    def scale(self) -> float:
        """What queries and keys are multiplied by."""
        if self.magnitude is not None:
            return self.magnitude
        return 0.1 * float(np.log(self.factor)) + 1 if self.factor > 1 else 1.0


@dataclass(frozen=True)
class LongRopeScaling:
    """LongRoPE: each pair is slowed down by a factor of its own (Ding et al. 2024; Phi-3).

    One set of factors holds in sequences of up to `original_positions` tokens, another in longer
    ones, for all of their tokens. The length of a sequence is that of its own tokens: neither
    padding, nor other rows of a batch, nor other documents of a row count. A sequence that grows
    beyond the limit while it is decoded needs all its keys and values anew:
    `gelu_jax.nn.decoding.generate` computes them, `Transformer.decode` cannot.

    transformers 5.23 goes by the longest row of a batch. Decoding Phi-3, it drops the cache once
    rows have more tokens than the limit, padding counted. Without padding that gives the tokens
    of a model without a cache, as here; with padding, and always in other families, its cache
    mixes keys of both rotations, and its tokens are not those that it gives without one.

    Attributes:
      short_factors: how much slower each pair turns in short sequences; one number for each pair.
      long_factors: the same in long sequences.
      original_positions: tokens of the longest short sequence.
      factor: how much longer the stretched context is than the original one.
      magnitude: multiplies queries and keys; None for √(1 + log(factor) / log(original_positions)),
        and for 1 where the factor is at most 1.
      kind: "longrope", which tells stretches apart in a config file.

    Raises:
      ConfigError: a field has a wrong value.

    >>> scaling = LongRopeScaling((1.0, 1.5), (2.0, 8.0), original_positions=4096, factor=32.0)
    >>> round(scaling.scale, 4)
    1.1902
    """

    short_factors: tuple[float, ...]
    long_factors: tuple[float, ...]
    original_positions: int
    factor: float
    magnitude: float | None = None
    kind: Literal["longrope"] = "longrope"

    def __post_init__(self):
        checks.field_types(self)
        check(self._problems())

    def _problems(self) -> Iterator[Problem]:
        yield from checks.positive(factor=self.factor, magnitude=self.magnitude)
        if not self.original_positions > 1:
            yield Problem("original_positions", self.original_positions, "must be above 1")
        for name in ("short_factors", "long_factors"):
            entries = {f"{name}[{i}]": factor for i, factor in enumerate(getattr(self, name))}
            yield from checks.positive(**entries)

    def stretched(self, frequencies: Frequencies, theta: float) -> Frequencies:
        """The frequencies in short sequences.

        Args:
          frequencies: of the pairs, (r/2,).
          theta: their base.
        Returns:
          An array (r/2,).
        """
        del theta
        return frequencies / np.array(self.short_factors)

    def stretched_further(self, frequencies: Frequencies) -> Frequencies:
        """The frequencies in long sequences.

        Args:
          frequencies: of the pairs, (r/2,).
        Returns:
          An array (r/2,).
        """
        return frequencies / np.array(self.long_factors)

    @property
    def scale(self) -> float:
        """What queries and keys are multiplied by."""
        if self.magnitude is not None:
            return self.magnitude
        if self.factor <= 1:
            return 1.0
        return math.sqrt(1 + math.log(self.factor) / math.log(self.original_positions))


@dataclass(frozen=True)
class RotaryConfig:
    """What rotary positions are made of.

    Attributes:
      theta: base θ of the frequencies.
      fraction: share of each head that is rotated, in (0, 1].
      scaling: a stretch to longer contexts; None for none.
      valid_positions: positions that the frequencies hold for (the stretch called dynamic changes
        them beyond); None for no limit.

    Raises:
      ConfigError: a field has a wrong value.
    """

    theta: float = 10_000.0
    fraction: float = 1.0
    scaling: RotaryScaling | LinearScaling | YarnScaling | LongRopeScaling | None = None
    valid_positions: int | None = None

    def __post_init__(self):
        checks.field_types(self)
        check(self._problems())

    def _problems(self) -> Iterator[Problem]:
        yield from checks.positive(
            theta=self.theta, fraction=self.fraction, valid_positions=self.valid_positions
        )
        if self.fraction > 1:
            yield Problem("fraction", self.fraction, "must lie in (0, 1]")

    def problems_in_head(self, head_size: int, name: str) -> Iterator[Problem]:
        """What is wrong with it in a head of some size.

        Args:
          head_size: entries k of a head.
          name: of the field that holds this config.
        Returns:
          A problem for each list of factors that has not one for each pair.
        """
        if not isinstance(self.scaling, LongRopeScaling):
            return
        pairs = int(head_size * self.fraction / 2)
        for field in ("short_factors", "long_factors"):
            if len(found := getattr(self.scaling, field)) != pairs:
                reason = f"must have {pairs} numbers, one for each pair that is rotated"
                yield Problem(f"{name}.scaling.{field}", found, reason)

    @property
    def short_length(self) -> int | None:
        """Tokens of the longest sequence with the frequencies of short ones; None for any."""
        scaling = self.scaling
        return scaling.original_positions if isinstance(scaling, LongRopeScaling) else None


def rotary(
    x: Float[Array, "b t h k"],
    positions: Int[Array, "#b t"],
    config: RotaryConfig = RotaryConfig(),
) -> Float[Array, "b t h k"]:
    """Rotates pairs (x_i, x_{i+r/2}) of the first r = fraction·k entries by position·θ^(−2i/r).

    Su et al. 2021, equation 34; the pairing of halves is that of GPT-NeoX and of LLaMA's public
    weights. Under `LongRopeScaling` a row is one sequence, as long as its last position says.

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
    found, magnitude = frequencies(x.shape[-1], config)
    if config.short_length is not None:
        longer = long_frequencies(x.shape[-1], config)
        found = frequencies_of_tokens(found, longer, config.short_length, positions)
    return rotated(x, positions, found, magnitude)


def rotated(
    x: Float[Array, "b t h k"],
    positions: Int[Array, "#b t"],
    frequencies: Float[Array, " n"] | Float[Array, "#b #t n"] | Frequencies,
    magnitude: Float[Array, ""] | float = 1.0,
) -> Float[Array, "b t h k"]:
    """Rotates pairs (x_i, x_{i+n}) of the first 2n entries by position·frequency_i.

    Args:
      x: queries or keys, (b, t, h, k), of any floating dtype.
      positions: of the tokens, (b or 1, t).
      frequencies: of the n pairs, of all tokens or of each (b or 1, t or 1, n); a pair of
        frequency 0 stays as it is.
      magnitude: multiplies the rotated entries.
    Returns:
      An array of the shape and dtype of x: computed in float32 (float64 stays), rounded once.
    """
    n = frequencies.shape[-1]
    wide = wide_dtype(x.dtype)
    speeds = jnp.asarray(frequencies, wide)
    speeds = speeds[None, None] if speeds.ndim == 1 else speeds
    angles = (positions[..., None].astype(wide) * speeds)[:, :, None]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second, rest = jnp.split(x, (n, 2 * n), axis=-1)
    first, second = first.astype(wide), second.astype(wide)
    if not (isinstance(magnitude, float) and magnitude == 1.0):
        cos, sin = cos * magnitude, sin * magnitude
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return jnp.concatenate([turned.astype(x.dtype), rest], axis=-1)


def frequencies(head_size: int, config: RotaryConfig) -> tuple[Frequencies, float]:
    """How fast each pair of entries turns, and what the rotated entries are multiplied by.

    Args:
      head_size: entries k of a head.
      config: base, share and stretch.
    Returns:
      Frequencies (r/2,) in float64, computed on the host and rounded once later; and the factor.
    """
    found, scaling = _unstretched(head_size, config), config.scaling
    if scaling is None:
        return found, 1.0
    magnitude = scaling.scale if isinstance(scaling, YarnScaling | LongRopeScaling) else 1.0
    return scaling.stretched(found, config.theta), magnitude


def long_frequencies(head_size: int, config: RotaryConfig) -> Frequencies:
    """How fast each pair of entries turns in sequences longer than ``config.short_length``.

    Args:
      head_size: entries k of a head.
      config: base, share and stretch.
    Returns:
      Frequencies (r/2,) in float64; those of `frequencies` where length does not matter.
    """
    if not isinstance(config.scaling, LongRopeScaling):
        return frequencies(head_size, config)[0]
    return config.scaling.stretched_further(_unstretched(head_size, config))


def _unstretched(head_size: int, config: RotaryConfig) -> Frequencies:
    r = 2 * int(head_size * config.fraction / 2)
    return config.theta ** (-np.arange(0, r, 2) / r)


def frequencies_of_tokens(
    short: Float[Array, " n"] | Frequencies,
    long: Float[Array, " n"] | Frequencies,
    short_length: Int[Array, ""] | int,
    positions: Int[Array, "#b t"],
    segment_ids: Int[Array, "b t"] | None = None,
) -> Float[Array, "#b #t n"]:
    """The frequencies of each token's pairs, where they depend on the length of its sequence.

    Args:
      short: in sequences of up to `short_length` tokens, (n,).
      long: in longer ones, (n,).
      short_length: tokens of the longest short sequence.
      positions: of the tokens, (b or 1, t): the last of a sequence tells its length.
      segment_ids: (b, t), equal for neighbours of one segment, which is a sequence of its own; None
        for one sequence in each row.
    Returns:
      Frequencies (b or 1, t or 1, n).

    >>> short, long, positions = jnp.ones(1), jnp.zeros(1), jnp.array([[0, 1, 2, 0]])
    >>> frequencies_of_tokens(short, long, 2, positions, jnp.array([[7, 7, 7, 8]])).ravel()
    Array([0., 0., 0., 1.], dtype=float32)
    """
    last = jnp.max(positions, axis=1, keepdims=True, initial=-1)
    if segment_ids is not None:
        places = jnp.arange(positions.shape[1])[None]
        ends = jnp.diff(segment_ids, axis=1, append=segment_ids[:, -1:] - 1) != 0
        end = jax.lax.cummin(jnp.where(ends, places, positions.shape[1]), axis=1, reverse=True)
        last = jnp.take_along_axis(positions, end, axis=1)
    short, long = jnp.asarray(short)[None, None], jnp.asarray(long)[None, None]
    return jnp.where((last >= short_length)[..., None], long, short)


def token_positions(
    num_tokens: int,
    mask: Bool[Array, "b t"] | None = None,
    earlier: Bool[Array, "b s"] | None = None,
    segment_ids: Int[Array, "b t"] | None = None,
) -> Int[Array, "#b t"]:
    """The position of each token: the number of real tokens before it in its row or segment.

    A row that is padded on the left gets the positions that it has without padding.

    Args:
      num_tokens: t.
      mask: (b, t), True at real tokens; None for no padding.
      earlier: (b, s), the mask of a cache with the tokens before them; None for none.
      segment_ids: (b, t), equal for neighbours of one segment; None for one segment in each row.
    Returns:
      Positions, (b or 1, t).

    >>> token_positions(4, jnp.array([[False, False, True, True]]))
    Array([[0, 0, 0, 1]], dtype=int32)
    """
    if mask is None:
        positions = jnp.arange(num_tokens)[None]
    else:
        positions = jnp.cumsum(mask, axis=1, dtype=jnp.int32) - 1
    if segment_ids is not None:
        begins = jnp.diff(segment_ids, axis=1, prepend=segment_ids[:, :1]) != 0
        real = 1 if mask is None else mask
        before = jnp.where(begins, positions + 1 - real, 0)  # real tokens, in the row
        positions = positions - jax.lax.cummax(before, axis=1)
    positions = positions if mask is None else jnp.maximum(positions, 0)  # of padding, too
    if earlier is None:
        return positions
    return positions + earlier.sum(1, keepdims=True, dtype=jnp.int32)


def sinusoids(length: int, d_model: int) -> Float[Array, "t d"]:
    """[sin(p·ωᵢ), cos(p·ωᵢ)], ωᵢ = 10⁴^(−i/(d/2 − 1)), for every position p.

    Sines come first and cosines after them, where Vaswani et al. 2017 (section 3.5) take turns.

    Args:
      length: number of positions t, from 0.
      d_model: entries d of each, even, 4 at least.
    Returns:
      An array (t, d) in float32, computed in float64 on the host and rounded once.

    >>> sinusoids(3, 4)[:, 0]
    Array([0.        , 0.84147096, 0.9092974 ], dtype=float32)
    """
    speeds = 1e4 ** (-np.arange(d_model // 2) / (d_model // 2 - 1))
    angles = np.arange(length)[:, None] * speeds[None]
    table = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    return jnp.asarray(table, jnp.float32)


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
