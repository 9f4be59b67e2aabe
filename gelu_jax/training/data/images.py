"""Small grey images with labels: scikit-learn's digits, MNIST and sets laid out like it."""

import dataclasses
import functools
import gzip
import io
import os
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias, no_type_check

import jax
import jax.numpy as jnp
import numpy as np

from gelu_jax.errors import ConfigError, Problem, check, no_such, printable
from gelu_jax.training.data.dataset import (
    Batch,
    DatasetInfo,
    Resident,
    content_hash,
    data_error,
    fraction_problems,
)

_Images: TypeAlias = tuple[np.ndarray, np.ndarray]

_UNIT = "nats per image"


@dataclass(frozen=True, kw_only=True)
class Digits:
    """The 1,797 8×8 digits that scikit-learn carries, split evenly within each class.

    Attributes:
      validation_fraction: the share of the images that is held out.
      kind: always "digits".
    """

    validation_fraction: float = 0.2
    unit: ClassVar[str] = _UNIT
    kind: Literal["digits"] = "digits"

    def __post_init__(self) -> None:
        check(fraction_problems(self))


@dataclass(frozen=True, kw_only=True)
class Mnist:
    """MNIST, or any set of labelled examples laid out like it.

    Examples are uint8 (n, height, width) or (n, height, width, channels), which are divided by
    255, or floating, which are taken as they are; they may also be flat, (n, entries). Labels are
    integers (n,) or (n, 1). What is held out is the validation set, if there is one, else the test
    set, else a share of the training set, evenly within each class.

    Attributes:
      path: the folder of the four IDX files (`train-images-idx3-ubyte` ..., plain or .gz); or one
        .npz with the arrays x_train, y_train, x_test and y_test, or train_images, train_labels,
        val_images ..., as MedMNIST has them; or one .csv with a line for each example, the label in
        the column `label`, or the first one.
      validation_fraction: the share of the training set that is held out where there is no other
        set; None is a tenth.
      kind: always "mnist".
    """

    path: str
    validation_fraction: float | None = None
    unit: ClassVar[str] = _UNIT
    kind: Literal["mnist"] = "mnist"

    def __post_init__(self) -> None:
        check(fraction_problems(self) if self.validation_fraction is not None else [])


@no_type_check  # JAX rebuilds it around tracers and avals, which are not arrays
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ImageData(Resident):
    """Images with labels, for training and held out.

    Attributes:
      images: (n, height, width) or (n, height, width, channels) uint8, or floating.
      labels: (n,) int32.
      held_out: the same for m examples.
      held_out_labels: (m,) int32.
      brightest: the value of white.
      num_classes: one more than the largest label.
      batch_size: images in a step.
      info: what was read.
    """

    images: jax.Array
    labels: jax.Array
    held_out: jax.Array
    held_out_labels: jax.Array
    brightest: int = dataclasses.field(metadata={"static": True})
    num_classes: int = dataclasses.field(metadata={"static": True})
    batch_size: int = dataclasses.field(metadata={"static": True})
    info: DatasetInfo = dataclasses.field(metadata={"static": True})

    @property
    def tokens_per_step(self) -> int:
        """Targets in a batch."""
        return self.batch_size

    @property
    def validation(self) -> Batch:
        """Images (n, height, width, 1) and labels (n,)."""
        return self._scaled(self.held_out), self.held_out_labels

    def batch(self, key: jax.Array, step: jax.Array | int) -> Batch:
        """Draws a batch.

        An epoch goes through all images in an order drawn from (key, epoch), but for the last
        n mod b of that order.

        Args:
          key: draws the orders.
          step: of the run; may be traced.

        Returns:
          Images (b, height, width, 1) float32 in [0, 1], and labels (b,) int32.
        """
        epoch, place = jnp.divmod(jnp.asarray(step), len(self.labels) // self.batch_size)
        index = place * self.batch_size + jnp.arange(self.batch_size)
        chosen = shuffled(jax.random.fold_in(key, epoch), index, len(self.labels))
        return self._scaled(self.images[chosen]), self.labels[chosen]

    def _scaled(self, images: jax.Array) -> jax.Array:
        images = images if images.ndim == 4 else images[..., None]
        return images.astype(jnp.float32) / self.brightest


@functools.partial(jax.jit, static_argnames="n")
def shuffled(key: jax.Array, index: jax.Array, n: int) -> jax.Array:
    """Looks up where a random order of 0 .. n - 1 puts an index, without making the whole order.

    A swap-or-not network (Hoang, Morris & Rogaway 2012): a round pairs x with (offset − x) mod n
    and swaps the pair if a hash of its larger member says so. One round is a permutation, and so
    are 32. For a batch of 128 out of 60,000 it costs 0.1 ms where sorting random numbers, as
    `jax.random.permutation` does, costs 14 ms and more on a CPU core.

    Args:
      key: draws the order.
      index: integers in [0, n), of any shape.
      n: the length of the order, below 2³¹.

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
    """The finalizer of MurmurHash3: each bit of x (uint32) changes about half of the result's."""
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
    info = DatasetInfo(
        f"{name}, {sum(sizes)} images of {_shape(train[0])}",
        content_hash(part for a in arrays for part in (str(a.shape).encode(), a.tobytes())),
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
        info,
    )


def load_digits(config: Digits, batch_size: int) -> ImageData:
    """Opens scikit-learn's digits.

    Args:
      config: the source.
      batch_size: images in a step.

    Returns:
      The dataset.

    Raises:
      ConfigError: a split would be empty, or smaller than a batch.
    """
    import sklearn.datasets  # here, because it takes a second

    digits: Any = sklearn.datasets.load_digits()
    images, labels = digits.images.astype(np.uint8), digits.target.astype(np.uint8)
    held = _held(labels, config.validation_fraction)
    if not held.any():
        raise data_error(
            "validation_fraction", config.validation_fraction, "does not hold out any image"
        )
    split = (images[~held], labels[~held]), (images[held], labels[held])
    return _image_data("scikit-learn digits", *split, 16, batch_size)


def _held(labels: np.ndarray, fraction: float) -> np.ndarray:
    """Which examples are held out: the same share of each class, evenly spaced."""
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        held[members] = np.diff(np.arange(len(members) + 1) * fraction // 1) > 0
    return held


def _shape(images: np.ndarray) -> str:
    return "×".join(map(str, images.shape[1:]))


_MNIST_FILES = ("train-images", "train-labels", "t10k-images", "t10k-labels")
_TRAIN_NAMES = (("x_train", "y_train"), ("train_images", "train_labels"))
_HELD_OUT_NAMES = (
    ("x_val", "y_val"),
    ("val_images", "val_labels"),
    ("x_test", "y_test"),
    ("test_images", "test_labels"),
)


def load_mnist(config: Mnist, batch_size: int) -> ImageData:
    """Opens MNIST, or a set laid out like it.

    Args:
      config: the source.
      batch_size: images in a step.

    Returns:
      The dataset.

    Raises:
      ConfigError: a file is missing or damaged, or does not hold what it should.
    """
    path = Path(os.path.expanduser(config.path))
    if not os.path.exists(path):
        raise data_error("path", config.path, no_such("file", str(path)))
    pairs = [_checked(config, *pair) for pair in _pairs(path)]
    if len(pairs) == 1:
        (images, labels), fraction = pairs[0], config.validation_fraction or 0.1
        held = _held(labels, fraction)
        if not held.any() or held.all():
            raise data_error("validation_fraction", fraction, "does not divide the images")
        pairs = [(images[~held], labels[~held]), (images[held], labels[held])]
    elif config.validation_fraction is not None:
        reason = "the data hold a set for validation of their own"
        raise data_error("validation_fraction", config.validation_fraction, reason)
    sizes = [_shape(images) for images, _ in pairs]
    if sizes[0] != sizes[1]:
        reason = f"images to train on are {sizes[0]}, those to test on {sizes[1]}"
        raise data_error("path", config.path, reason)
    brightest = 255 if pairs[0][0].dtype == np.uint8 else 1
    return _image_data(path.name, pairs[0], pairs[1], brightest, batch_size)


def _checked(config: Mnist, images: np.ndarray, labels: np.ndarray) -> _Images:
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    shaped = images.ndim in (2, 3, 4) and labels.ndim == 1
    floating = np.issubdtype(images.dtype, np.floating)
    if not shaped or not (images.dtype == np.uint8 or floating) or labels.dtype.kind not in "iu":
        found = f"{images.dtype}{list(images.shape)} and {labels.dtype}{list(labels.shape)}"
        expected = "expected uint8 or floating images (n, ...) and integer labels (n,), found"
        raise data_error("path", config.path, f"{expected} {found}")
    if len(images) != len(labels) or not len(images):
        reason = f"holds {len(images)} images but {len(labels)} labels"
        raise data_error("path", config.path, reason)
    if labels.min() < 0:
        raise data_error("path", config.path, f"has the label {labels.min()}, below 0")
    return images.astype(np.float32) if floating else images, labels


def _pairs(path: Path) -> list[_Images]:
    """Images and labels to train on, and those held out, if the files say which."""
    if os.path.isdir(path):
        arrays = [_idx(path, name) for name in _MNIST_FILES]
        return [(arrays[0], arrays[1]), (arrays[2], arrays[3])]
    return [_csv(path)] if path.suffix == ".csv" else _npz(path)


def _csv(path: Path) -> _Images:
    try:
        with path.open(encoding="utf-8-sig") as file:
            names = [name.strip() for name in file.readline().split(",")]
        header = not all(_is_number(name) for name in names)
        rows = np.loadtxt(path, delimiter=",", skiprows=int(header), ndmin=2, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = f"not a table of numbers: {' '.join(str(error).split())}"
        raise data_error("path", str(path), reason) from None
    column = names.index("label") if "label" in names else 0
    labels, images = rows[:, column], np.delete(rows, column, axis=1)
    if (labels != np.round(labels)).any():
        name = printable(names[column]) if header else 1
        reason = f"column {name} has fractions; labels are the column `label`, or the first"
        raise data_error("path", str(path), reason)
    whole = (images == np.round(images)).all() and images.min() >= 0 and 1 < images.max() <= 255
    return images.astype(np.uint8) if whole else images, labels.astype(np.int64)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _npz(path: Path) -> list[_Images]:
    content = path.read_bytes()
    if not zipfile.is_zipfile(io.BytesIO(content)):
        reason = f"not a readable .npz file: begins with {content[:4].hex(' ')}".rstrip()
        raise data_error("path", str(path), reason)
    try:
        archive = np.load(io.BytesIO(content), allow_pickle=False)
        found = [
            next((pair for pair in names if all(name in archive for name in pair)), None)
            for names in (_TRAIN_NAMES, _HELD_OUT_NAMES)
        ]
        arrays = [(archive[pair[0]], archive[pair[1]]) for pair in found if pair]
    except Exception as error:  # a damaged archive makes zipfile and numpy raise anything
        said = " ".join(str(error).split())
        said = "an array holds Python objects, not numbers" if "allow_pickle" in said else said
        raise data_error("path", str(path), f"not a readable .npz file: {said}") from None
    if found[0] is None:
        expected = " or ".join(" and ".join(names) for names in _TRAIN_NAMES)
        held = ", ".join(map(printable, archive.files[:8])) or "nothing"
        raise data_error("path", str(path), f"needs the arrays {expected}; it holds {held}")
    return arrays


def _idx(folder: Path, name: str) -> np.ndarray:
    """The array of an IDX file: 0, 0, type 8 (uint8), rank; then big-endian sizes; then bytes."""
    found = sorted(folder.glob(f"{name}[-.]idx[13]-ubyte*"))
    if not found:
        kind = "idx3" if "images" in name else "idx1"
        raise data_error(
            "path", str(folder), f"{name}-{kind}-ubyte and {name}-{kind}-ubyte.gz are missing"
        )
    path = found[0]
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError, zlib.error) as error:
        raise data_error("path", str(path), f"cannot be read: {error}") from None
    rank = 3 if "images" in name else 1
    start = 4 + 4 * rank
    if data[:4] != bytes([0, 0, 8, rank]) or len(data) < start:
        begins = f"begins with {data[:4].hex(' ')}".rstrip()
        reason = f"not an IDX file of {rank} dimension{'s'[: rank - 1]} of bytes: {begins}"
        raise data_error("path", str(path), reason)
    shape = struct.unpack(f">{rank}I", data[4:start])
    size = int(np.prod(shape, dtype=object))
    if len(data) - start != size:
        reason = f"holds {len(data) - start} bytes where its header says {size}"
        raise data_error("path", str(path), reason)
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
