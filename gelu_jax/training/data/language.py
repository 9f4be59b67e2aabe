"""Bytes to be predicted: text or any other files, each byte a token."""

import dataclasses
import hashlib
import os
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from pathlib import Path
from typing import ClassVar, Literal, no_type_check

import jax
import jax.numpy as jnp
import numpy as np

from gelu_jax.errors import check
from gelu_jax.nn import checks
from gelu_jax.training.data.dataset import (
    Batch,
    DatasetInfo,
    Documents,
    Resident,
    Windows,
    content_hash,
    data_error,
    even_starts,
    fraction_problems,
    next_token,
)
from gelu_jax.training.data.paths import find_paths

_ENOUGH = 0.9  # of what is to be held out


@dataclass(frozen=True, kw_only=True)
class _ByteSource:
    """What the sources of bytes share."""

    context: int = 64
    validation_fraction: float = 0.1
    validation_windows: int = 256
    documents: Documents = "joined"
    unit: ClassVar[str] = "nats per byte"

    def __post_init__(self) -> None:
        windows = self.validation_windows
        sizes = checks.positive(context=self.context, validation_windows=windows)
        check([*sizes, *fraction_problems(self)])


@dataclass(frozen=True, kw_only=True)
class StdlibCorpus(_ByteSource):
    """The Python standard library's own top-level sources, read in place; about 4.7 MB.

    Split by file. It differs between Python versions: compare only runs of equal `info.hash`.

    Attributes:
      context: bytes that the model sees; a window is one longer, for the last target.
      validation_fraction: the share of the bytes that is held out.
      validation_windows: how many windows of the held-out bytes are evaluated, if they hold so
        many; evenly spaced, none overlapping.
      documents: "joined" for windows of one text, or "separate": a file in a window does not see
        the one before it, nor is it predicted from it.
      kind: always "stdlib".
    """

    kind: Literal["stdlib"] = "stdlib"


@dataclass(frozen=True, kw_only=True)
class Files(_ByteSource):
    """The bytes of any files, of which some are held out, or the end of one, or both.

    Attributes:
      context: bytes that the model sees; a window is one longer, for the last target.
      validation_fraction: the share of the bytes that is held out.
      validation_windows: how many windows of the held-out bytes are evaluated, if they hold so
        many; evenly spaced, none overlapping.
      documents: "joined" for windows of one text, or "separate": a file in a window does not see
        the one before it, nor is it predicted from it.
      path: one or several files, folders or globs; `**` matches folders at any depth. Of a folder
        every file counts that is not hidden.
      kind: always "files".
    """

    path: str | tuple[str, ...]
    kind: Literal["files"] = "files"


@no_type_check  # JAX rebuilds it around tracers and avals, which are not arrays
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ByteData(Windows, Resident):
    """Bytes for next-byte prediction.

    Files stand one after the other, so a window may run from one into the next.

    Attributes:
      train: (n,) uint8.
      held_out: (windows, t + 1) uint8.
      held_out_segments: (windows, t + 1) int32, the same for two bytes of one file; None where the
        files are one text.
      starts: (files,) int32, where each file of `train` begins; None where they are one text.
      batch_size: windows in a step.
      info: what was read.
    """

    train: jax.Array
    held_out: jax.Array
    held_out_segments: jax.Array | None
    starts: jax.Array | None
    batch_size: int = dataclasses.field(metadata={"static": True})
    info: DatasetInfo = dataclasses.field(metadata={"static": True})

    @property
    def num_classes(self) -> int:
        """The values of a byte."""
        return 256

    def batch(self, key: jax.Array, step: jax.Array | int) -> Batch:
        """Draws windows uniformly, with replacement, from all.

        Args:
          key: draws all batches.
          step: of the run; may be traced.

        Returns:
          Inputs and targets, as `next_token` makes them.
        """
        first = jax.random.randint(
            jax.random.fold_in(key, step),
            (self.batch_size, 1),
            0,
            self.train.size - self.context,
            jnp.int32,
        )
        places = first + jnp.arange(self.context + 1, dtype=jnp.int32)
        ids = None if self.starts is None else jnp.searchsorted(self.starts, places, side="right")
        return next_token(self.train[places], ids)


def load_stdlib(config: StdlibCorpus, batch_size: int) -> ByteData:
    """Opens the sources of the standard library.

    Args:
      config: the source.
      batch_size: windows in a step.

    Returns:
      The dataset.

    Raises:
      ConfigError: there are none, or a split would be shorter than a window.
    """
    # _sysconfigdata_*.py holds the paths and flags of this very interpreter's build
    sources = Path(sysconfig.get_path("stdlib")).glob("*.py")
    paths = {p.name: p for p in sources if not p.name.startswith("_sysconfigdata")}
    return _load(config, "kind", config.kind, paths, batch_size)


def load_files(config: Files, batch_size: int) -> ByteData:
    """Opens files as bytes.

    Args:
      config: the source.
      batch_size: windows in a step.

    Returns:
      The dataset.

    Raises:
      ConfigError: a file cannot be read, or a split would be shorter than a window.
    """
    return _load(config, "path", config.path, _paths(config.path), batch_size)


def _load(
    config: _ByteSource, field: str, value: object, paths: Mapping[str, Path], batch_size: int
) -> ByteData:
    files = _read(field, value, paths)
    size, window = sum(map(len, files.values())), config.context + 1
    if size < window:
        few = f"fewer than one window of {window} (context + 1)" if size else "nothing to train on"
        raise data_error(field, value, f"holds {size} bytes, {few}")
    splits = _split(files, config.validation_fraction)
    train, validation = map(b"".join, splits)
    for part, data in (("training", train), ("validation", validation)):
        if len(data) < window:
            reason = f"leaves {len(data)} bytes for {part}, fewer than one window of {window}"
            raise data_error("validation_fraction", config.validation_fraction, reason)
    starts = even_starts(len(validation), config.context, config.validation_windows)
    windows = starts[:, None] + np.arange(window)
    description = f"{len(files)} file{'s' * (len(files) > 1)}, {size} bytes"
    apart = config.documents == "separate"
    of_train, of_validation = map(_starts, splits)
    digest = content_hash(chain(*splits) if apart else (train, validation))
    return ByteData(
        jnp.asarray(np.frombuffer(train, np.uint8)),
        jnp.asarray(np.frombuffer(validation, np.uint8)[windows]),
        jnp.asarray(np.searchsorted(of_validation, windows, side="right")) if apart else None,
        jnp.asarray(of_train) if apart else None,
        batch_size,
        DatasetInfo(description, digest, len(train), len(validation)),
    )


def _starts(files: Sequence[bytes]) -> np.ndarray:
    """Where each file begins in all of them, one after the other."""
    return np.cumsum([0, *map(len, files)], dtype=np.int32)[:-1]


def _read(field: str, value: object, paths: Mapping[str, Path]) -> dict[str, bytes]:
    """The contents of the files, if 32-bit indices can reach all of them."""
    try:
        if sum(path.stat().st_size for path in paths.values()) >= 2**31:
            raise data_error(field, value, "holds 2 GiB or more")
        return {name: path.read_bytes() for name, path in paths.items()}
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise data_error(field, error.filename or value, reason) from None


def _split(files: Mapping[str, bytes], fraction: float) -> tuple[list[bytes], list[bytes]]:
    """The files that are trained on, and those held out.

    Files are held out in the order of their names' SHA-256 while they fit into the fraction: no
    listing order and no random state is involved, and adding a file moves few others. Where whole
    files hold less than 90 % of what is asked for, the end of the next one makes it up.
    """
    files = {name: data for name, data in sorted(files.items()) if data}
    wanted = sum(map(len, files.values())) * fraction
    order = sorted(files, key=lambda name: hashlib.sha256(os.fsencode(name)).digest())
    sizes = dict(zip(order, accumulate(len(files[name]) for name in order), strict=True))
    held = {name for name, size in sizes.items() if size <= wanted}
    missing = round(wanted) - sum(len(files[name]) for name in held)
    last = next(name for name in order if name not in held)
    cut = len(files[last]) - (missing if missing > (1 - _ENOUGH) * wanted else 0)
    train = [
        data[:cut] if name == last else data for name, data in files.items() if name not in held
    ]
    validation = [files[name] for name in files if name in held]
    held_out = [*validation, files[last][cut:]]
    return [file for file in train if file], [file for file in held_out if file]


def _paths(patterns: str | tuple[str, ...]) -> dict[str, Path]:
    """Every file meant, by its path below the folder that all of them share."""
    patterns = (patterns,) if isinstance(patterns, str) else patterns
    found = find_paths(patterns, lambda pattern, reason: data_error("path", pattern, reason))
    paths = sorted(Path(os.path.abspath(path)) for path in found)
    if not paths:
        raise data_error("path", patterns, "does not name a file")
    root = os.path.commonpath([path.parent for path in paths])
    return {path.relative_to(root).as_posix(): path for path in paths}
