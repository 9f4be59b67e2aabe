"""Small grey images with labels: scikit-learn's digits, MNIST and sets laid out like it."""

import dataclasses
import functools
import gzip
import io
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias, no_type_check

import jax
import jax.numpy as jnp
import numpy as np

from gelu_jax.errors import ConfigError, Problem, check, no_such
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
    """MNIST, or any set laid out like it; its test set is the validation set.

    Attributes:
      path: the folder of the four IDX files (`train-images-idx3-ubyte` ..., plain or .gz), or one
        .npz with the arrays x_train, y_train, x_test and y_test.
      kind: always "mnist".
    """

    path: str
    unit: ClassVar[str] = _UNIT
    kind: Literal["mnist"] = "mnist"


@no_type_check  # JAX rebuilds it around tracers and avals, which are not arrays
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ImageData(Resident):
    """Images with labels, for training and held out.

    Attributes:
      images: (n, height, width) uint8.
      labels: (n,) int32.
      held_out: (m, height, width) uint8.
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
        return images[..., None].astype(jnp.float32) / self.brightest


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
        f"{name}, {sum(sizes)} images of {train[0].shape[1]}×{train[0].shape[2]}",
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
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        held[members] = np.diff(np.arange(len(members) + 1) * config.validation_fraction // 1) > 0
    if not held.any():
        raise data_error(
            "validation_fraction", config.validation_fraction, "does not hold out any image"
        )
    split = (images[~held], labels[~held]), (images[held], labels[held])
    return _image_data("scikit-learn digits", *split, 16, batch_size)


_MNIST_FILES = ("train-images", "train-labels", "t10k-images", "t10k-labels")
_MNIST_ARRAYS = ("x_train", "y_train", "x_test", "y_test")


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
    arrays = [_idx(path, name) for name in _MNIST_FILES] if os.path.isdir(path) else _npz(path)
    pairs = (arrays[0], arrays[1]), (arrays[2], arrays[3])
    for images, labels in pairs:
        shaped = images.ndim == 3 and labels.ndim == 1
        if not shaped or images.dtype != np.uint8 or labels.dtype.kind not in "iu":
            found = f"{images.dtype}{list(images.shape)} and {labels.dtype}{list(labels.shape)}"
            reason = (
                f"expected uint8 images (n, height, width) and integer labels (n,), found {found}"
            )
            raise data_error("path", config.path, reason)
        if len(images) != len(labels) or not len(images):
            reason = f"holds {len(images)} images but {len(labels)} labels"
            raise data_error("path", config.path, reason)
        if labels.min() < 0:
            raise data_error("path", config.path, f"has the label {labels.min()}, below 0")
    sizes = [f"{images.shape[1]}×{images.shape[2]}" for images, _ in pairs]
    if sizes[0] != sizes[1]:
        reason = f"images to train on are {sizes[0]}, those to test on {sizes[1]}"
        raise data_error("path", config.path, reason)
    return _image_data(path.name, *pairs, 255, batch_size)


def _npz(path: Path) -> list[np.ndarray]:
    try:
        archive = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
        missing = [name for name in _MNIST_ARRAYS if name not in archive]
        arrays = [archive[name] for name in _MNIST_ARRAYS if not missing]
    except Exception as error:  # a damaged archive makes zipfile and numpy raise anything
        reason = f"not a readable .npz file: {' '.join(str(error).split())}"
        raise data_error("path", str(path), reason) from None
    if missing:
        reason = f"is missing the arrays {', '.join(missing)}; expected {', '.join(_MNIST_ARRAYS)}"
        raise data_error("path", str(path), reason)
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
