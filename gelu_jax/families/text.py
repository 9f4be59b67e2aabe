"""Texts as tokens: tokenizers of files and of others, batches of few shapes."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LENGTH_STEP = 16  # batches are padded to multiples of it, so that few shapes are compiled


def tokenizer_of(tokenizer: Any) -> Any:
    """A tokenizer that neither pads nor truncates; the caller's stays as it is.

    Args:
      tokenizer: a `tokenizers.Tokenizer`, one of transformers', or the path of a tokenizer.json.

    Returns:
      A `tokenizers.Tokenizer`.

    Raises:
      ImportError: tokenizers is not installed.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ImportError("tokenizers is missing: pip install 'gelu-jax[families]'") from None
    if isinstance(tokenizer, str | os.PathLike):
        own = Tokenizer.from_file(os.fspath(tokenizer))
    else:
        theirs = getattr(tokenizer, "backend_tokenizer", tokenizer)  # transformers' wrap one
        own = Tokenizer.from_str(theirs.to_str())
    own.no_padding()
    own.no_truncation()
    return own


def encoded(tokenizer: Any, texts: Sequence[Any], max_tokens: int | None) -> list[Any]:
    """The `tokenizers.Encoding` of each text, or pair of texts, cut to a length and not padded.

    Args:
      tokenizer: as `tokenizer_of` returns it.
      texts: n of them; a tuple of two is a pair.
      max_tokens: what longer ones are cut to, special tokens counted and kept; None cuts none.

    Returns:
      The encodings.
    """
    if max_tokens is None:
        tokenizer.no_truncation()
    else:
        tokenizer.enable_truncation(max_length=max_tokens)
    return tokenizer.encode_batch(list(texts))


def padded(
    rows: Sequence[Sequence[int]], max_tokens: int | None, batch_size: int
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Tokens and their mask: rows padded on the right, and rows of padding, to one of few shapes.

    Args:
      rows: at most batch_size of them.
      max_tokens: what none is padded beyond.
      batch_size: of a whole batch; smaller ones get a power of 2 of rows.

    Returns:
      Tokens and mask, (b, t).

    >>> tokens, mask = padded([[5, 6, 7], [8]], 512, 32)
    >>> tokens.shape, mask.sum(1).tolist()
    ((2, 16), [3, 1])
    """
    longest = max(1, *map(len, rows))
    width = -(-longest // _LENGTH_STEP) * _LENGTH_STEP
    width = width if max_tokens is None else max(longest, min(width, max_tokens))
    height = min(batch_size, 1 << (len(rows) - 1).bit_length())
    tokens = np.zeros((height, width), np.int32)
    mask = np.zeros((height, width), bool)
    for ids, line, real in zip(rows, tokens, mask, strict=False):
        line[: len(ids)], real[: len(ids)] = ids, True
    return tokens, mask
