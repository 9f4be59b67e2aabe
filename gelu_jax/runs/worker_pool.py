"""The lead of a comparison's workers (`worker` says how they work): it has them do the runs."""

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

from gelu_jax.compare.records import Run
from gelu_jax.files import write_file
from gelu_jax.runs.directory import workers_at
from gelu_jax.runs.launchers import Jobs, Launch, jobs
from gelu_jax.runs.perform import Task, Watch, folder, last_point, read_run, until
from gelu_jax.runs.worker import POLL_SECONDS
from gelu_jax.training.trainer import Trainer

_GRACE = 20.0  # seconds that workers have to stop by themselves


class WorkerPool:
    """The workers of a comparison, as its lead has them do the runs; hand it to `compare`.

    ``watch`` is called as by `perform`, from what the workers write. Use it as a context, which the
    workers do not outlive but for the training up to their next evaluation.
    """

    def __init__(
        self, launch: Launch, directory: Path, trainers: Mapping[str, Trainer], watch: Watch
    ):
        self.launch, self.trainers, self.watch = launch, trainers, watch
        self.directory = directory.resolve()
        self.folder = self.directory / "workers"
        self._lead = FileLock(self.folder / "lead.lock")
        self._jobs: Jobs | None = None
        self._told = 0  # workers that have ended and been reported
        self._what: dict[str, Any] = {}

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._lead.release()
        _wait_while(lambda: bool(workers_at(self.directory)), _GRACE)
        if (jobs := self._jobs) is not None:
            jobs.stop()
            _wait_while(lambda: len(jobs.ended()) < self.launch.workers, _GRACE / 4)
        if kind is None:  # else somebody may want to read what they said
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def environment(self) -> dict[str, str]:
        """That of the first worker, and how many there were."""
        return self._what["environment"] | {
            "runs": f"by {self.launch.workers} workers ({self.launch.kind})"
        }

    def perform(self, tasks: Sequence[Task]) -> list[Run]:
        """The records of some tasks, once workers have done them.

        Raises ChildProcessError when no worker is left.
        """
        self._start()
        homes = {
            task: folder(self.trainers[task.arm], task, self.directory, self._what["code"])
            for task in tasks
        }
        seen = {task: _Record(home / "run.json") for task, home in homes.items()}
        for task, record in seen.items():
            if record.changed() and record.run is not None:
                self.watch(task, record.run)
        self._want(homes)
        while not all(record.ended for record in seen.values()):
            time.sleep(POLL_SECONDS)
            self._check_workers()
            for task, record in seen.items():
                self._follow(task, record)
        return [record.run for record in seen.values() if record.run is not None]

    def _start(self) -> None:
        """Starts the workers, once, and learns what they are."""
        if self._jobs is not None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lead.acquire()
        self._jobs = jobs(self.launch, self.folder)
        for number in range(self.launch.workers):
            self._jobs.start(self.directory, number)
        while not (said := sorted(self.folder.glob("worker-*.json"))):
            time.sleep(POLL_SECONDS)
            self._check_workers()
        self._what = json.loads(said[0].read_bytes())

    def _want(self, homes: Mapping[Task, Path]) -> None:
        runs = self.directory / "runs"
        tasks = {home.relative_to(runs).as_posix(): vars(task) for task, home in homes.items()}
        write_file(self.folder / "tasks.json", json.dumps(tasks))

    def _follow(self, task: Task, record: "_Record") -> None:
        """Calls `watch` with what is new; at the last evaluation once the run is closed as well."""
        known = record.run
        if record.changed() and record.run is not None:
            if known is None:
                self.watch(task, until(record.run, -1))
            if record.ended or not _is_last(record.run, self.trainers[task.arm].config.steps):
                self.watch(task, record.run)

    def _check_workers(self) -> None:
        assert self._jobs is not None
        ended = self._jobs.ended()
        for words in ended[self._told :]:
            warnings.warn(f"a worker ended: {words}", stacklevel=2)
        self._told = len(ended)
        if len(ended) == self.launch.workers:
            reason = "no worker is left; the same command goes on from here"
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
        """Whether there is something new to read, which then has been read."""
        with suppress(FileNotFoundError):
            written = self.path.stat().st_mtime_ns
            if written != self.written:
                self.written, self.run = written, read_run(self.path)
                return True
        return False


def _is_last(run: Run, steps: int) -> bool:
    point = last_point(run)
    return point is not None and (point.diverged or point.step == steps)
