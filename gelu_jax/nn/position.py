"""Where a token stands: rotary positions (learned ones are an embedding of the Transformer)."""

from collections.abc import Iterator
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gelu_jax.errors import Problem, check
from gelu_jax.nn import checks


@dataclass(frozen=True)
class RotaryConfig:
    """Base θ of the frequencies, and the share of each head that is rotated."""

    theta: float = 10_000.0
    fraction: float = 1.0

    def __post_init__(self):
        check(self._problems())

    def _problems(self) -> Iterator[Problem]:
        yield from checks.positive(theta=self.theta, fraction=self.fraction)
        if self.fraction > 1:
            yield Problem("fraction", self.fraction, "must lie in (0, 1]; nearest: 1")


def rotary(
    x: Float[Array, "b t h k"],
    positions: Int[Array, "#b t"],
    config: RotaryConfig = RotaryConfig(),
) -> Float[Array, "b t h k"]:
    """Rotates pairs (x_i, x_{i+r/2}) of the first r = fraction·k entries by position·θ^(−2i/r).

    Angles and rotation in float32, one rounding to the dtype of x. The pairing of halves is that
    of GPT-NeoX and LLaMA's public weights (Su et al. 2021, equation 34).

    >>> x = jnp.array([1.0, 0.0]).reshape(1, 1, 1, 2)
    >>> [round(float(entry), 4) for entry in rotary(x, jnp.array([[1]])).ravel()]  # cos 1, sin 1
    [0.5403, 0.8415]
    """
    r = 2 * int(x.shape[-1] * config.fraction / 2)
    frequencies = config.theta ** (-jnp.arange(0, r, 2, dtype=jnp.float32) / r)
    angles = positions[..., None, None].astype(jnp.float32) * frequencies
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second, rest = jnp.split(x, (r // 2, r), axis=-1)
    first, second = first.astype(jnp.float32), second.astype(jnp.float32)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return jnp.concatenate([rotated.astype(x.dtype), rest], axis=-1)
