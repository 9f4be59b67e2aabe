"""A corpus: documents as token numbers, in files that are read in place.

    <folder>/
        tokens.json            what the files hold
        train.bin              the tokens of one document after the other, little-endian
        train.documents        where each document begins and the last one ends, int64
        validation.bin, validation.documents
        tokenizer.json         what made the tokens of the text

`convert.write_corpus` makes one from text.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gelu_jax.errors import ConfigError, no_such
from gelu_jax.training.data.dataset import data_error

METADATA = "tokens.json"
TOKENIZER = "tokenizer.json"
SPLITS = ("train", "validation")

_DTYPES = {"uint16": "<u2", "uint32": "<u4"}


class Split(NamedTuple):
    """One split of a corpus.

    Attributes:
      tokens: mapped from disk.
      starts: where each document begins, int64, mapped from disk.
    """

    tokens: np.ndarray
    starts: np.ndarray


@dataclass(frozen=True)
class Corpus:
    """A folder that has been opened.

    Attributes:
      splits: for training, and held out.
      vocab_size: of the tokenizer.
      hash: of the tokens of both splits.
    """

    splits: tuple[Split, Split]
    vocab_size: int
    hash: str


def find_folder(path: str) -> Path:
    """Finds the folder of a source.

    Args:
      path: the folder, `~` for the user's home.

    Returns:
      The folder.

    Raises:
      ConfigError: there is none; the field is `data.path`.
    """
    folder = Path(os.path.expanduser(path))
    if not folder.exists():
        raise data_error("path", path, no_such("file", str(folder)))
    if not folder.is_dir():
        raise data_error("path", path, "is not a directory")
    return folder


def read_corpus(path: str) -> Corpus:
    """Opens a corpus, without reading its tokens.

    Args:
      path: the folder.

    Returns:
      The corpus.

    Raises:
      ConfigError: the folder is missing or does not hold a corpus, or a file is shorter or longer
        than it was written; the field is `data.path`.
    """
    folder = find_folder(path)
    if not (folder / METADATA).exists():
        raise data_error("path", path, f"has no {METADATA}; gelu-jax tokenize makes one")
    try:
        metadata = json.loads((folder / METADATA).read_bytes())
        dtype = np.dtype(_DTYPES[metadata["dtype"]])
        train, held_out = (_open(folder, name, metadata[name], dtype) for name in SPLITS)
        parts = json.dumps([metadata["dtype"], *(metadata[name]["sha256"] for name in SPLITS)])
        digest = hashlib.sha256(parts.encode()).hexdigest()
        corpus = Corpus((train, held_out), int(metadata["vocab_size"]), digest)
    except ConfigError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{METADATA} is damaged: {' '.join(str(error).split())}"
        raise data_error("path", path, reason) from None
    except OSError as error:
        reason = f"{error.filename}: {(error.strerror or str(error)).lower()}"
        raise data_error("path", path, reason) from None
    return corpus


def _open(folder: Path, name: str, split: Mapping[str, Any], dtype: np.dtype[Any]) -> Split:
    tokens, documents = int(split["tokens"]), int(split["documents"])
    sizes = {
        f"{name}.bin": tokens * dtype.itemsize,
        f"{name}.documents": (documents + 1) * 8,
    }
    for file, expected in sizes.items():
        if (found := (folder / file).stat().st_size) != expected:
            reason = f"{file} holds {found} bytes where {METADATA} says {expected}"
            raise data_error("path", str(folder), reason)
    starts = np.memmap(folder / f"{name}.documents", "<i8", mode="r")[:-1]
    if tokens == 0:  # an empty file cannot be mapped
        return Split(np.empty(0, dtype), starts)
    return Split(np.memmap(folder / f"{name}.bin", dtype, mode="r"), starts)
