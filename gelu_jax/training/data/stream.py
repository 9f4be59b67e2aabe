"""Token numbers that stay on disk: read ahead by the host, a block of steps at a time.

A dataset is one long row of tokens for each split. Window i is the `context` + 1 tokens from place
i · context on, so that each token is a target once in an epoch; what is left at the end, less than
a window, is not seen. Documents stand one after the other, and a window may run from one into the
next. Row r of the batch of step s is the window at place s · batch_size + r of one epoch after the
other, each in an order of its own that grain draws from the key: a run that goes on in the middle
of an epoch, and a process that reads only its devices' rows, just ask for other places.
"""

import dataclasses
import functools
import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar, no_type_check

import jax
import jax.numpy as jnp
import numpy as np

from gelu_jax.training.data.dataset import Batch, Facts, Windows, next_token, slots, wrong

_BLOCK = 32 * 2**20  # bytes: so much of a run's data lies on the devices at once, or one batch
_READERS = 2  # threads of the host, each of which reads a block ahead


@dataclass(frozen=True, eq=False)
class Tokens:
    """One long row of tokens, in pieces of one dtype that are mapped from disk.

    Raises ConfigError (``data.path``) on reading a token that is not in the vocabulary.
    """

    pieces: Sequence[np.ndarray]
    vocab_size: int
    path: str

    def __len__(self) -> int:
        return self._ends[-1]

    @functools.cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(map(len, self.pieces), initial=0))

    @property
    def dtype(self) -> type[np.unsignedinteger[Any]]:
        """The smallest that holds the vocabulary."""
        return np.uint16 if self.vocab_size <= 2**16 else np.uint32

    def windows(self, starts: Sequence[int], length: int) -> np.ndarray:
        """Tokens (len(starts), length)."""
        found = np.empty((len(starts), length), self.pieces[0].dtype)
        for row, start in zip(found, starts, strict=True):
            self._read(start, row)
        for token in (found.min(), found.max()):
            if not 0 <= token < self.vocab_size:
                reason = f"holds the token {token}, which is not among {self.vocab_size}"
                raise wrong("path", self.path, reason)
        return found.astype(self.dtype, copy=False)

    def _read(self, start: int, out: np.ndarray) -> None:
        piece = bisect_right(self._ends, start) - 1
        while len(out):
            begin = start - self._ends[piece]
            part = self.pieces[piece][begin : begin + len(out)]
            out[: len(part)] = part
            out, start, piece = out[len(part) :], start + len(part), piece + 1


@no_type_check  # JAX rebuilds it around tracers and avals, which are no arrays
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TokenBlock:
    """The batches of the n steps from a multiple of n on: `tokens` (n, b, t + 1), unsigned."""

    tokens: jax.Array

    def batch(self, key: jax.Array, step: jax.Array | int) -> Batch:
        """Inputs and targets (b, t). The key has been used: it decided what the block holds."""
        return next_token(
            jax.lax.dynamic_index_in_dim(self.tokens, step % len(self.tokens), keepdims=False)
        )


@no_type_check
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TokenData(Windows):
    """Tokens for next-token prediction: `held_out` (windows, t + 1) on the device, the rest not."""

    held_out: jax.Array
    train: Tokens = dataclasses.field(metadata={"static": True})
    batch_size: int = dataclasses.field(metadata={"static": True})
    facts: Facts = dataclasses.field(metadata={"static": True})

    axes: ClassVar[Sequence[str]] = ("b t",)

    @property
    def num_classes(self) -> int:
        return self.train.vocab_size

    def block_steps(self, most: int) -> int:
        """The largest divisor of ``most`` whose batches are within 32 MiB; 1 if none is."""
        size = math.prod(self.like(1).tokens.shape) * np.dtype(self.train.dtype).itemsize
        return max(n for n in range(1, most + 1) if most % n == 0 and n <= max(1, _BLOCK // size))

    def like(self, steps: int) -> TokenBlock:
        shape = steps, self.batch_size, self.context + 1
        tokens: Any = jax.ShapeDtypeStruct(shape, self.train.dtype)
        return TokenBlock(tokens)

    def blocks(self, key: jax.Array, steps: range, like: Any) -> Iterator[TokenBlock]:
        """A block from each of ``steps`` on, spread out as ``like`` is; this process reads only
        the rows of its own devices."""
        import grain  # here, because resident data need none

        n, batch_size, length = shape = like.tokens.shape
        place = like.tokens.sharding
        rows = range(batch_size) if place is None else rows_here(place, shape)
        windows = grain.MapDataset.range(slots(len(self.train), self.context))
        order: Any = windows.shuffle(seed=int(jax.random.bits(key))).repeat()

        def read(first: int) -> np.ndarray:
            places = [step * batch_size + row for step in range(first, first + n) for row in rows]
            starts = [int(order[i]) * self.context for i in places]
            return self.train.windows(starts, length).reshape(n, len(rows), length)

        ahead = grain.ReadOptions(num_threads=_READERS, prefetch_buffer_size=_READERS)
        host = grain.MapDataset.range(steps.start, steps.stop, steps.step).map(read)
        with closing(iter(host.to_iter_dataset(ahead))) as read_ahead:
            for block in read_ahead:
                yield TokenBlock(placed(block, rows, shape, place))


def rows_here(place: jax.sharding.Sharding, shape: tuple[int, ...]) -> Sequence[int]:
    """The rows of an array (n, b, t + 1) that the devices of this process hold."""
    return rows_of(place.addressable_devices_indices_map(shape).values(), shape[1])


def rows_of(parts: Iterable[Any], batch_size: int) -> Sequence[int]:
    """The rows of the parts of an array (n, b, t + 1) that some devices hold, each but once.

    >>> rows_of([(slice(None), slice(2, 4)), (slice(None), slice(0, 2))], 8)
    [0, 1, 2, 3]
    """
    return sorted({row for part in parts for row in range(batch_size)[part[1]]})


def placed(block: np.ndarray, rows: Sequence[int], shape: tuple[int, ...], place: Any) -> jax.Array:
    """The array of all processes, of which this one has read ``rows`` into ``block``."""
    if place is None:
        return jnp.asarray(block)
    at = {row: i for i, row in enumerate(rows)}

    def part(index: Any) -> np.ndarray:
        return block[:, [at[row] for row in range(shape[1])[index[1]]]]

    return jax.make_array_from_callback(shape, place, part)
