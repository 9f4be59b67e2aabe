"""The directory of a comparison: one process at a time, and nothing finished is overwritten."""

import errno
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from gelu_jax.compare.experiment import CompareConfig
from gelu_jax.errors import ConfigError, Problem
from gelu_jax.training.config import read_config, to_dict

# All that a comparison writes, in the order of deleting it: without its config it is unknown
_RUNS = ("runs/*/tuning-lr*-seed*", "runs/*/report-lr*-seed*")
_FILES = ("results.json", "results.csv", "report.html", "curves.png", "curves.svg", "config.yaml")
_TRACKED = ("tensorboard", "wandb")
_HALVES = tuple(f".{name}.*" for name in _FILES)  # what a killed process leaves
_PATIENCE = 60.0  # seconds
_NO_FAULT_OF_THE_USER = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


@contextmanager
def locked(directory: Path) -> Generator[None]:
    """Keeps a second process out; leaves nothing behind where no comparison has begun.

    Raises ConfigError where another process is at work, or its workers still are, or where the
    directory cannot be made.
    """
    new = [path for path in (directory, *directory.parents) if not path.exists()]
    lock = FileLock(directory / ".lock", timeout=0)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise _refused(directory, "another process is at work there") from None
    except OSError as error:
        if error.errno in _NO_FAULT_OF_THE_USER:
            raise
        raise _refused(directory, (error.strerror or str(error)).lower()) from None
    try:
        _wait_for_workers(directory)
        yield
    finally:
        if not (directory / "config.yaml").exists():
            _remove(directory, ".lock", *_HALVES)
            with suppress(OSError):  # not empty, or a process that came in between works there
                for path in new:
                    path.rmdir()
        lock.release()


def is_free(lock: Path) -> bool:
    """Whether no process holds a lock that exists."""
    try:
        with FileLock(lock, timeout=0):
            return True
    except Timeout:
        return False


def workers_at(directory: Path) -> list[Path]:
    """The locks of the workers (`gelu_jax.runs.worker`) that live."""
    return [lock for lock in directory.glob("workers/worker-*.lock") if not is_free(lock)]


def _wait_for_workers(directory: Path) -> None:
    """Until those of a process that was killed have stopped: nobody leads them any more."""
    limit = time.monotonic() + _PATIENCE
    while workers_at(directory):
        if time.monotonic() > limit:
            reason = "workers of an earlier command still stop there, each at its next evaluation"
            raise _refused(directory, reason)
        time.sleep(0.1)


def claim(directory: Path, config: CompareConfig, *, overwrite: bool) -> None:
    """Makes sure that the directory is free for a config, or holds that very comparison.

    A comparison may go on with other seeds. With ``overwrite`` another one that stands there is
    deleted; files that no comparison wrote never are.

    Raises ConfigError where something else stands there.
    """
    if _is_empty(directory):
        return
    standing = _standing(directory)
    if standing is None:
        raise _refused(directory, "holds files of something else; choose another --output")
    if not same_but_for_seeds(standing, config):
        if not overwrite:
            reason = "holds another comparison; choose another --output, or --overwrite"
            raise _refused(directory, reason)
        _remove(directory, *_RUNS, *_TRACKED, *_FILES)
    _remove(directory, "workers", *_HALVES, *(f"{runs}/.*" for runs in _RUNS))


def same_but_for_seeds(one: CompareConfig, other: CompareConfig) -> bool:
    """Whether the runs of one comparison can serve the other."""
    # as plain data: a dtype that was read back is a name
    return to_dict(replace(one, seeds=1)) == to_dict(replace(other, seeds=1))


def _standing(directory: Path) -> CompareConfig | None:
    """The comparison that a directory holds; None where its config is none that can be read."""
    try:
        return read_config(directory / "config.yaml", CompareConfig)
    except ConfigError:
        return None


def _is_empty(directory: Path) -> bool:
    passing = {directory / ".lock"}.union(*map(directory.glob, _HALVES))
    return passing.issuperset(directory.iterdir())


def _remove(directory: Path, *patterns: str) -> None:
    for path in [path for pattern in patterns for path in directory.glob(pattern)]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _refused(directory: Path, reason: str) -> ConfigError:
    return ConfigError([Problem("output", directory, reason)])
