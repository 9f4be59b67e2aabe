"""Between text and the token numbers that a language model was trained on."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from gelu_jax.errors import ConfigError, Problem
from gelu_jax.training.data.corpus import TOKENIZER
from gelu_jax.training.data.text import load_tokenizer
from gelu_jax.training.data.tokens import HuggingFace, TokenFiles


class Codec(NamedTuple):
    """How text becomes tokens, and tokens text.

    Attributes:
      encode: text to token numbers.
      decode: token numbers to text.
    """

    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]


def codec(data: object, tokenizer: str | os.PathLike[str] | None = None) -> Codec:
    """Finds the codec of a run's data.

    Args:
      data: the source that the run was trained on.
      tokenizer: the `tokenizer.json` of its tokens; None takes the one in its corpus.

    Returns:
      The codec of the tokenizer; of bytes, if the source is read as bytes.

    Raises:
      ConfigError: there is no tokenizer, or it cannot be read; the field is `tokenizer`.
    """
    if not isinstance(data, TokenFiles | HuggingFace):
        return Codec(_to_bytes, _from_bytes)
    if isinstance(data, TokenFiles):
        tokenizer = tokenizer or Path(os.path.expanduser(data.path)) / TOKENIZER
    if tokenizer is None:
        raise ConfigError([Problem("tokenizer", None, f"the data ({data.path}) has none")])
    encoder, _ = load_tokenizer(tokenizer)

    def encode(text: str) -> list[int]:
        return encoder.encode(text, add_special_tokens=False).ids

    def decode(tokens: Sequence[int]) -> str:
        return encoder.decode(list(tokens), skip_special_tokens=False)

    return Codec(encode, decode)


def _to_bytes(text: str) -> list[int]:
    return list(text.encode(errors="surrogateescape"))


def _from_bytes(tokens: Sequence[int]) -> str:
    # a model may know more than 256 tokens; 255 is in no UTF-8 text
    return bytes(min(token, 255) for token in tokens).decode(errors="replace")
