"""A corpus: documents as token numbers, in files that are read in place.

    <folder>/
        tokens.json            what the files hold
        train.bin              the tokens of one document after the other, little-endian
        train.documents        where each document begins, and where the last one ends, int64
        validation.bin, validation.documents
        tokenizer.json         what made the tokens of the text

`convert.write_corpus` makes one out of text.
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
from gelu_jax.training.data.dataset import wrong

FACTS = "tokens.json"
TOKENIZER = "tokenizer.json"
SPLITS = ("train", "validation")

_DTYPES = {"uint16": "<u2", "uint32": "<u4"}


class Split(NamedTuple):
    """The tokens of one split, mapped from disk, and how many documents they are."""

    tokens: np.ndarray
    documents: int


@dataclass(frozen=True)
class Corpus:
    """A folder that has been opened; ``mark`` is a hash of the tokens."""

    splits: tuple[Split, Split]
    vocab_size: int
    mark: str


def find(path: str) -> Path:
    """The folder of a source; ConfigError (``data.path``) where there is none."""
    folder = Path(os.path.expanduser(path))
    if not folder.exists():
        raise wrong("path", path, no_such("file", str(folder)))
    if not folder.is_dir():
        raise wrong("path", path, "is no folder")
    return folder


def read_corpus(path: str) -> Corpus:
    """Opens a corpus; reads no token of it.

    Raises ConfigError (``data.path``) where the folder is missing or holds no corpus, and where a
    file is shorter or longer than it was written.
    """
    folder = find(path)
    if not (folder / FACTS).exists():
        raise wrong("path", path, f"has no {FACTS}; gelu-jax tokenize makes one")
    try:
        facts = json.loads((folder / FACTS).read_bytes())
        dtype = np.dtype(_DTYPES[facts["dtype"]])
        train, held_out = (_open(folder, name, facts[name], dtype) for name in SPLITS)
        mark = json.dumps([facts["dtype"], *(facts[name]["sha256"] for name in SPLITS)])
        corpus = Corpus(
            (train, held_out), int(facts["vocab_size"]), hashlib.sha256(mark.encode()).hexdigest()
        )
    except ConfigError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{FACTS} is damaged: {' '.join(str(error).split())}"
        raise wrong("path", path, reason) from None
    except OSError as error:
        reason = f"{error.filename}: {(error.strerror or str(error)).lower()}"
        raise wrong("path", path, reason) from None
    return corpus


def _open(folder: Path, name: str, facts: Mapping[str, Any], dtype: np.dtype[Any]) -> Split:
    tokens, documents = int(facts["tokens"]), int(facts["documents"])
    sizes = {
        f"{name}.bin": tokens * dtype.itemsize,
        f"{name}.documents": (documents + 1) * 8,
    }
    for file, expected in sizes.items():
        if (found := (folder / file).stat().st_size) != expected:
            reason = f"{file} holds {found} bytes where {FACTS} says {expected}"
            raise wrong("path", str(folder), reason)
    if tokens == 0:  # an empty file cannot be mapped
        return Split(np.empty(0, dtype), documents)
    return Split(np.memmap(folder / f"{name}.bin", dtype, mode="r"), documents)
