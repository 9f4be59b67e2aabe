"""Workers: processes, here or on other machines, that do the runs which a `WorkerPool` asks for.

Workers share nothing with the pool and with each other but the directory:

    <directory>/workers/leader.lock     held by the pool; once it is free, workers stop
    <directory>/workers/arms/*.yaml     the TrainConfig of each arm
    <directory>/workers/tasks.json      the tasks asked for, and the folders of their runs
    <directory>/workers/worker-*.lock   held by a worker as long as it is alive
    <directory>/workers/worker-*.json   the versions and the device it trains with
    <run>/.claim                        held by the worker that does the run

The locks are the operating system's. They vanish with their holder, however it ends, and another
worker resumes what a killed one had claimed from its last checkpoint. Between machines that takes
a shared file system that supports such locks: NFSv4, say, or Lustre mounted with flock.
"""

import json
import os
import socket
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
from filelock import FileLock, Timeout

from gelu_jax.files import write_file
from gelu_jax.runs.directory import is_free
from gelu_jax.runs.environment import environment
from gelu_jax.runs.execution import Task, execute, folder
from gelu_jax.runs.identity import versions
from gelu_jax.runs.record import Run
from gelu_jax.training.config import read_config
from gelu_jax.training.data import load_data
from gelu_jax.training.trainer import TrainConfig, Trainer

POLL_SECONDS = 0.25
"""Seconds between two looks at the directory."""


class Worker:
    """What submitit runs, and queues again when a cluster ends it before its time."""

    def __call__(self, directory: Path) -> None:
        """Does runs until the pool is gone.

        Args:
          directory: of the comparison.
        """
        if _is_led(directory):
            with suppress(KeyboardInterrupt), _announced(directory):
                _work(directory)

    def checkpoint(self, directory: Path) -> Any:
        """What submitit is to submit when the cluster preempts this worker.

        Args:
          directory: of the comparison.

        Returns:
          A submission of the same worker.
        """
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, directory)


def work(directory: Path) -> None:
    """A worker as a function, as Ray wants it.

    Args:
      directory: of the comparison.
    """
    Worker()(directory)


def _is_led(directory: Path) -> bool:
    leader = directory / "workers" / "leader.lock"
    return leader.exists() and not is_free(leader)


@contextmanager
def _announced(directory: Path) -> Generator[None]:
    """Says what this worker is, and that it is alive."""
    path = directory / "workers" / f"worker-{socket.gethostname()}-{os.getpid()}.json"
    with FileLock(path.with_suffix(".lock")):
        about = {"versions": versions(), "environment": environment(), "pid": os.getpid()}
        write_file(path, json.dumps(about))
        yield


def _work(directory: Path) -> None:
    """Does what is asked for and neither done nor claimed, until the pool is gone."""
    _share_compiled_programs(directory)
    trainers = _trainers(directory)
    done = set[Task]()
    while _is_led(directory):
        for task, home in _requested(directory).items():
            if task not in done and _attempt(trainers[task.arm], task, directory, home):
                done.add(task)
        time.sleep(POLL_SECONDS)


def _share_compiled_programs(directory: Path) -> None:
    """What one worker has compiled, the others on its machine read (machines differ in CPUs)."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = directory / "workers" / "compiled" / socket.gethostname()
        jax.config.update("jax_compilation_cache_dir", str(cache))


def _trainers(directory: Path) -> Mapping[str, Trainer]:
    paths = sorted((directory / "workers" / "arms").glob("*.yaml"))
    arms = {path.stem: read_config(path, TrainConfig) for path in paths}
    first = next(iter(arms.values()))
    data = load_data(first.data, first.batch_size)  # the same for all arms
    return {name: Trainer(config, data) for name, config in arms.items()}


def _attempt(trainer: Trainer, task: Task, directory: Path, home: Path) -> bool:
    """Does a run unless another worker is doing it; whether it is done."""
    if folder(trainer, task, directory) != home:
        raise SystemExit(f"{home}: this worker has another gelu_jax, jax, or kind of device")

    def callback(task: Task, run: Run) -> None:
        if not _is_led(directory):
            raise KeyboardInterrupt

    try:
        with FileLock(home / ".claim", timeout=0):
            for draft in home.glob(".*.*"):  # what a killed worker was writing
                draft.unlink()
            execute(trainer, task, directory, callback)
    except Timeout:
        return False
    return True


def _requested(directory: Path) -> dict[Task, Path]:
    try:
        tasks = json.loads((directory / "workers" / "tasks.json").read_bytes())
    except FileNotFoundError:  # the pool has not asked yet
        return {}
    return {Task(**task): directory / "runs" / home for home, task in tasks.items()}
