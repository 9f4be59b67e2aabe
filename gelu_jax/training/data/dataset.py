"""What every dataset offers, and what the sources share.

A source is a frozen config (`StdlibCorpus`, `Files`, `TokenFiles`, `HuggingFace`, `Digits`,
`Mnist`); `load_data` opens it as a dataset. A chunk of training steps reads its batches from a
pytree of arrays, `Batches`, that the compiled program takes as an argument. All datasets offer

    dataset.chunk_steps(n)   the steps of a chunk; they divide n
    dataset.batches(key, steps, abstract)   the batches of each chunk of a range of steps, in turn
    dataset.abstract_batches(steps)   shapes and dtypes of the batches of so many steps
    dataset.axes             the axes of each of their arrays, "" where all devices hold all of it
    batches.batch(key, step) -> (inputs, targets)   jittable; a pure function of (key, step)
    dataset.validation       -> (inputs, targets)   the same held-out examples for every run
    dataset.num_classes      the number of values a target can take
    dataset.tokens_per_step  predictions in one batch
    dataset.info             what was read: hash, sizes, description

so that a loop need not know which it trains on:

| | inputs | targets |
|---|---|---|
| bytes, tokens | (b, t) int32 | (b, t) int32, the next one at each place |
| documents apart | `Packed` | `Weighted` |
| images | (b, height, width, 1) float32 in [0, 1] | (b,) int32, the label |

Bytes and images are small: the dataset lies on the device, and holds the batches of all steps
itself (`Resident`). Tokens stay on disk, and are read for one chunk after the other.

Two runs are comparable when `info.hash` is equal: it covers the bytes of both splits.
"""

import hashlib
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import repeat
from typing import Any, Literal, NamedTuple, Self, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from gelu_jax.errors import ConfigError, Problem

Batch: TypeAlias = tuple[Any, Any]
Documents: TypeAlias = Literal["joined", "separate"]
"""Whether the documents in a window are one text, or do not see each other."""


class Packed(NamedTuple):
    """Inputs of a language model, of which several documents share a row.

    Attributes:
      tokens: (b, t), int32.
      segment_ids: (b, t), int32, the same for two tokens of one document.
    """

    tokens: jax.Array
    segment_ids: jax.Array


class Weighted(NamedTuple):
    """Targets that do not all count.

    Attributes:
      labels: (b, t), int32.
      weights: (b, t), float32, of each target's loss: 0 where a document ends, and the same for all
        others, so that the mean of the weights is 1.
    """

    labels: jax.Array
    weights: jax.Array


@dataclass(frozen=True)
class DatasetInfo:
    """What a dataset was read from.

    Attributes:
      description: for people.
      hash: SHA-256 of the content of both splits, in hexadecimal.
      train_size: bytes of text, tokens or images.
      validation_size: the same of the held-out split.
    """

    description: str
    hash: str
    train_size: int
    validation_size: int


class Resident:
    """A dataset that lies on the device: any steps read from the dataset itself."""

    @property
    def axes(self) -> Sequence[str]:
        """No axis of any array is split."""
        return [""] * len(jax.tree.leaves(self))

    def chunk_steps(self, most: int) -> int:
        """A chunk may have any number of steps.

        Args:
          most: steps between evaluations.

        Returns:
          The same.
        """
        return most

    def abstract_batches(self, steps: int) -> Self:
        """Shapes and dtypes of what a chunk reads.

        Args:
          steps: of the chunk.

        Returns:
          The dataset.
        """
        return self

    def batches(self, key: jax.Array, steps: range, abstract: Any) -> Iterator[Self]:
        """What each chunk of a range of steps reads.

        Args:
          key: not used; `batch` draws.
          steps: not used.
          abstract: not used.

        Yields:
          The dataset, without end.
        """
        return repeat(self)


class Windows:
    """What follows from the held-out windows (n, t + 1) of a language model's data."""

    held_out: jax.Array
    held_out_segments: jax.Array | None
    batch_size: int

    @property
    def context(self) -> int:
        """Tokens that the model sees, t."""
        return self.held_out.shape[1] - 1

    @property
    def tokens_per_step(self) -> int:
        """Targets in a batch."""
        return self.batch_size * self.context

    @property
    def validation(self) -> Batch:
        """Inputs and targets (windows, t)."""
        return next_token(self.held_out, self.held_out_segments)


def next_token(windows: jax.Array, segment_ids: jax.Array | None = None) -> Batch:
    """Splits windows into what a model sees and what it is to predict.

    Args:
      windows: integers (..., t + 1).
      segment_ids: of the same shape, the same for two tokens of one document; None where the
        documents in a window are one text.

    Returns:
      Inputs and targets (..., t), int32; or `Packed` and `Weighted`, where no token predicts one
      of another document.
    """
    windows = windows.astype(jnp.int32)
    tokens, labels = windows[..., :-1], windows[..., 1:]
    if segment_ids is None:
        return tokens, labels
    segment_ids = segment_ids.astype(jnp.int32)
    counts = segment_ids[..., :-1] == segment_ids[..., 1:]
    weights = counts / jnp.maximum(counts.mean(), 1 / counts.size)
    return Packed(tokens, segment_ids[..., :-1]), Weighted(labels, weights)


def num_windows(size: int, context: int) -> int:
    """Counts the windows of a row of tokens in which no token is a target twice.

    Args:
      size: tokens in the row.
      context: tokens of a window, but for the last target.

    Returns:
      How many windows there are; window i begins at i · context.
    """
    return (size - 1) // context


def even_starts(size: int, context: int, count: int) -> np.ndarray:
    """Chooses some of those windows, evenly spaced.

    Args:
      size: tokens in the row.
      context: tokens of a window, but for the last target.
      count: how many to choose; all, if there are fewer.

    Returns:
      Where they begin, int64.
    """
    found = num_windows(size, context)
    count = min(count, found)
    return np.arange(count) * found // count * context


def fraction_problems(config: Any) -> Iterator[Problem]:
    """Checks the `validation_fraction` of a source.

    Args:
      config: the source.

    Yields:
      A problem, unless the fraction lies between 0 and 1.
    """
    fraction = config.validation_fraction
    if not 0 < fraction < 1:
        yield Problem("validation_fraction", fraction, "must lie between 0 and 1")


def data_error(field: str, value: object, reason: str) -> ConfigError:
    """Makes the error of a source that cannot be read.

    Args:
      field: of the source.
      value: of the field.
      reason: why it cannot be read.

    Returns:
      The error, whose field is `data.<field>`.
    """
    return ConfigError([Problem(f"data.{field}", value, reason)])


def content_hash(parts: Iterable[bytes]) -> str:
    """Computes the SHA-256 of several contents and their lengths.

    Args:
      parts: the contents.

    Returns:
      64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(struct.pack("<Q", len(part)))
        digest.update(part)
    return digest.hexdigest()


def require(package: str, kind: str) -> None:
    """Checks that an optional package is installed.

    Args:
      package: its name.
      kind: of the source that needs it.

    Raises:
      ConfigError: it is not.
    """
    if find_spec(package) is None:
        raise data_error("kind", kind, f"needs {package}: pip install 'gelu-jax[data]'")
