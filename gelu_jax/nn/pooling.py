"""Pooling: one vector from the hidden states of a text (Reimers & Gurevych 2019, section 3)."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from gelu_jax.nn.parameters import wide_dtype


def mean_pool(hidden: Float[Array, "b t d"], mask: Bool[Array, "b t"]) -> Float[Array, "b d"]:
    """The mean Σ mᵢhᵢ / Σ mᵢ of the hidden states of each row's real tokens, in float32.

    Args:
      hidden: (b, t, d), of any floating dtype.
      mask: (b, t), True where there is a token and False at padding.

    Returns:
      The means, (b, d); 0 for a row without tokens.

    >>> mean_pool(jnp.array([[[1.0], [3.0], [9.0]]]), jnp.array([[True, True, False]]))
    Array([[2.]], dtype=float32)
    """
    return _weighted_mean(hidden, mask.astype(jnp.float32))


def _weighted_mean(hidden: Array, weights: Array) -> Array:
    total = weights.sum(1)[:, None]
    return jnp.einsum("btd,bt->bd", _wide(hidden), weights) / jnp.maximum(total, 1e-9)


def _mean_sqrt_length(hidden: Array, mask: Array) -> Array:
    """Σ mᵢhᵢ / √(Σ mᵢ)."""
    number = mask.sum(1, dtype=jnp.float32)[:, None]
    return mean_pool(hidden, mask) * jnp.sqrt(number)


def _position_weighted_mean(hidden: Array, mask: Array) -> Array:
    """Σ i·mᵢhᵢ / Σ i·mᵢ, i from 1: later tokens of a decoder have seen more (Muennighoff 2022)."""
    positions = jnp.arange(1, hidden.shape[1] + 1, dtype=jnp.float32)
    return _weighted_mean(hidden, mask * positions)


def _maximum(hidden: Array, mask: Array) -> Array:
    return jnp.where(mask[..., None], _wide(hidden), -jnp.inf).max(1)


def _first(hidden: Array, mask: Array) -> Array:
    return _at(hidden, jnp.argmax(mask, 1))


def _last(hidden: Array, mask: Array) -> Array:
    return _at(hidden, mask.shape[1] - 1 - jnp.argmax(mask[:, ::-1], 1))


def _at(hidden: Array, token: Array) -> Array:
    return _wide(jnp.take_along_axis(hidden, token[:, None, None], axis=1)[:, 0])


def _wide(x: Array) -> Array:
    return x.astype(wide_dtype(x.dtype))


POOLINGS: Mapping[str, Callable[[Array, Array], Array]] = MappingProxyType(
    {
        "cls": _first,
        "max": _maximum,
        "mean": mean_pool,
        "mean_sqrt_len_tokens": _mean_sqrt_length,
        "weightedmean": _position_weighted_mean,
        "lasttoken": _last,
    }
)


def pool(hidden: Float[Array, "b t d"], mask: Bool[Array, "b t"], kind: str) -> Float[Array, "b d"]:
    """One vector for each row, from the hidden states of its real tokens, in float32.

    Args:
      hidden: (b, t, d), of any floating dtype.
      mask: (b, t), True at the tokens that count.
      kind: a name in `POOLINGS`, which are those of sentence-transformers: "cls" the first token,
        "lasttoken" the last one, "mean", "max", "mean_sqrt_len_tokens" the sum over the square root
        of the number, "weightedmean" the mean with weights 1, 2, 3, ….

    Returns:
      The vectors, (b, d).

    >>> hidden = jnp.array([[[1.0], [4.0], [9.0]]])
    >>> mask = jnp.array([[True, True, False]])
    >>> [float(pool(hidden, mask, kind)[0, 0]) for kind in ("cls", "lasttoken", "weightedmean")]
    [1.0, 4.0, 3.0]
    """
    return POOLINGS[kind](hidden, mask)


def unit(x: Float[Array, "... d"]) -> Float[Array, "... d"]:
    """The vector of length 1 in the direction of x: x / max(‖x‖₂, 1e-12), in float32.

    Args:
      x: (..., d), of any floating dtype.

    Returns:
      An array of the shape of x.

    >>> [round(float(entry), 4) for entry in unit(jnp.array([3.0, 4.0]))]
    [0.6, 0.8]
    """
    x = _wide(x)
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
