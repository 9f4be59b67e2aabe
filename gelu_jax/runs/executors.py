"""Executors: what does the runs that a training or a comparison asks for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gelu_jax.runs.environment import environment
from gelu_jax.runs.execution import Callback, Task, execute
from gelu_jax.runs.record import Run
from gelu_jax.training.trainer import Trainer


class Executor(Protocol):
    """Does runs, here or elsewhere."""

    def execute(self, tasks: Sequence[Task]) -> list[Run]:
        """Does some runs; what has been done already is only read.

        Args:
          tasks: what to train.

        Returns:
          Their records, in the order of the tasks.
        """
        ...

    @property
    def environment(self) -> dict[str, str]:
        """Where the runs are done, and how: part of every result."""
        ...


@dataclass(frozen=True)
class SerialExecutor:
    """Does one run after another in this process.

    Attributes:
      trainers: the trainer of each arm.
      directory: of the whole training or comparison.
      callback: called with each task and its record, as by `execute`.
    """

    trainers: Mapping[str, Trainer]
    directory: Path
    callback: Callback

    def execute(self, tasks: Sequence[Task]) -> list[Run]:
        """Does some runs; what has been done already is only read.

        Args:
          tasks: what to train.

        Returns:
          Their records, in the order of the tasks.

        Raises:
          OSError: the disk is full or not writable.
        """
        return [execute(self.trainers[t.arm], t, self.directory, self.callback) for t in tasks]

    @property
    def environment(self) -> dict[str, str]:
        """This process and its device."""
        return environment() | {"runs": "one after another, in one process"}
