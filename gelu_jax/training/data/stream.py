"""Token numbers that stay on disk: read ahead by the host, a chunk of steps at a time.

A dataset is one long row of tokens for each split. Window i is the `context` + 1 tokens from place
i · context on, so that each token is a target once in an epoch; what is left at the end, less than
a window, is not seen. Documents stand one after the other, and a window may run from one into the
next. Row r of the batch of step s is the window at place s · batch_size + r of one epoch after the
other, each in an order of its own that grain draws from the key: a run that resumes in the middle
of an epoch, and a process that reads only its devices' rows, just ask for other places. Where
documents are separate, the number of its document goes along with each token.
"""

import dataclasses
import functools
import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
import numpy as np

from gelu_jax.training.data.dataset import (
    Batch,
    DatasetInfo,
    Windows,
    data_error,
    next_token,
    num_windows,
)

_CHUNK_BYTES = 32 * 2**20  # the most of a run's data on the devices at once, or else one batch
_CHECKED = 2**24  # tokens of a split, before training begins
_READ_THREADS = 2  # each reads one chunk ahead


@dataclass(frozen=True, eq=False)
class Tokens:
    """One long row of tokens, mapped from disk.

    Attributes:
      pieces: the row in parts, integers of one dtype.
      starts: where each document begins in it, ascending.
      vocab_size: no token is this number or greater.
      path: where they come from, for errors.
    """

    pieces: Sequence[np.ndarray]
    starts: np.ndarray
    vocab_size: int
    path: str

    def __len__(self) -> int:
        return self._ends[-1]

    @functools.cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(map(len, self.pieces), initial=0))

    @property
    def dtype(self) -> type[np.unsignedinteger[Any]]:
        """The smallest dtype that holds the vocabulary."""
        return np.uint16 if self.vocab_size <= 2**16 else np.uint32

    def windows(self, starts: Sequence[int], length: int) -> np.ndarray:
        """Reads windows.

        Args:
          starts: where they begin.
          length: tokens in each.

        Returns:
          Tokens (len(starts), length) of `dtype`.

        Raises:
          ConfigError: one of them is not in the vocabulary; the field is `data.path`.
        """
        found = np.empty((len(starts), length), self.pieces[0].dtype)
        for row, start in zip(found, starts, strict=True):
            self._read(start, row)
        self._check(found)
        return found.astype(self.dtype, copy=False)

    def segment_ids(self, starts: Sequence[int], length: int) -> np.ndarray:
        """Tells the documents in windows apart.

        Args:
          starts: where the windows begin.
          length: tokens in each.

        Returns:
          The number of each token's document, from 0 in each window, (len(starts), length), of
          16 bits where they suffice.
        """
        places = np.asarray(starts)[:, None] + np.arange(length)
        documents = np.searchsorted(self.starts, places, side="right")
        changes = np.diff(documents, axis=1, prepend=documents[:, :1]) != 0  # by 2 at an empty one
        return changes.cumsum(1).astype(_segment_dtype(length))

    def check(self) -> None:
        """Reads the first 2²⁴ tokens, so that few runs end at one that is not in the vocabulary.

        The others are checked when a window with them is read: a file may be larger than memory.

        Raises:
          ConfigError: one of them is not in the vocabulary; the field is `data.path`.
        """
        for piece, start in zip(self.pieces, self._ends, strict=False):  # the last end is no start
            if len(checked := piece[: max(_CHECKED - start, 0)]):
                self._check(checked)

    def _check(self, tokens: np.ndarray) -> None:
        for token in (tokens.min(), tokens.max()):
            if not 0 <= token < self.vocab_size:
                reason = f"holds the token {token}, outside a vocabulary of {self.vocab_size}"
                raise data_error("path", self.path, reason)

    def _read(self, start: int, out: np.ndarray) -> None:
        piece = bisect_right(self._ends, start) - 1
        while len(out):
            begin = start - self._ends[piece]
            part = self.pieces[piece][begin : begin + len(out)]
            out[: len(part)] = part
            out, start, piece = out[len(part) :], start + len(part), piece + 1


def _segment_dtype(length: int) -> type[np.unsignedinteger[Any]]:
    return np.uint16 if length <= 2**16 else np.uint32


@no_type_check  # JAX rebuilds it around tracers and avals, which are not arrays
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TokenBatches:
    """The batches of the n steps of a chunk, which begins at a multiple of n.

    Attributes:
      tokens: (n, b, t + 1), unsigned.
      segment_ids: of the same shape, unsigned, the same for two tokens of one document; None where
        the documents in a window are one text.
    """

    tokens: jax.Array
    segment_ids: jax.Array | None

    def batch(self, key: jax.Array, step: jax.Array | int) -> Batch:
        """Looks up a batch.

        Args:
          key: not used: it decided what was read.
          step: of the run, one of the chunk; may be traced.

        Returns:
          Inputs and targets, as `next_token` makes them.
        """
        at = step % len(self.tokens)
        chosen = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, at, keepdims=False), self)
        return next_token(chosen.tokens, chosen.segment_ids)


@no_type_check
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TokenData(Windows):
    """Tokens for next-token prediction.

    Attributes:
      held_out: (windows, t + 1), on the device.
      held_out_segments: (windows, t + 1), the same for two tokens of one document; None where the
        documents in a window are one text.
      train: on disk.
      batch_size: windows in a step.
      info: what is read.
    """

    held_out: jax.Array
    held_out_segments: jax.Array | None
    train: Tokens = dataclasses.field(metadata={"static": True})
    batch_size: int = dataclasses.field(metadata={"static": True})
    info: DatasetInfo = dataclasses.field(metadata={"static": True})

    @property
    def axes(self) -> Sequence[str]:
        """Rows and time, of tokens and of segment numbers."""
        return ["b t"] * (1 + self.separate)

    @property
    def separate(self) -> bool:
        """Whether the documents in a window do not see each other."""
        return self.held_out_segments is not None

    @property
    def num_classes(self) -> int:
        """The vocabulary."""
        return self.train.vocab_size

    def chunk_steps(self, most: int) -> int:
        """Chooses the steps of a chunk: as many as have batches of 32 MiB in all, or one.

        Args:
          most: steps between evaluations.

        Returns:
          A divisor of `most`.
        """
        of_one = jax.tree.leaves(self.abstract_batches(1))
        limit = _CHUNK_BYTES // sum(math.prod(x.shape) * x.dtype.itemsize for x in of_one)
        return next((n for n in range(min(most, limit), 1, -1) if most % n == 0), 1)

    def abstract_batches(self, steps: int) -> TokenBatches:
        """Shapes and dtypes of the batches of a chunk.

        Args:
          steps: of the chunk.

        Returns:
          Batches without values.
        """
        shape = steps, self.batch_size, self.context + 1
        tokens: Any = jax.ShapeDtypeStruct(shape, self.train.dtype)
        ids: Any = jax.ShapeDtypeStruct(shape, _segment_dtype(self.context + 1))
        return TokenBatches(tokens, ids if self.separate else None)

    def batches(self, key: jax.Array, steps: range, abstract: Any) -> Iterator[TokenBatches]:
        """Reads the batches of one chunk after the other, some ahead.

        Args:
          key: draws the order of the windows in each epoch.
          steps: the first step of each chunk.
          abstract: what `abstract_batches` returned, maybe with a sharding; of a sharded array a
            process reads only the rows of its own devices.

        Yields:
          The batches of each chunk, sharded like `abstract`.
        """
        import grain  # here, because resident data does not need it

        n, batch_size, length = shape = abstract.tokens.shape
        sharding = abstract.tokens.sharding
        rows = range(batch_size) if sharding is None else _local_rows(sharding, shape)
        windows = grain.MapDataset.range(num_windows(len(self.train), self.context))
        order: Any = windows.shuffle(seed=int(jax.random.bits(key))).repeat()

        def read(first: int) -> tuple[np.ndarray, ...]:
            places = [step * batch_size + row for step in range(first, first + n) for row in rows]
            starts = [int(order[i]) * self.context for i in places]
            readers = (self.train.windows, self.train.segment_ids)[: 1 + self.separate]
            return tuple(read(starts, length).reshape(n, len(rows), length) for read in readers)

        ahead = grain.ReadOptions(num_threads=_READ_THREADS, prefetch_buffer_size=_READ_THREADS)
        host = grain.MapDataset.range(steps.start, steps.stop, steps.step).map(read)
        with closing(iter(host.to_iter_dataset(ahead))) as read_ahead:
            for arrays in read_ahead:
                tokens, *ids = (_global_array(x, rows, shape, sharding) for x in arrays)
                yield TokenBatches(tokens, ids[0] if ids else None)


def _local_rows(sharding: jax.sharding.Sharding, shape: tuple[int, ...]) -> Sequence[int]:
    """The rows of an array (n, b, t + 1) that the devices of this process hold."""
    return _rows_of(sharding.addressable_devices_indices_map(shape).values(), shape[1])


def _rows_of(indices: Iterable[Any], batch_size: int) -> Sequence[int]:
    """The rows that shards of an array (n, b, t + 1) hold, each once.

    >>> _rows_of([(slice(None), slice(2, 4)), (slice(None), slice(0, 2))], 8)
    [0, 1, 2, 3]
    """
    return sorted({row for index in indices for row in range(batch_size)[index[1]]})


def _global_array(
    tokens: np.ndarray, rows: Sequence[int], shape: tuple[int, ...], sharding: Any
) -> jax.Array:
    """The array of all processes, of which this one has read these rows."""
    if sharding is None:
        return jnp.asarray(tokens)
    position = {row: i for i, row in enumerate(rows)}

    def shard(index: Any) -> np.ndarray:
        return tokens[:, [position[row] for row in range(shape[1])[index[1]]]]

    return jax.make_array_from_callback(shape, sharding, shard)
