"""Experiment trackers behind extras: TensorBoard's event files, and Weights & Biases.

A tracker is called after each evaluation with a task and its record, and writes what is new in it.
It first sees a task with all that was recorded before, so that a resumed run is complete.
"""

import errno
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from gelu_jax.errors import Problem, check
from gelu_jax.runs.execution import Task, folder, resolved
from gelu_jax.runs.record import Run
from gelu_jax.training.config import to_dict
from gelu_jax.training.trainer import Trainer

Kind = Literal["tensorboard", "wandb"]

_PACKAGES: Mapping[Kind, str] = {"tensorboard": "tensorboardX", "wandb": "wandb"}


class Writer(Protocol):
    """Where the numbers of one run go."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the numbers of one step.

        Args:
          step: of the run.
          values: name → number.
        """
        ...

    def close(self) -> None:
        """Ends the run."""
        ...


class Tracker(AbstractContextManager["Tracker"]):
    """Writes one run after another, each through a writer of its own.

    Args:
      begin: makes the writer of a task.
    """

    def __init__(self, begin: Callable[[Task], Writer]):
        self._begin = begin
        self._task: Task | None = None
        self._writer: Writer | None = None
        self._written = 0
        self._lock = threading.Lock()  # a signal closes a tracker from a thread of its own
        self._stopped = False

    def update(self, task: Task, run: Run) -> None:
        """Writes the points of a record that have not been written yet.

        Args:
          task: the run.
          run: its record so far.
        """
        with self._lock:
            if not self._stopped:
                self._write(task, run)

    def _write(self, task: Task, run: Run) -> None:
        if task != self._task:
            self._close()
            self._task, self._writer, self._written = task, self._begin(task), 0
        assert self._writer is not None
        for point in run.points()[self._written :]:
            self._writer.write(point["step"], dict(scalars(point)))
            self._written += 1

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._task = self._writer = None

    def stop(self, _: int) -> str:
        """Ends the run that is being written, when a signal ends the process."""
        with self._lock:
            self._stopped = True
            self._close()
        return ""

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._close()


def trackers(
    kinds: Sequence[Kind], directory: Path, trainers: Mapping[str, Trainer]
) -> tuple[Tracker, ...]:
    """A tracker of each kind for the runs of a training or comparison; nothing is written yet.

    Args:
      kinds: of trackers.
      directory: of the training or comparison.
      trainers: the trainer of each arm.

    Returns:
      The trackers, to be used as contexts.

    Raises:
      ConfigError: the package of a tracker is not installed, or nobody is logged in to it.
    """
    check(
        Problem("log", kind, f"needs {package}: pip install 'gelu-jax[{kind}]'")
        for kind, package in _PACKAGES.items()
        if kind in kinds and find_spec(package) is None
    )
    check(_login_problems() if "wandb" in kinds else [])

    def begin(kind: Kind, task: Task) -> Writer:
        trainer = trainers[task.arm]
        home = folder(trainer, task, directory).relative_to(directory / "runs")
        if kind == "tensorboard":
            return EventFiles(directory / "tensorboard" / home)
        return Wandb(directory, home, to_dict(resolved(trainer, task)))

    return tuple(
        Tracker(lambda task, kind=kind: begin(kind, task)) for kind in _PACKAGES if kind in kinds
    )


def _login_problems() -> Iterator[Problem]:
    """Asked before anything is written; in a terminal, wandb asks for a key."""
    import wandb

    if os.environ.get("WANDB_MODE", "online") != "online":
        return
    try:
        wandb.login(verify=False)
    except wandb.Error as error:
        reason = str(error).partition("\n")[0]
        yield Problem("log", "wandb", f"{reason} Or set WANDB_MODE=offline.")


def scalars(point: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of a point by the names that trackers show; each layer has its own.

    Args:
      point: one of `Run.points`.

    Yields:
      Name and number.

    >>> dict(scalars({"step": 5, "train_loss": 1.5, "largest |h|": (2.0, 3.0)}))
    {'train_loss': 1.5, 'largest_h/layer_1': 2.0, 'largest_h/layer_2': 3.0}
    """
    for name, value in point.items():
        plain = re.sub(r"\W+", "_", name).strip("_")
        if isinstance(value, tuple):
            layers = enumerate(cast(tuple[float, ...], value), start=1)
            yield from ((f"{plain}/layer_{number}", layer) for number, layer in layers)
        elif name != "step":
            yield plain, value


class EventFiles:
    """TensorBoard's event files of one run: ``tensorboard --logdir <directory>/tensorboard``.

    Args:
      folder: of the event files; older ones are replaced.
    """

    def __init__(self, folder: Path):
        from tensorboardX import SummaryWriter

        shutil.rmtree(folder, ignore_errors=True)  # all of it is in the record, and written again
        self._writer: Any = SummaryWriter(str(folder))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the numbers of one step.

        Args:
          step: of the run.
          values: name → number.
        """
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Ends the run."""
        self._writer.close()


class Wandb:
    """One run at Weights & Biases, in the group of its comparison.

    A resumed run has the same id; the server skips the steps that it knows. ``WANDB_MODE=offline``
    keeps everything on this machine.

    Args:
      directory: of the training or comparison.
      home: of the run, below the directory.
      config: of the run, as plain data.

    Raises:
      ConnectionError: wandb does not answer, or refuses.
    """

    def __init__(self, directory: Path, home: Path, config: Mapping[str, Any]):
        import wandb

        try:
            self._run: Any = wandb.init(
                project="gelu_jax",
                group=directory.name,
                name=home.as_posix(),
                id=home.as_posix().replace("/", "-"),
                resume="allow",
                reinit="finish_previous",
                dir=directory,
                config=dict(config),
                settings=wandb.Settings(silent=True, console="off"),
            )
        except wandb.Error as error:
            raise ConnectionError(errno.EIO, str(error).partition("\n")[0], "wandb") from error

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the numbers of one step.

        Args:
          step: of the run.
          values: name → number.
        """
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()
