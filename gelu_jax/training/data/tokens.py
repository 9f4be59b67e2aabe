"""Sources of tokens on disk: what `gelu-jax tokenize` wrote, and datasets of Hugging Face."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import jax.numpy as jnp
import numpy as np

from gelu_jax.errors import ConfigError, check, nearest
from gelu_jax.nn import checks
from gelu_jax.training.data.corpus import find_folder, read_corpus
from gelu_jax.training.data.dataset import (
    DatasetInfo,
    Documents,
    content_hash,
    data_error,
    even_starts,
    fraction_problems,
    num_windows,
    require,
)
from gelu_jax.training.data.stream import TokenData, Tokens


@dataclass(frozen=True, kw_only=True)
class _TokenSource:
    """What the sources of tokens share."""

    path: str
    context: int = 1024
    validation_windows: int = 256
    documents: Documents = "joined"
    unit: ClassVar[str] = "nats per token"

    def __post_init__(self) -> None:
        windows = self.validation_windows
        check(checks.positive(context=self.context, validation_windows=windows))


@dataclass(frozen=True, kw_only=True)
class TokenFiles(_TokenSource):
    """A folder that `gelu-jax tokenize` wrote.

    Attributes:
      path: the folder.
      context: tokens that the model sees; a window is one longer, for the last target.
      validation_windows: how many windows of the held-out tokens are evaluated, if they hold so
        many; evenly spaced, none overlapping.
      documents: "joined" for windows of one text, or "separate": a document in a window does not
        see the one before it, nor is it predicted from it.
      kind: always "tokens".
    """

    kind: Literal["tokens"] = "tokens"


@dataclass(frozen=True, kw_only=True)
class HuggingFace(_TokenSource):
    """A dataset that `datasets` saved on disk, with a column of lists of token numbers.

    Of several splits `train` is trained on, and `validation` or `test` held out; of a single one
    the last documents are held out.

    Attributes:
      path: the folder.
      context: tokens that the model sees; a window is one longer, for the last target.
      validation_windows: how many windows of the held-out tokens are evaluated, if they hold so
        many; evenly spaced, none overlapping.
      documents: "joined" for windows of one text, or "separate": a document in a window does not
        see the one before it, nor is it predicted from it.
      vocab_size: of the tokenizer that made the tokens; the dataset does not say it.
      column: the name of the column.
      validation_fraction: the share of the documents of a single split that is held out.
      kind: always "huggingface".
    """

    vocab_size: int
    column: str = "input_ids"
    validation_fraction: float = 0.1
    kind: Literal["huggingface"] = "huggingface"

    def __post_init__(self) -> None:
        super().__post_init__()
        check([*checks.positive(vocab_size=self.vocab_size), *fraction_problems(self)])


def load_tokens(config: TokenFiles, batch_size: int) -> TokenData:
    """Opens a corpus.

    Args:
      config: the source.
      batch_size: windows in a step.

    Returns:
      The dataset.

    Raises:
      ConfigError: it is missing or damaged, or a split is shorter than a window.
    """
    corpus = read_corpus(config.path)
    train, held_out = (
        Tokens([split.tokens], split.starts, corpus.vocab_size, config.path)
        for split in corpus.splits
    )
    return _token_data(config, train, held_out, corpus.hash, batch_size)


def load_hugging_face(config: HuggingFace, batch_size: int) -> TokenData:
    """Opens a dataset of Hugging Face's `datasets`.

    Args:
      config: the source.
      batch_size: windows in a step.

    Returns:
      The dataset.

    Raises:
      ConfigError: it is missing or damaged, or does not hold lists of tokens, or a split is shorter
        than a window.
    """
    require("datasets", config.kind)
    import datasets  # here, because it takes a second

    try:
        saved: Any = datasets.load_from_disk(str(find_folder(config.path)))
    except ConfigError:
        raise
    except Exception as error:  # a damaged folder makes it raise anything
        reason = f"not a readable dataset: {' '.join(str(error).split())}"
        raise data_error("path", config.path, reason) from None
    splits = _splits(config, saved)
    train, held_out = (_tokens(config, split) for split in splits)
    # datasets' own fingerprints of the content: hashing the files would mean reading all of them
    parts = [split._fingerprint for split in (saved.values() if _has_splits(saved) else [saved])]
    sizes = f"{config.column} {len(train)} {len(held_out)}"
    digest = content_hash(part.encode() for part in (*parts, sizes))
    return _token_data(config, train, held_out, digest, batch_size)


def _has_splits(saved: Any) -> bool:
    return isinstance(saved, dict)


def _splits(config: HuggingFace, saved: Any) -> tuple[Any, Any]:
    """What is trained on, and what is held out."""
    if not _has_splits(saved):
        cut = len(saved) - round(len(saved) * config.validation_fraction)
        return saved.select(range(cut)), saved.select(range(cut, len(saved)))
    held_out = next((name for name in ("validation", "test") if name in saved), None)
    if "train" not in saved or held_out is None:
        reason = f"has the splits {', '.join(saved)}; train and validation are needed"
        raise data_error("path", config.path, reason)
    return saved["train"], saved[held_out]


def _tokens(config: HuggingFace, split: Any) -> Tokens:
    found = list(_pieces(config, split))
    lengths = np.concatenate([[0], *(lengths for _, lengths in found)])
    starts = np.cumsum(lengths, dtype=np.int64)[: len(split)]
    return Tokens([tokens for tokens, _ in found], starts, config.vocab_size, config.path)


def _pieces(config: HuggingFace, split: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The tokens of each batch of documents in turn, as they are mapped from the files, and how
    many each document has."""
    from pyarrow import compute

    count = cast(Any, compute).list_value_length
    if config.column not in split.column_names:
        reason = f"no such column; {nearest(config.column, split.column_names)}"
        raise data_error("column", config.column, reason)
    column = split.data.column(config.column)
    for chunk in column.chunks:
        try:
            tokens = chunk.flatten().to_numpy(zero_copy_only=True)
        except (AttributeError, ValueError):  # not lists, or not lists of plain numbers
            tokens = np.empty(0)
        if tokens.dtype.kind not in "iu":
            reason = f"holds {column.type}, not lists of integers; tokenize the text first"
            raise data_error("column", config.column, reason)
        yield tokens, count(chunk).fill_null(0).to_numpy(zero_copy_only=False)


def _token_data(
    config: TokenFiles | HuggingFace,
    train: Tokens,
    held_out: Tokens,
    digest: str,
    batch_size: int,
) -> TokenData:
    require("grain", config.kind)
    for name, tokens in (("training", train), ("validation", held_out)):
        if len(tokens) <= config.context:
            few = f"{config.path} holds {len(tokens)} tokens for {name}, fewer than one window"
            hint = f"; nearest: {len(tokens) - 1}" if len(tokens) > 1 else ""
            raise data_error("context", config.context, f"{few} of {config.context + 1}{hint}")
    if num_windows(len(train), config.context) >= 2**32:  # grain shuffles 32-bit numbers
        least = math.ceil(len(train) / 2**32)
        raise data_error(
            "context", config.context, f"makes 2**32 windows or more; nearest: {least}"
        )
    for tokens in (train, held_out):
        tokens.check()
    starts = even_starts(len(held_out), config.context, config.validation_windows)
    length, apart = config.context + 1, config.documents == "separate"
    if apart:  # where documents begin decides what is trained
        digest = content_hash((digest.encode(), *(s.starts.tobytes() for s in (train, held_out))))
    windows = held_out.windows(starts.tolist(), length)
    documents = len(train.starts) + len(held_out.starts)
    described = f"{documents:,} documents, {len(train) + len(held_out):,} tokens"
    info = DatasetInfo(described, digest, len(train), len(held_out))
    ids = jnp.asarray(held_out.segment_ids(starts.tolist(), length)) if apart else None
    return TokenData(jnp.asarray(windows), ids, train, batch_size, info)
