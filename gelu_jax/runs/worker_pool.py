"""A pool of workers that do runs, seen from the process that leads them (see `worker`)."""

import errno
import json
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from gelu_jax import signals
from gelu_jax.files import write_file
from gelu_jax.runs.directory import live_workers
from gelu_jax.runs.execution import Callback, Task, folder
from gelu_jax.runs.launchers import Jobs, Launch, jobs
from gelu_jax.runs.record import Run, read_run
from gelu_jax.runs.worker import POLL_SECONDS
from gelu_jax.training.config import write_config
from gelu_jax.training.trainer import Trainer

_GRACE = 20.0  # seconds that workers have to stop by themselves


class WorkerPool:
    """An `Executor` whose runs are done by workers, on this machine or on others.

    A context manager; when it ends, workers stop at their next evaluation.

    Args:
      launch: how many workers, and by which launcher.
      directory: of the comparison, on a file system that all workers see.
      trainers: the trainer of each arm.
      callback: called with each task and its record, as by `execute`, from what workers write.
    """

    def __init__(
        self, launch: Launch, directory: Path, trainers: Mapping[str, Trainer], callback: Callback
    ):
        self.launch, self.trainers, self.callback = launch, trainers, callback
        self.directory = directory.resolve()
        self.folder = self.directory / "workers"
        self._leader = FileLock(self.folder / "leader.lock")
        self._jobs: Jobs | None = None
        self._warned = 0  # workers whose end has been reported
        self._first_worker: dict[str, Any] = {}

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._leader.release()
        _wait_while(lambda: bool(live_workers(self.directory)), _GRACE)
        if (jobs := self._jobs) is not None:
            jobs.stop()
            _wait_while(lambda: len(jobs.ended()) < self.launch.workers, _GRACE / 4)
        if kind is None:  # otherwise what the workers printed may be of interest
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the first worker, and how many there were."""
        workers = f"by {self.launch.workers} workers ({self.launch.kind})"
        return self._first_worker["environment"] | {"runs": workers}

    def execute(self, tasks: Sequence[Task]) -> list[Run]:
        """Has the workers do some runs, and waits for them.

        Args:
          tasks: what to train.

        Returns:
          Their records, in the order of the tasks.

        Raises:
          ChildProcessError: no worker is left.
        """
        self._start()
        trained_by = self._first_worker["versions"]
        homes = {
            task: folder(self.trainers[task.arm], task, self.directory, trained_by)
            for task in tasks
        }
        records = {task: _Record(home / "run.json") for task, home in homes.items()}
        for task, record in records.items():
            if record.changed() and record.run is not None:
                self.callback(task, record.run)
        self._request(homes)
        while not all(record.ended for record in records.values()):
            time.sleep(POLL_SECONDS)
            signals.check()
            self._check_workers()
            for task, record in records.items():
                self._follow(task, record)
        return [record.run for record in records.values() if record.run is not None]

    def _start(self) -> None:
        """Starts the workers, once, and waits until one of them has said what it is."""
        if self._jobs is not None:
            return
        for arm, trainer in self.trainers.items():
            write_config(trainer.config, self.folder / "arms" / f"{arm}.yaml")
        self._leader.acquire()
        self._jobs = jobs(self.launch, self.folder)
        for number in range(self.launch.workers):
            self._jobs.start(self.directory, number)
        while not (workers := sorted(self.folder.glob("worker-*.json"))):
            time.sleep(POLL_SECONDS)
            signals.check()
            self._check_workers()
        self._first_worker = json.loads(workers[0].read_bytes())

    def _request(self, homes: Mapping[Task, Path]) -> None:
        runs = self.directory / "runs"
        tasks = {home.relative_to(runs).as_posix(): vars(task) for task, home in homes.items()}
        write_file(self.folder / "tasks.json", json.dumps(tasks))

    def _follow(self, task: Task, record: "_Record") -> None:
        """Calls back with what is new; at the last evaluation not before the run is closed."""
        known = record.run
        if record.changed() and record.run is not None:
            if known is None:
                self.callback(task, record.run.until(-1))
            if record.ended or not _is_last(record.run, self.trainers[task.arm].config.steps):
                self.callback(task, record.run)

    def _check_workers(self) -> None:
        assert self._jobs is not None
        ended = self._jobs.ended()
        for words in ended[self._warned :]:
            warnings.warn(f"a worker ended: {words}", stacklevel=2)
        self._warned = len(ended)
        if len(ended) == self.launch.workers:
            reason = "no worker is left; rerun the same command to resume"
            raise ChildProcessError(errno.ECHILD, reason, str(self.folder))


def _wait_while(busy: Callable[[], bool], seconds: float) -> None:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit and busy():
        time.sleep(POLL_SECONDS)


@dataclass
class _Record:
    """A run's record on disk, read again when it has been written again."""

    path: Path
    run: Run | None = None
    written: int = 0

    @property
    def ended(self) -> bool:
        return self.run is not None and self.run.status != "interrupted"

    def changed(self) -> bool:
        """Reads the record if it has been written since the last look; whether it had."""
        with suppress(FileNotFoundError):
            written = self.path.stat().st_mtime_ns
            if written != self.written:
                self.written, self.run = written, read_run(self.path)
                return True
        return False


def _is_last(run: Run, steps: int) -> bool:
    point = run.last_point
    return point is not None and (point.diverged or point.step == steps)
