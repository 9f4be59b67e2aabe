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

_LENGTH_STEP = 16  # batches are padded to a multiple of it, so that few shapes are compiled


def sentence_embeddings(
    model: Encoder,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    batch_size: int = 32,
    max_tokens: int | None = None,
) -> NDArray[np.float32]:
    """One vector (d) of length 1 for each of n texts, (n, d) in float32.

    e = Σ mᵢhᵢ / Σ mᵢ over the real tokens, then e/‖e‖₂. ``tokenizer``: a `tokenizers.Tokenizer`,
    or the path of a tokenizer.json. Longer texts are cut to max_tokens, special tokens counted
    and kept; None means as many as the model has positions.
    """
    transformer = model.config.transformer
    encode = _encoder(tokenizer, max_tokens or transformer.max_positions)
    encoded = [encoding.ids for encoding in encode(list(texts))]
    embed = jax.jit(_embed)
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
    vectors = np.zeros((len(encoded), transformer.block.d_model), np.float32)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        vectors[rows] = embed(
            model, *_padded([encoded[i] for i in rows], transformer.max_positions)
        )
    return vectors


def _encoder(tokenizer: Any, max_tokens: int | None) -> Any:
    """The tokenizer's `encode_batch`, cutting at max_tokens and leaving padding to us."""
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
    return own.encode_batch


def _padded(
    rows: list[list[int]], places: int | None
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    longest = max(map(len, rows))
    width = -(-max(longest, 1) // _LENGTH_STEP) * _LENGTH_STEP
    width = width if places is None else min(width, places)
    tokens = np.zeros((len(rows), width), np.int32)
    mask = np.zeros((len(rows), width), bool)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
        mask[i, : len(row)] = True
    return tokens, mask


def mean_pool(hidden: Float[Array, "b t d"], mask: Bool[Array, "b t"]) -> Float[Array, "b d"]:
    """The mean of the hidden states of each row's real tokens, in float32.

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
