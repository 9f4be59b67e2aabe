"""Sentence embeddings: masked mean pooling, normalised (Reimers & Gurevych 2019)."""

import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from numpy.typing import NDArray

from gelu_jax.nn.encoder import Encoder

_LENGTH_STEP = 16  # batches are padded to multiples of it, so that few shapes are compiled


def sentence_embeddings(
    model: Encoder,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    batch_size: int = 32,
    max_tokens: int | None = None,
) -> NDArray[np.float32]:
    """One vector of length 1 for each text: e = Σ mᵢhᵢ / Σ mᵢ over its tokens, then e/‖e‖₂.

    Args:
      model: an encoder, such as `load` gives.
      tokenizer: a `tokenizers.Tokenizer`, or the path of a tokenizer.json.
      texts: n of them.
      batch_size: how many are computed at once.
      max_tokens: what longer texts are cut to, special tokens counted and kept; None means as many
        as the model has positions.

    Returns:
      The vectors, (n, d_model) in float32.

    Raises:
      ImportError: tokenizers is not installed.
    """
    transformer = model.config.transformer
    encoded = _encoded(tokenizer, texts, max_tokens or transformer.max_positions)
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
    vectors = np.zeros((len(encoded), transformer.block.d_model), np.float32)
    embed = jax.jit(_embed)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        tokens, mask = _padded([encoded[i] for i in rows], transformer.max_positions)
        vectors[rows] = embed(model, tokens, mask)
    return vectors


def _encoded(tokenizer: Any, texts: Sequence[str], max_tokens: int | None) -> list[Any]:
    """The `tokenizers.Encoding` of each text, cut to max_tokens and not padded."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ImportError("tokenizers is missing: pip install 'gelu-jax[families]'") from None
    if isinstance(tokenizer, str | os.PathLike):
        own = Tokenizer.from_file(os.fspath(tokenizer))
    else:
        own = Tokenizer.from_str(tokenizer.to_str())  # a copy: the caller's stays as it is
    own.no_padding()
    own.no_truncation()
    if max_tokens is not None:
        own.enable_truncation(max_length=max_tokens)
    return own.encode_batch(list(texts))


def _padded(
    encoded: list[Any], max_positions: int | None
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    longest = max(1, *map(len, encoded))
    width = -(-longest // _LENGTH_STEP) * _LENGTH_STEP
    for encoding in encoded:
        encoding.pad(width if max_positions is None else min(width, max_positions))
    tokens = np.array([encoding.ids for encoding in encoded], np.int32)
    return tokens, np.array([encoding.attention_mask for encoding in encoded], bool)


def mean_pool(hidden: Float[Array, "b t d"], mask: Bool[Array, "b t"]) -> Float[Array, "b d"]:
    """The mean of the hidden states of each row's real tokens, in float32.

    Args:
      hidden: (b, t, d), of any floating dtype.
      mask: (b, t), True where there is a token and False at padding.

    Returns:
      The means, (b, d); 0 for a row without tokens.

    >>> mean_pool(jnp.array([[[1.0], [3.0], [9.0]]]), jnp.array([[True, True, False]]))
    Array([[2.]], dtype=float32)
    """
    weights = mask[..., None].astype(jnp.float32)
    return (hidden * weights).sum(1) / jnp.maximum(weights.sum(1), 1)


def _embed(
    model: Encoder, tokens: Int[Array, "b t"], mask: Bool[Array, "b t"]
) -> Float[Array, "b d"]:
    pooled = mean_pool(model(tokens, mask=mask), mask)
    return pooled / jnp.maximum(jnp.linalg.norm(pooled, axis=-1, keepdims=True), 1e-12)
