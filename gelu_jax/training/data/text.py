"""Text as documents, read in pieces, so that no file has to fit into memory; and tokenizers."""

import codecs
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from gelu_jax.errors import ConfigError, Problem, no_such
from gelu_jax.training.data.paths import find_paths

_PIECE = 2**20  # characters: a longer document is encoded in pieces, cut at ends of lines
_BATCH = 2**22  # characters that are encoded at once, on all cores


class Piece(NamedTuple):
    """A part of a document, or all of it.

    Attributes:
      text: the part.
      begins: whether it begins its document.
      ends: whether it ends its document.
    """

    text: str
    begins: bool
    ends: bool


def load_tokenizer(path: str | os.PathLike[str]) -> tuple[Any, bytes]:
    """Reads a tokenizer, and makes it neither truncate nor pad.

    Args:
      path: a `tokenizer.json`.

    Returns:
      A `tokenizers.Tokenizer`, and the content of the file.

    Raises:
      ConfigError: it cannot be read, or `tokenizers` is not installed; the field is `tokenizer`.
    """
    if find_spec("tokenizers") is None:
        raise input_error("tokenizer", path, "needs tokenizers: pip install 'gelu-jax[data]'")
    from tokenizers import Tokenizer

    if not os.path.isfile(path):
        raise input_error("tokenizer", path, no_such("file", os.fspath(path)))
    content = Path(path).read_bytes()
    try:
        encoder: Any = Tokenizer.from_str(content.decode())
    except Exception as error:  # tokenizers raises Exception itself
        reason = f"not a readable tokenizer: {' '.join(str(error).split())}"
        raise input_error("tokenizer", path, reason) from None
    encoder.no_truncation()  # many files ask for it, and text would be lost
    encoder.no_padding()
    return encoder, content


def find_files(texts: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Finds every file that is meant, once, as `Files` does.

    Args:
      texts: files, folders and globs.

    Returns:
      The files, in an order that does not depend on the disk's.

    Raises:
      ConfigError: there are none; the field is `texts`.
    """
    return find_paths(texts, lambda text, reason: input_error("texts", text, reason))


def documents(files: Sequence[Path], callback: Callable[[int, int], None]) -> Iterator[Piece]:
    """Reads all documents, one after the other.

    Args:
      files: a document each; of a `.jsonl` file, each line is one.
      callback: called with the bytes read so far and those of all files.

    Yields:
      The pieces of each document.

    Raises:
      ConfigError: a file is not UTF-8, or a line is not JSON with a text; the field is `texts`.
    """
    total, before = sum(path.stat().st_size for path in files), 0
    for path in files:
        with path.open("rb") as raw, io.TextIOWrapper(raw, _encoding(path), newline="") as file:
            try:
                for piece in _lines(path, file) if path.suffix == ".jsonl" else _pieces(file):
                    yield piece
                    callback(before + raw.tell(), total)
            except UnicodeError:
                raise input_error("texts", path, "is not UTF-8 text") from None
        before += path.stat().st_size


_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def _encoding(path: Path) -> str:
    """UTF-8, unless the file begins with the mark of another encoding."""
    with path.open("rb") as file:
        begins = file.read(4)
    return next((name for mark, name in _MARKS if begins.startswith(mark)), "utf-8")


def _lines(path: Path, file: Iterable[str]) -> Iterator[Piece]:
    for number, line in enumerate(file, 1):
        if line.strip():
            yield from _pieces(io.StringIO(_text(path, number, line), newline=""))


def _text(path: Path, number: int, line: str) -> str:
    try:
        record: Any = json.loads(line)
    except ValueError as error:
        raise input_error("texts", path, f"line {number} is not JSON: {error}") from None
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str):
        fields = f"; it has {', '.join(record)}" if isinstance(record, dict) else ""
        raise input_error("texts", path, f"line {number} has no string in a field text{fields}")
    if not text.isascii() and re.search("[\ud800-\udfff]", text):
        raise input_error("texts", path, f"line {number} holds half of a surrogate pair")
    return text


def _pieces(file: TextIO) -> Iterator[Piece]:
    """A document as one piece, or as several where it is long; none of an empty one."""
    text, begins = file.read(_PIECE), True
    while more := file.read(_PIECE):
        cut = _cut(text)
        yield Piece(text[:cut], begins, ends=False)
        text, begins = text[cut:] + more, False
    if text:
        yield Piece(text, begins, ends=True)


def _cut(text: str) -> int:
    """Before the last line end that follows a letter or digit: GPT-2's tokenizer, and those like
    it, split there too, whatever comes after."""
    last = len(text)
    while (last := text.rfind("\n", 1, last)) > 0:
        cut = last - (text[last - 1] == "\r")
        if cut > 0 and text[cut - 1].isalnum():
            return cut
    return len(text)


def batched(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Collects pieces into batches.

    Args:
      pieces: in order.

    Yields:
      As many of them as are worth encoding at once.
    """
    batch: list[Piece] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece.text)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def input_error(field: str, value: object, reason: str) -> ConfigError:
    """Makes the error of an input that cannot be used.

    Args:
      field: the argument.
      value: what was given.
      reason: why it cannot be used.

    Returns:
      The error.
    """
    return ConfigError([Problem(field, value, reason)])
