"""Data of a person's own: arrays, or batches from anything that can be iterated."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, cast, no_type_check

import jax
import jax.numpy as jnp
import numpy as np

from gelu_jax.errors import ConfigError, Problem
from gelu_jax.training.data.dataset import DatasetInfo, Resident, content_hash
from gelu_jax.training.data.images import shuffled
from gelu_jax.training.python import Python, blamed, refuse, taken

_FIELD = "data.factory"


@dataclass(frozen=True, kw_only=True)
class PythonData(Python):
    """Data of the person's own, made by a factory.

    The factory returns a pair (training, validation). It is given ``batch_size`` where it has such
    a parameter. A batch is a pair (inputs, targets), each an array or a tree of arrays (dicts,
    tuples) whose first axis is the batch. Training data are

    - a tuple (inputs, targets) of arrays, which lie on the device and are shuffled in each epoch,
      by the seed;
    - or batches: a list, a grain dataset, a data loader, any iterable that can be iterated again;
    - or a function that returns batches. It is given ``seed``, the run's own, and ``step``, the
      first one that is wanted, where it has such parameters; without ``step``, a run that resumes
      goes through the batches before.

    When the batches end, they begin again. Validation data are such a tuple, or batches, which are
    all read.

    Attributes:
      unit: of the loss, for reports.

    >>> import numpy as np
    >>> half = np.ones((6, 4), np.float32), np.zeros(6, np.int32)
    >>> load_python(PythonData(factory=lambda: (half, half)), batch_size=2).info.description
    '6 examples to train on, 6 held out'
    """

    unit: str = "nats per target"


@no_type_check  # JAX rebuilds it around tracers and avals, which are not arrays
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ArrayData(Resident):
    """Arrays on the device.

    Attributes:
      train: inputs and targets.
      validation: inputs and targets.
      num_classes: one more than the largest target, where targets are integers; else 0.
      batch_size: examples in a step.
      info: what was read.
    """

    train: tuple[Any, Any]
    validation: tuple[Any, Any]
    num_classes: int = dataclasses.field(metadata={"static": True})
    batch_size: int = dataclasses.field(metadata={"static": True})
    info: DatasetInfo = dataclasses.field(metadata={"static": True})

    @property
    def tokens_per_step(self) -> int:
        """Targets in a batch."""
        return self.batch_size * _targets_each(self.validation)

    def batch(self, key: jax.Array, step: jax.Array | int) -> tuple[Any, Any]:
        """Draws a batch, as `ImageData` does.

        Args:
          key: draws the order of each epoch.
          step: of the run; may be traced.

        Returns:
          Inputs and targets.
        """
        n = len(jax.tree.leaves(self.train)[0])
        epoch, place = jnp.divmod(jnp.asarray(step), n // self.batch_size)
        index = place * self.batch_size + jnp.arange(self.batch_size)
        chosen = shuffled(jax.random.fold_in(key, epoch), index, n)
        return jax.tree.map(lambda x: x[chosen], self.train)


@no_type_check
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StackedBatches:
    """The batches of the n steps of a chunk, which begins at a multiple of n.

    Attributes:
      stacked: inputs and targets (n, b, ...).
    """

    stacked: tuple[Any, Any]

    def batch(self, key: jax.Array, step: jax.Array | int) -> tuple[Any, Any]:
        """Looks up a batch.

        Args:
          key: not used: it decided what was read.
          step: of the run, one of the chunk; may be traced.

        Returns:
          Inputs and targets (b, ...).
        """
        n = len(jax.tree.leaves(self.stacked)[0])
        return jax.tree.map(
            lambda x: jax.lax.dynamic_index_in_dim(x, step % n, 0, False), self.stacked
        )


class Source:
    """Where batches come from: anything that `PythonData` names.

    Args:
      made: what the factory returned for training.
      batch_size: examples in a step.
      name: of the factory, for errors.
    """

    def __init__(self, made: Any, batch_size: int, name: object):
        self.made, self.batch_size, self.name = made, batch_size, name
        self.abstract = None
        self.first = next(self.batches(0, 0))
        self.abstract = _abstract(self.first)

    def batches(self, seed: int, step: int) -> Iterator[Any]:
        """Reads batches without end.

        Args:
          seed: of the run.
          step: of the first batch.

        Yields:
          Trees of numpy arrays, all of the shapes and dtypes of the first.

        Raises:
          ConfigError: a batch has another shape, or there is none.
        """
        with blamed(_FIELD, self.name):
            for number, batch in enumerate(self._again(seed, step), start=step):
                arrays = _arrays(batch, self.name)
                if self.abstract is None or _abstract(arrays) != self.abstract:
                    self._check(arrays, number)
                yield arrays

    def _made(self, seed: int, step: int) -> tuple[Any, int]:
        """What is iterated, and how many batches of it come before the step."""
        if not callable(self.made):
            return self.made, step
        given = taken(self.made, seed=seed, step=step)
        return self.made(**given), 0 if "step" in given else step

    def _again(self, seed: int, step: int) -> Iterator[Any]:
        """The batches from a step on, epoch after epoch."""
        found, before = self._made(seed, step)
        if hasattr(found, "__getitem__") and hasattr(found, "__len__"):  # a list, or grain's own
            for place in count(before) if len(found) else ():
                yield found[place % len(found)]
        while (iterator := iter(found)) is not found or callable(self.made):
            batch = None
            for batch in iterator:
                if before:
                    before -= 1
                else:
                    step += 1
                    yield batch
            if batch is None:
                raise refuse(_FIELD, "gives no batch to train on", self.name)
            found = self._made(seed, step)[0]
        reason = "training data is an iterator, which can be read only once; return a list, another"
        raise refuse(_FIELD, f"{reason} iterable, or a function that makes it", self.name)

    def _check(self, arrays: Any, number: int) -> None:
        sizes = {len(leaf) if leaf.ndim else 0 for leaf in jax.tree.leaves(arrays)}
        if sizes != {self.batch_size}:
            reason = f"batch {number} has {_listed(sizes)} examples, batch_size is"
            raise refuse(_FIELD, f"{reason} {self.batch_size}", self.name)
        if self.abstract is not None:
            found = f"batch {number} is {_shapes(arrays)}, the first {_shapes(self.first)}"
            raise refuse(_FIELD, found, self.name)


@no_type_check
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class IterableData:
    """Batches that are read as the run goes on.

    Attributes:
      validation: inputs and targets, on the device.
      source: of the batches.
      num_classes: one more than the largest target that is held out, where targets are integers.
      batch_size: examples in a step.
      info: what is read.
    """

    validation: tuple[Any, Any]
    source: Source = dataclasses.field(metadata={"static": True})
    num_classes: int = dataclasses.field(metadata={"static": True})
    batch_size: int = dataclasses.field(metadata={"static": True})
    info: DatasetInfo = dataclasses.field(metadata={"static": True})

    @property
    def axes(self) -> Sequence[str]:
        """The batch is split; all else is not."""
        leaves = jax.tree.leaves(self.source.abstract)
        return [" ".join(["b", *["-"] * (len(leaf.shape) - 1)]) for leaf in leaves]

    @property
    def tokens_per_step(self) -> int:
        """Targets in a batch."""
        return self.batch_size * _targets_each(self.validation)

    def chunk_steps(self, most: int) -> int:
        """Chooses the steps of a chunk: as many as have batches of 32 MiB in all, or one.

        Args:
          most: steps between evaluations.

        Returns:
          A divisor of `most`.
        """
        leaves = jax.tree.leaves(self.source.abstract)
        size = sum(np.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)
        limit = int(_CHUNK_BYTES // max(1, size))
        return next((n for n in range(min(most, limit), 1, -1) if most % n == 0), 1)

    def abstract_batches(self, steps: int) -> StackedBatches:
        """Shapes and dtypes of the batches of a chunk.

        Args:
          steps: of the chunk.

        Returns:
          Batches without values.
        """

        def stacked(leaf: Any) -> jax.ShapeDtypeStruct:
            dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
            return jax.ShapeDtypeStruct((steps, *leaf.shape), dtype)

        return StackedBatches(jax.tree.map(stacked, self.source.abstract))

    def batches(self, key: jax.Array, steps: range, abstract: Any) -> Iterator[StackedBatches]:
        """Reads the batches of one chunk after the other, one chunk ahead.

        Args:
          key: the seed of the source.
          steps: the first step of each chunk.
          abstract: what `abstract_batches` returned, maybe with shardings.

        Yields:
          The batches of each chunk, sharded like `abstract`.
        """
        stream = self.source.batches(int(jax.random.bits(key)), steps.start)

        def read() -> Any:
            chunk = list(islice(stream, steps.step))
            return jax.tree.map(lambda *leaves: np.stack(leaves), *chunk)

        with ThreadPoolExecutor(1) as reader:
            ahead = reader.submit(read)
            for first in steps:
                chunk = ahead.result()
                if first + steps.step < steps.stop:
                    ahead = reader.submit(read)
                yield StackedBatches(jax.tree.map(_placed, chunk, abstract.stacked))


_CHUNK_BYTES = 32 * 2**20


def _placed(array: np.ndarray, abstract: Any) -> jax.Array:
    array = array.astype(abstract.dtype, copy=False)
    if abstract.sharding is None:
        return jnp.asarray(array)
    return jax.make_array_from_callback(array.shape, abstract.sharding, lambda index: array[index])


def load_python(config: PythonData, batch_size: int) -> ArrayData | IterableData:
    """Opens data of a person's own.

    Args:
      config: the source.
      batch_size: examples in a step.

    Returns:
      The dataset. Its hash covers all arrays; of batches to train on, the first.

    Raises:
      ConfigError: the factory failed, or made something else.
    """
    made, name = config.make("data", batch_size=batch_size), config.factory
    if not isinstance(made, tuple) or len(cast(tuple[Any, ...], made)) != 2:
        reason = f"must return a pair (training, validation), not {type(made).__name__}"
        raise refuse(_FIELD, reason, name)
    train, validation = cast(tuple[Any, Any], made)
    with blamed(_FIELD, name):
        held_out = _held_out(validation, name)
    size, classes = len(jax.tree.leaves(held_out)[0]), _num_classes(held_out)
    if not isinstance(train, tuple):
        source = Source(train, batch_size, name)
        info = _info(f"batches of {batch_size}, {size} examples held out", source.first, held_out)
        return IterableData(_on_device(held_out), source, classes, batch_size, info)
    arrays = _arrays(train, name)
    n = _examples(arrays, "training", name)
    if batch_size > n:
        reason = f"is more than the {n} examples to train on"
        raise ConfigError([Problem("batch_size", batch_size, reason)])
    info = _info(f"{n} examples to train on, {size} held out", arrays, held_out)
    classes = max(classes, _num_classes(arrays))
    return ArrayData(_on_device(arrays), _on_device(held_out), classes, batch_size, info)


def _held_out(made: Any, name: object) -> Any:
    if isinstance(made, tuple):
        arrays = _arrays(made, name)
    else:
        batches = [_arrays(batch, name) for batch in cast(Iterable[Any], made)]
        if not batches:
            raise refuse(_FIELD, "holds out no example", name)
        arrays = jax.tree.map(lambda *leaves: np.concatenate(leaves), *batches)
    _examples(arrays, "validation", name)
    return arrays


def _arrays(pair: Any, name: object) -> Any:
    """A batch as numpy arrays, in a pair."""
    if not isinstance(pair, tuple | list) or len(cast(list[Any], pair)) != 2:
        reason = f"a batch must be a pair (inputs, targets), not {type(pair).__name__}"
        raise refuse(_FIELD, f"{reason}; training and validation data are such pairs", name)
    arrays = jax.tree.map(np.asarray, tuple(cast(list[Any], pair)))
    for leaf in jax.tree.leaves(arrays):
        if leaf.dtype.kind not in "biuf" and leaf.dtype != jnp.bfloat16:
            reason = f"holds {leaf.dtype}; arrays must be of numbers or booleans"
            raise refuse(_FIELD, reason, name)
    return arrays


def _examples(arrays: Any, split: str, name: object) -> int:
    sizes = {len(leaf) if leaf.ndim else 0 for leaf in jax.tree.leaves(arrays)}
    if len(sizes) != 1 or 0 in sizes:
        reason = f"the arrays for {split} have {_listed(sizes)} examples; each needs as many"
        raise refuse(_FIELD, reason, name)
    return sizes.pop()


def _listed(sizes: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(sizes))) or "no"


def _info(description: str, train: Any, held_out: Any) -> DatasetInfo:
    leaves = jax.tree.leaves((train, held_out))
    parts = (part for a in leaves for part in (f"{a.dtype} {a.shape}".encode(), a.tobytes()))
    n, m = (len(jax.tree.leaves(split)[0]) for split in (train, held_out))
    return DatasetInfo(description, content_hash(parts), n, m)


def _num_classes(arrays: Any) -> int:
    targets = jax.tree.leaves(arrays[1])
    integer = len(targets) == 1 and targets[0].dtype.kind in "iu"
    return 1 + int(targets[0].max()) if integer else 0


def _targets_each(arrays: Any) -> int:
    return int(np.prod(jax.tree.leaves(arrays[1])[0].shape[1:]))


def _on_device(arrays: Any) -> Any:
    return jax.tree.map(jnp.asarray, arrays)


def _abstract(arrays: Any) -> Any:
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), arrays)


def _shapes(arrays: Any) -> str:
    return ", ".join(f"{a.dtype}{list(a.shape)}" for a in jax.tree.leaves(arrays))
