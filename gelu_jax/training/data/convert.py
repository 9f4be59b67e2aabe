"""From text to a corpus (see `corpus`), in bounded memory: whole, or not at all.

`datasets` (5.2) is not used for this. Its text loader reads a whole file as one string, which would
take some 180 bytes of memory per byte to encode; or it reads lines, and then nothing says where a
document ends, and lines are tokenized as if they stood alone. A line of JSON without a text becomes
None in silence, and the error for a broken file does not name it. And all is written twice, once to
its cache.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from gelu_jax.files import new_folder, write_file
from gelu_jax.training.data.corpus import METADATA, SPLITS, TOKENIZER
from gelu_jax.training.data.text import (
    Piece,
    batched,
    documents,
    find_files,
    input_error,
    load_tokenizer,
)

_ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[SEP]")


def write_corpus(
    texts: Sequence[str | os.PathLike[str]],
    tokenizer: str | os.PathLike[str],
    output: Path,
    *,
    validation_fraction: float = 0.1,
    end_of_document: str | None = None,
    callback: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Encodes text into a new folder.

    A document is held out if the SHA-256 of its (first 2²⁰) characters says so; where that leaves a
    split empty, as it must with one document, the end of all tokens is held out.

    Args:
      texts: files, and folders of which all files are read. A file is a document, but each line of
        a `.jsonl` file is one, in its field `text`.
      tokenizer: a `tokenizer.json`.
      output: the folder, which must not exist.
      validation_fraction: the share of the documents that is held out, on average.
      end_of_document: the token after each document, the only one that is added; None looks for the
        tokenizer's own, "" adds none.
      callback: called with the bytes read so far and those of all files.

    Returns:
      What `tokens.json` says.

    Raises:
      ConfigError: an input cannot be used; nothing is then left at `output`.
    """
    if not 0 < validation_fraction < 1:
        raise input_error("validation_fraction", validation_fraction, "must lie between 0 and 1")
    if output.exists():
        raise input_error("output", output, "exists already")
    encoder, content = load_tokenizer(tokenizer)
    end = _end(encoder, end_of_document)
    vocab_size = max(encoder.get_vocab(with_added_tokens=True).values()) + 1
    dtype = np.dtype("<u2" if vocab_size <= 2**16 else "<u4")
    pieces = documents(find_files(texts), callback)
    with new_folder(output) as folder:
        _encode(encoder, end, pieces, folder, dtype, validation_fraction)
        _hold_out(folder, dtype, validation_fraction)
        metadata: dict[str, Any] = {
            "dtype": dtype.name,
            "vocab_size": vocab_size,
            "end_of_document": end,
            "tokenizer_sha256": hashlib.sha256(content).hexdigest(),
            **{name: _split_metadata(folder, name, dtype) for name in SPLITS},
        }
        if not metadata["train"]["tokens"]:
            raise input_error("texts", [*map(str, texts)], "do not hold any text")
        write_file(folder / TOKENIZER, content)
        write_file(folder / METADATA, json.dumps(metadata, indent=2) + "\n")
    return metadata


def _encode(
    encoder: Any,
    end: int | None,
    pieces: Iterator[Piece],
    folder: Path,
    dtype: np.dtype[Any],
    fraction: float,
) -> None:
    with ExitStack() as stack:
        writers = [stack.enter_context(_Writer(folder, name)) for name in SPLITS]
        writer = writers[0]
        for batch in batched(pieces):
            texts = [piece.text for piece in batch]
            encoded = encoder.encode_batch_fast(texts, add_special_tokens=False)
            for piece, encoding in zip(batch, encoded, strict=True):
                if piece.begins:
                    writer = writers[_is_held_out(piece.text, fraction)]
                ids = encoding.ids + ([end] if piece.ends and end is not None else [])
                writer.write(np.asarray(ids, dtype), ends=piece.ends)


class _Writer:
    """The two files of a split as they grow."""

    def __init__(self, folder: Path, name: str):
        self.tokens = (folder / f"{name}.bin").open("wb")
        self.documents = (folder / f"{name}.documents").open("wb")
        self.count = 0

    def __enter__(self) -> "_Writer":
        self.documents.write(np.asarray(0, "<i8").tobytes())
        return self

    def __exit__(self, *_: object) -> None:
        self.tokens.close()
        self.documents.close()

    def write(self, tokens: np.ndarray, *, ends: bool) -> None:
        self.tokens.write(tokens.tobytes())
        self.count += len(tokens)
        if ends:
            self.documents.write(np.asarray(self.count, "<i8").tobytes())


def _is_held_out(text: str, fraction: float) -> bool:
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def _hold_out(folder: Path, dtype: np.dtype[Any], fraction: float) -> None:
    """Where one split is empty, the last of all tokens are held out."""
    train, held_out = (folder / f"{name}.bin" for name in SPLITS)
    if train.stat().st_size and held_out.stat().st_size:
        return
    if held_out.stat().st_size:
        for suffix in (".bin", ".documents"):
            (folder / f"validation{suffix}").replace(folder / f"train{suffix}")
    ends = np.fromfile(folder / "train.documents", "<i8")
    cut = int(ends[-1]) - round(int(ends[-1]) * fraction)
    with train.open("r+b") as source, held_out.open("wb") as target:
        source.seek(cut * dtype.itemsize)
        shutil.copyfileobj(source, target)
        source.truncate(cut * dtype.itemsize)
    np.append(ends[ends < cut], cut).astype("<i8").tofile(folder / "train.documents")
    later = np.append(cut, ends[ends > cut]) - cut
    later.astype("<i8").tofile(folder / "validation.documents")


def _split_metadata(folder: Path, name: str, dtype: np.dtype[Any]) -> dict[str, Any]:
    with (folder / f"{name}.bin").open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        tokens = file.tell() // dtype.itemsize
    documents = (folder / f"{name}.documents").stat().st_size // 8 - 1
    return {"tokens": tokens, "documents": documents, "sha256": digest}


def _end(encoder: Any, token: str | None) -> int | None:
    """The number of the token that ends a document."""
    if token == "":
        return None
    for name in _ENDS if token is None else (token,):
        if (number := encoder.token_to_id(name)) is not None:
            return number
    reason = "is not in the tokenizer" if token else f"the tokenizer has none of {', '.join(_ENDS)}"
    raise input_error("end_of_document", token, f"{reason}; give one of its tokens, or '' for none")
