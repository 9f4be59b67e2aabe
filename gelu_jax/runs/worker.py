"""Workers of a comparison: processes, here or on other machines, that train its runs.

The process that compares, the lead, says which runs are wanted; workers share nothing with it and
with each other but the directory:

    <directory>/workers/lead.lock       held by the lead; as soon as it is free, workers stop
    <directory>/workers/tasks.json      what is wanted: tasks, and the folders of their runs
    <directory>/workers/worker-*.lock   held by a worker as long as it lives
    <directory>/workers/worker-*.json   the versions and the device it trains with
    <run>/.claim                        held by the worker that does the run

The locks are the operating system's: they vanish with their holder, however it ends, and what a
killed worker had claimed another takes up at its last checkpoint. Between machines that takes a
shared file system which keeps such locks, NFSv4 or Lustre mounted with flock, say.
"""

import json
import os
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
from filelock import FileLock, Timeout

from gelu_jax.compare.experiment import CompareConfig, environment, prepare
from gelu_jax.compare.records import Run
from gelu_jax.files import write_file
from gelu_jax.runs.directory import is_free
from gelu_jax.runs.perform import Task, code, folder, perform
from gelu_jax.training.config import read_config
from gelu_jax.training.trainer import Trainer

POLL_SECONDS = 0.25
"""Seconds between two looks at the directory."""


class Worker:
    """What a launcher runs; submitit queues it again when a cluster ends it before its time."""

    def __call__(self, directory: Path) -> None:
        if _led(directory):
            with suppress(KeyboardInterrupt), _present(directory):
                _work(directory)

    def checkpoint(self, directory: Path) -> Any:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, directory)


def begin(directory: Path) -> None:
    """A worker as a function, which is what Ray takes."""
    Worker()(directory)


def _led(directory: Path) -> bool:
    lead = directory / "workers" / "lead.lock"
    return lead.exists() and not is_free(lead)


@contextmanager
def _present(directory: Path) -> Generator[None]:
    """Says what this worker is, and that it lives."""
    me = directory / "workers" / f"worker-{socket.gethostname()}-{os.getpid()}.json"
    with FileLock(me.with_suffix(".lock")):
        what = {"code": code(), "environment": environment(), "pid": os.getpid()}
        write_file(me, json.dumps(what))
        yield


def _work(directory: Path) -> None:
    """Does what is wanted and neither done nor claimed, until there is no lead."""
    _share_programs(directory)
    trainers = prepare(read_config(directory / "config.yaml", CompareConfig))
    done = set[Task]()
    while _led(directory):
        for task, home in _wanted(directory).items():
            if task not in done and _attempt(trainers[task.arm], task, directory, home):
                done.add(task)
        time.sleep(POLL_SECONDS)


def _share_programs(directory: Path) -> None:
    """What one worker has compiled, the others of its machine read (machines differ in CPUs)."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = directory / "workers" / "compiled" / socket.gethostname()
        jax.config.update("jax_compilation_cache_dir", str(cache))


def _attempt(trainer: Trainer, task: Task, directory: Path, home: Path) -> bool:
    """Does a run unless another worker is at it; whether it is done."""
    if folder(trainer, task, directory) != home:
        raise SystemExit(f"{home}: another version of gelu_jax or jax, or another kind of device")

    def watch(task: Task, run: Run) -> None:
        if not _led(directory):
            raise KeyboardInterrupt

    try:
        with FileLock(home / ".claim", timeout=0):
            for half in home.glob(".*.*"):  # what a killed worker was writing
                half.unlink()
            perform(trainer, task, directory, watch)
    except Timeout:
        return False
    return True


def _wanted(directory: Path) -> dict[Task, Path]:
    try:
        tasks = json.loads((directory / "workers" / "tasks.json").read_bytes())
    except FileNotFoundError:  # the lead has not said yet
        return {}
    return {Task(**task): directory / "runs" / home for home, task in tasks.items()}
