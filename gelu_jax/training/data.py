"""Data sources: bytes and images, read once, sampled on the device.

A source is a frozen config (`StdlibCorpus`, `Files`, `Digits`, `Mnist`); `load_data` reads it into
a dataset, a pytree of arrays that the train step takes as an argument. All datasets offer

    dataset.batch(key, step) -> (inputs, targets)   jittable; a pure function of (key, step)
    dataset.validation       -> (inputs, targets)   the same held-out examples for every run
    dataset.num_classes      the number of values a target can take
    dataset.tokens_per_step  predictions in one batch
    dataset.facts            what was read: hash, sizes, description

so that a loop need not know which it trains on:

| | inputs | targets |
|---|---|---|
| bytes | (b, t) int32 | (b, t) int32, the next byte at each place |
| images | (b, height, width, 1) float32 in [0, 1] | (b,) int32, the label |

Two runs are comparable when `facts.hash` is equal: it covers the bytes of both splits.
"""

import dataclasses
import functools
import glob
import gzip
import hashlib
import io
import os
import struct
import sysconfig
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from gelu_jax.errors import ConfigError, Problem, check, nearest

Batch: TypeAlias = tuple[jax.Array, jax.Array]
_Images: TypeAlias = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Facts:
    """What a dataset was read from; sizes in bytes of text or in images."""

    description: str
    hash: str
    train_size: int
    validation_size: int


class Dataset(Protocol):
    """What training needs of any dataset; see the top of this file."""

    @property
    def facts(self) -> Facts: ...
    @property
    def num_classes(self) -> int: ...
    @property
    def tokens_per_step(self) -> int: ...
    @property
    def validation(self) -> Batch: ...
    def batch(self, key: jax.Array, step: jax.Array | int) -> Batch: ...


# --- Sources --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _ByteSource:
    """What the sources of bytes share.

    Attributes:
      context: bytes that the model sees; a window is one longer, for the last target.
      validation_fraction: the share of the bytes held out.
      validation_windows: how many windows of the held-out bytes are evaluated, if they hold so
        many; evenly spaced, none overlapping.
    """

    context: int = 64
    validation_fraction: float = 0.1
    validation_windows: int = 256

    def __post_init__(self) -> None:
        check([*_at_least_one(self, "context", "validation_windows"), *_fraction(self)])


@dataclass(frozen=True, kw_only=True)
class StdlibCorpus(_ByteSource):
    """The Python standard library's own top-level sources, read in place; about 4.7 MB.

    Split by file. It differs between Python versions: compare runs of equal `facts.hash` only.
    """

    kind: Literal["stdlib"] = "stdlib"


@dataclass(frozen=True, kw_only=True)
class Files(_ByteSource):
    """The bytes of any files, by path or glob (`**` goes down folders).

    One file is split at a byte, its end held out; several are split by file.
    """

    path: str | tuple[str, ...]
    kind: Literal["files"] = "files"


@dataclass(frozen=True, kw_only=True)
class Digits:
    """The 1,797 8×8 digits that scikit-learn carries, split evenly within each class."""

    validation_fraction: float = 0.2
    kind: Literal["digits"] = "digits"

    def __post_init__(self) -> None:
        check(_fraction(self))


@dataclass(frozen=True, kw_only=True)
class Mnist:
    """MNIST, or any set laid out like it; its test set is the validation set.

    `path` is the folder of the four IDX files (`train-images-idx3-ubyte` ..., plain or .gz), or
    one .npz with the arrays x_train, y_train, x_test and y_test.
    """

    path: str
    kind: Literal["mnist"] = "mnist"


DataConfig: TypeAlias = StdlibCorpus | Files | Digits | Mnist


def _at_least_one(config: Any, *names: str) -> Iterator[Problem]:
    for name in names:
        if getattr(config, name) < 1:
            yield Problem(name, getattr(config, name), "must be at least 1")


def _fraction(config: Any) -> Iterator[Problem]:
    fraction = config.validation_fraction
    if not 0 < fraction < 1:
        yield Problem("validation_fraction", fraction, "must lie between 0 and 1")


def load_data(config: DataConfig, batch_size: int) -> Dataset:
    """Reads a data source; raises `ConfigError` (fields `data. ...`, `batch_size`) if it cannot.

    >>> data = load_data(Digits(), batch_size=128)
    >>> inputs, targets = data.batch(jax.random.key(0), step=0)
    >>> inputs.shape, targets.shape, data.facts.train_size
    ((128, 8, 8, 1), (128,), 1442)
    """
    if batch_size < 1:
        raise ConfigError([Problem("batch_size", batch_size, "must be at least 1")])
    match config:
        case StdlibCorpus():
            root = Path(sysconfig.get_path("stdlib"))
            return _load_bytes(config, "kind", config.kind, _stdlib_files(root), batch_size)
        case Files():
            return _load_bytes(config, "path", config.path, _files(config.path), batch_size)
        case Digits():
            return _load_digits(config, batch_size)
        case Mnist():
            return _load_mnist(config, batch_size)


def _wrong(field: str, value: object, reason: str) -> ConfigError:
    return ConfigError([Problem(f"data.{field}", value, reason)])


def _hash(parts: Iterable[bytes]) -> str:
    """SHA-256 of the parts and of where each ends."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(struct.pack("<Q", len(part)))
        digest.update(part)
    return digest.hexdigest()


# --- Bytes ----------------------------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ByteData:
    """Bytes for next-byte prediction: `train` (n,) uint8, `held_out` (windows, t + 1) uint8.

    Files stand one after the other, so a window may run from one into the next.
    """

    train: jax.Array
    held_out: jax.Array
    batch_size: int = dataclasses.field(metadata={"static": True})
    facts: Facts = dataclasses.field(metadata={"static": True})

    @property
    def context(self) -> int:
        return self.held_out.shape[1] - 1

    @property
    def num_classes(self) -> int:
        return 256

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.context

    @property
    def validation(self) -> Batch:
        """Inputs and targets (windows, t)."""
        return _next_byte(self.held_out)

    def batch(self, key: jax.Array, step: jax.Array | int) -> Batch:
        """Inputs and targets (b, t): windows drawn uniformly, with replacement, from all."""
        starts = jax.random.randint(
            jax.random.fold_in(key, step),
            (self.batch_size, 1),
            0,
            self.train.size - self.context,
            jnp.int32,
        )
        return _next_byte(self.train[starts + jnp.arange(self.context + 1, dtype=jnp.int32)])


def _next_byte(windows: jax.Array) -> Batch:
    windows = windows.astype(jnp.int32)
    return windows[:, :-1], windows[:, 1:]


def _load_bytes(
    config: _ByteSource, field: str, value: object, paths: Mapping[str, Path], batch_size: int
) -> ByteData:
    files: dict[str, bytes] = {}
    for name, path in paths.items():
        try:
            files[name] = path.read_bytes()
        except OSError as error:
            raise _wrong(field, str(path), (error.strerror or str(error)).lower()) from None
    size, window = sum(map(len, files.values())), config.context + 1
    if not window <= size < 2**31:
        few = f"fewer than one window of {window} (context + 1)" if size else "nothing to train on"
        reason = f"holds {size} bytes, {few}" if size < window else "holds 2 GiB or more"
        raise _wrong(field, value, reason)
    train, validation = _split(files, config.validation_fraction)
    for part, data in (("training", train), ("validation", validation)):
        if len(data) < window:
            raise _wrong(
                "validation_fraction",
                config.validation_fraction,
                f"leaves {len(data)} bytes for {part}, fewer than one window of {window}",
            )
    facts = Facts(
        f"{len(files)} file{'s' * (len(files) > 1)}, {size} bytes",
        _hash([train, validation]),
        len(train),
        len(validation),
    )
    return ByteData(
        jnp.asarray(np.frombuffer(train, np.uint8)),
        jnp.asarray(_even_windows(validation, config.context, config.validation_windows)),
        batch_size,
        facts,
    )


def _even_windows(data: bytes, context: int, count: int) -> np.ndarray:
    """(count, context + 1) windows; each begins on a multiple of `context`, so that no byte is
    a target twice."""
    slots = (len(data) - 1) // context
    count = min(count, slots)
    starts = np.arange(count) * slots // count * context
    return np.frombuffer(data, np.uint8)[starts[:, None] + np.arange(context + 1)]


def _split(files: Mapping[str, bytes], fraction: float) -> tuple[bytes, bytes]:
    """Training and validation bytes.

    Files are held out in the order of their names' SHA-256 while they fit into the fraction: no
    listing order and no random state takes part, and a file more moves few others. If the first
    is too large, the smallest of all is held out.
    """
    files = {name: data for name, data in sorted(files.items()) if data}
    total = sum(map(len, files.values()))
    if len(files) == 1:
        (data,) = files.values()
        cut = total - round(total * fraction)
        return data[:cut], data[cut:]
    order = sorted(files, key=lambda name: hashlib.sha256(name.encode()).digest())
    sizes = accumulate(len(files[name]) for name in order)
    held = {name for name, size in zip(order, sizes, strict=True) if size <= total * fraction}
    held = held or {min(files, key=lambda name: len(files[name]))}
    train = b"".join(data for name, data in files.items() if name not in held)
    return train, b"".join(files[name] for name in files if name in held)


def _stdlib_files(root: Path) -> dict[str, Path]:
    # _sysconfigdata_*.py holds the paths and flags of this very interpreter's build
    return {p.name: p for p in root.glob("*.py") if not p.name.startswith("_sysconfigdata")}


def _files(patterns: str | tuple[str, ...]) -> dict[str, Path]:
    """Every file meant, by its path below the folder that all of them share."""
    patterns = (patterns,) if isinstance(patterns, str) else patterns
    paths = sorted({Path(os.path.abspath(path)) for p in patterns for path in _matches(p)})
    if not paths:
        raise _wrong("path", patterns, "names no file")
    root = os.path.commonpath([path.parent for path in paths])
    return {path.relative_to(root).as_posix(): path for path in paths}


def _matches(pattern: str) -> list[str]:
    """The files of one path or glob; a path that exists is never read as a glob."""
    path = os.path.expanduser(pattern)
    if os.path.isdir(path):
        raise _wrong("path", pattern, f"is a folder; name its files, such as {pattern}/**/*.txt")
    if os.path.lexists(path):
        return [path]
    found = [match for match in glob.glob(path, recursive=True) if os.path.isfile(match)]
    if not found:
        raise _wrong("path", pattern, _no_such_file(Path(path)))
    return found


def _no_such_file(path: Path) -> str:
    missing = "no such file"
    if glob.has_magic(str(path)) or not path.parent.is_dir():
        return missing
    hint = nearest(path.name, [neighbour.name for neighbour in path.parent.iterdir()])
    return f"{missing}; {hint}" if hint.startswith("did you mean") else missing


# --- Images ---------------------------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ImageData:
    """Images (n, height, width) uint8 with labels (n,) int32, for training and held out."""

    images: jax.Array
    labels: jax.Array
    held_out: jax.Array
    held_out_labels: jax.Array
    brightest: int = dataclasses.field(metadata={"static": True})
    num_classes: int = dataclasses.field(metadata={"static": True})
    batch_size: int = dataclasses.field(metadata={"static": True})
    facts: Facts = dataclasses.field(metadata={"static": True})

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size

    @property
    def validation(self) -> Batch:
        """Images (n, height, width, 1) and labels (n,)."""
        return self._scaled(self.held_out), self.held_out_labels

    def batch(self, key: jax.Array, step: jax.Array | int) -> Batch:
        """Images (b, height, width, 1) and labels (b,).

        An epoch goes through all images in an order drawn from (key, epoch), but for the last
        n mod b of that order.
        """
        epoch, place = jnp.divmod(jnp.asarray(step), len(self.labels) // self.batch_size)
        index = place * self.batch_size + jnp.arange(self.batch_size)
        chosen = shuffled(jax.random.fold_in(key, epoch), index, len(self.labels))
        return self._scaled(self.images[chosen]), self.labels[chosen]

    def _scaled(self, images: jax.Array) -> jax.Array:
        return images[..., None].astype(jnp.float32) / self.brightest


@functools.partial(jax.jit, static_argnames="n")
def shuffled(key: jax.Array, index: jax.Array, n: int) -> jax.Array:
    """Where a random order of 0 .. n - 1 puts each index, without making the whole order.

    A swap-or-not network (Hoang, Morris & Rogaway 2012): a round pairs x with (offset − x) mod n
    and swaps the pair if a hash of its larger member says so. One round is a permutation, and so
    are 32. For a batch of 128 out of 60,000 it costs 0.1 ms where sorting random numbers, as
    `jax.random.permutation` does, costs 14 ms and more on a CPU core.

    Args:
      index: integers in [0, n), n < 2³¹, of any shape.

    Returns:
      int32 of the same shape.
    """
    offsets, salts = jax.random.bits(key, (2, 32), jnp.uint32)
    size = jnp.uint32(n)

    def one_round(x: jax.Array, drawn: Batch) -> tuple[jax.Array, None]:
        offset, salt = drawn
        partner = (offset + size - x) % size
        swap = _mixed(jnp.maximum(x, partner) ^ salt) & 1
        return jnp.where(swap == 1, partner, x), None

    order, _ = jax.lax.scan(one_round, index.astype(jnp.uint32), (offsets % size, salts))
    return order.astype(jnp.int32)


def _mixed(x: jax.Array) -> jax.Array:
    """The finaliser of MurmurHash3: every bit of x (uint32) moves about half of the result's."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _image_data(
    name: str, train: _Images, held_out: _Images, brightest: int, batch_size: int
) -> ImageData:
    sizes = len(train[1]), len(held_out[1])
    if batch_size > sizes[0]:
        reason = f"is more than the {sizes[0]} images to train on"
        raise ConfigError([Problem("batch_size", batch_size, reason)])
    arrays = *train, *held_out
    facts = Facts(
        f"{name}, {sum(sizes)} images of {train[0].shape[1]}×{train[0].shape[2]}",
        _hash(part for a in arrays for part in (str(a.shape).encode(), a.tobytes())),
        *sizes,
    )
    labels = [jnp.asarray(y, jnp.int32) for y in (train[1], held_out[1])]
    return ImageData(
        jnp.asarray(train[0]),
        labels[0],
        jnp.asarray(held_out[0]),
        labels[1],
        brightest,
        1 + int(max(train[1].max(), held_out[1].max())),
        batch_size,
        facts,
    )


def _load_digits(config: Digits, batch_size: int) -> ImageData:
    from sklearn.datasets import load_digits  # here, because it takes a second to import

    digits: Any = load_digits()
    images, labels = digits.images.astype(np.uint8), digits.target.astype(np.uint8)
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        held[members] = np.diff(np.arange(len(members) + 1) * config.validation_fraction // 1) > 0
    if not held.any():
        raise _wrong("validation_fraction", config.validation_fraction, "holds out no image")
    split = (images[~held], labels[~held]), (images[held], labels[held])
    return _image_data("scikit-learn digits", *split, 16, batch_size)


_MNIST_FILES = ("train-images", "train-labels", "t10k-images", "t10k-labels")
_MNIST_ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def _load_mnist(config: Mnist, batch_size: int) -> ImageData:
    path = Path(config.path).expanduser()
    if not path.exists():
        raise _wrong("path", config.path, _no_such_file(path))
    arrays = [_idx(path, name) for name in _MNIST_FILES] if path.is_dir() else _npz(path)
    pairs = (arrays[0], arrays[1]), (arrays[2], arrays[3])
    for images, labels in pairs:
        shaped = images.ndim == 3 and labels.ndim == 1
        if not shaped or images.dtype != np.uint8 or labels.dtype.kind not in "iu":
            found = f"{images.dtype}{list(images.shape)} and {labels.dtype}{list(labels.shape)}"
            reason = (
                f"expected uint8 images (n, height, width) and integer labels (n,), found {found}"
            )
            raise _wrong("path", config.path, reason)
        if len(images) != len(labels) or not len(images):
            reason = f"holds {len(images)} images but {len(labels)} labels"
            raise _wrong("path", config.path, reason)
        if labels.min() < 0:
            raise _wrong("path", config.path, f"has the label {labels.min()}, below 0")
    sizes = [f"{images.shape[1]}×{images.shape[2]}" for images, _ in pairs]
    if sizes[0] != sizes[1]:
        reason = f"images to train on are {sizes[0]}, those to test on {sizes[1]}"
        raise _wrong("path", config.path, reason)
    return _image_data(path.name, *pairs, 255, batch_size)


def _npz(path: Path) -> list[np.ndarray]:
    try:
        archive = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
        missing = [name for name in _MNIST_ARRAYS if name not in archive]
        arrays = [archive[name] for name in _MNIST_ARRAYS if not missing]
    except Exception as error:  # a damaged archive makes zipfile and numpy raise anything
        reason = f"no readable .npz file: {' '.join(str(error).split())}"
        raise _wrong("path", str(path), reason) from None
    if missing:
        reason = f"has no array {', '.join(missing)}; expected {', '.join(_MNIST_ARRAYS)}"
        raise _wrong("path", str(path), reason)
    return arrays


def _idx(folder: Path, name: str) -> np.ndarray:
    """The array of an IDX file: 0, 0, type 8 (uint8), rank; then big-endian sizes; then bytes."""
    found = sorted(folder.glob(f"{name}[-.]idx[13]-ubyte*"))
    if not found:
        kind = "idx3" if "images" in name else "idx1"
        raise _wrong("path", str(folder), f"has no {name}-{kind}-ubyte or {name}-{kind}-ubyte.gz")
    path = found[0]
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError, zlib.error) as error:
        raise _wrong("path", str(path), f"cannot be read: {error}") from None
    rank = 3 if "images" in name else 1
    start = 4 + 4 * rank
    if data[:4] != bytes([0, 0, 8, rank]) or len(data) < start:
        begins = f"begins with {data[:4].hex(' ')}".rstrip()
        reason = f"no IDX file of {rank} dimension{'s'[: rank - 1]} of bytes: {begins}"
        raise _wrong("path", str(path), reason)
    shape = struct.unpack(f">{rank}I", data[4:start])
    size = int(np.prod(shape, dtype=object))
    if len(data) - start != size:
        reason = f"holds {len(data) - start} bytes where its header says {size}"
        raise _wrong("path", str(path), reason)
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
