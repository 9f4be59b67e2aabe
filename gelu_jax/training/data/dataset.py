"""What every dataset offers, and what the sources share.

A source is a frozen config (`StdlibCorpus`, `Files`, `TokenFiles`, `HuggingFace`, `Digits`,
`Mnist`); `load_data` opens it as a dataset. What a few steps of training read is a block, a pytree
of arrays that their program takes as an argument. All datasets offer

    dataset.blocks(key, steps, like) -> blocks      from each of a range of steps on
    dataset.like(steps)      what a block of so many steps looks like
    dataset.axes             the axes of each of a block's arrays, "" where it is whole everywhere
    dataset.block_steps(n)   the steps of a block; they divide n
    block.batch(key, step)   -> (inputs, targets)   jittable; a pure function of (key, step)
    dataset.validation       -> (inputs, targets)   the same held-out examples for every run
    dataset.num_classes      the number of values a target can take
    dataset.tokens_per_step  predictions in one batch
    dataset.facts            what was read: hash, sizes, description

so that a loop need not know which it trains on:

| | inputs | targets |
|---|---|---|
| bytes, tokens | (b, t) int32 | (b, t) int32, the next one at each place |
| images | (b, height, width, 1) float32 in [0, 1] | (b,) int32, the label |

Bytes and images are small: the dataset lies on the device, and is itself the one block of all
steps (`Resident`). Tokens stay on disk, and a block holds the batches of its steps.

Two runs are comparable when `facts.hash` is equal: it covers the bytes of both splits.
"""

import hashlib
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import repeat
from typing import Any, Self, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from gelu_jax.errors import ConfigError, Problem

Batch: TypeAlias = tuple[jax.Array, jax.Array]


@dataclass(frozen=True)
class Facts:
    """What a dataset was read from; sizes in bytes of text, in tokens or in images."""

    description: str
    hash: str
    train_size: int
    validation_size: int


class Resident:
    """A dataset that lies on the device: what any steps read is the dataset itself."""

    @property
    def axes(self) -> Sequence[str]:
        return [""] * len(jax.tree.leaves(self))

    def block_steps(self, most: int) -> int:
        return most

    def like(self, steps: int) -> Self:
        return self

    def blocks(self, key: jax.Array, steps: range, like: Any) -> Iterator[Self]:
        return repeat(self)


def next_token(windows: jax.Array) -> Batch:
    """Windows (..., t + 1) of any integers as inputs and targets (..., t) int32."""
    windows = windows.astype(jnp.int32)
    return windows[..., :-1], windows[..., 1:]


class Windows:
    """What follows from the held-out windows (n, t + 1) of a language model's data."""

    held_out: jax.Array
    batch_size: int

    @property
    def context(self) -> int:
        return self.held_out.shape[1] - 1

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.context

    @property
    def validation(self) -> Batch:
        """Inputs and targets (windows, t)."""
        return next_token(self.held_out)


def slots(size: int, context: int) -> int:
    """How many windows of context + 1 a row of this size has, if no target is in two of them."""
    return (size - 1) // context


def even_starts(size: int, context: int, count: int) -> np.ndarray:
    """Where so many of those windows begin, or all of them, spread evenly."""
    every = slots(size, context)
    count = min(count, every)
    return np.arange(count) * every // count * context


def at_least_one(config: Any, *names: str) -> Iterator[Problem]:
    for name in names:
        if getattr(config, name) < 1:
            yield Problem(name, getattr(config, name), "must be at least 1")


def between_0_and_1(config: Any) -> Iterator[Problem]:
    fraction = config.validation_fraction
    if not 0 < fraction < 1:
        yield Problem("validation_fraction", fraction, "must lie between 0 and 1")


def wrong(field: str, value: object, reason: str) -> ConfigError:
    return ConfigError([Problem(f"data.{field}", value, reason)])


def content_hash(parts: Iterable[bytes]) -> str:
    """SHA-256 of the parts and of where each ends."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(struct.pack("<Q", len(part)))
        digest.update(part)
    return digest.hexdigest()


def require(package: str, kind: str) -> None:
    if find_spec(package) is None:
        raise wrong("kind", kind, f"needs {package}: pip install 'gelu-jax[data]'")
