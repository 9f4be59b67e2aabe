"""What every dataset offers, and what the sources share.

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

import glob
import hashlib
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax

from gelu_jax.errors import ConfigError, Problem, nearest

Batch: TypeAlias = tuple[jax.Array, jax.Array]


@dataclass(frozen=True)
class Facts:
    """What a dataset was read from; in bytes of text or in images; ``unit`` is a loss's."""

    description: str
    unit: str
    hash: str
    train_size: int
    validation_size: int


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


def no_such_file(path: str) -> str:
    if glob.has_magic(path):
        return "no such file"
    folder, name = os.path.split(path)
    neighbours = filter(os.path.exists, glob.glob(os.path.join(folder, "*")))
    hint = nearest(name, map(os.path.basename, neighbours))
    return f"no such file; {hint}" if hint.startswith("did you mean") else "no such file"
