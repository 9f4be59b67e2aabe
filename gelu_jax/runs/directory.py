"""The directory of a training or a comparison: one process at a time, and nothing is lost in it."""

import errno
import shutil
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from gelu_jax.errors import ConfigError, Problem
from gelu_jax.training.document import load

# All that is ever written there, in the order of deleting it: without its config it is unknown
_RUNS = ("runs/*/tuning-lr*-seed*", "runs/*/report-lr*-seed*")
_FILES = (
    "results.json", "results.csv", "report.html", "curves.png", "curves.svg", "curves.pdf",
    "ladder.json", "identity.json", "config.yaml",
)  # fmt: skip
_TRACKED = ("tensorboard", "wandb", "rungs")
_DRAFTS = tuple(f".{name}.*" for name in _FILES)  # what a killed process leaves behind
_SHOWN = 5  # differences
_PATIENCE = 60.0  # seconds
_NOT_THE_USERS_FAULT = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


@contextmanager
def locked(directory: Path) -> Generator[None]:
    """Keeps other processes out of a directory, which is made if it does not exist.

    Leaves nothing behind if nothing was begun in it, that is, without a config.yaml.

    Args:
      directory: to be locked for the length of the ``with`` block.

    Raises:
      ConfigError: another process or its workers are using it, or it cannot be made.
      OSError: the disk is full or broken.
    """
    new = [path for path in (directory, *directory.parents) if not path.exists()]
    lock = FileLock(directory / ".lock", timeout=0)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise _refused(directory, "another process is using it") from None
    except OSError as error:
        if error.errno in _NOT_THE_USERS_FAULT:
            raise
        raise _refused(directory, (error.strerror or str(error)).lower()) from None
    try:
        _wait_for_workers(directory)
        yield
    finally:
        if not (directory / "config.yaml").exists():
            _remove(directory, ".lock", "identity.json", *_DRAFTS)
            with suppress(OSError):  # not empty, or a process that came in between is using it
                for path in new:
                    path.rmdir()
        lock.release()


def is_free(lock: Path) -> bool:
    """Whether no process holds a lock.

    Args:
      lock: a lock file that exists.

    Returns:
      True if nobody holds it.
    """
    try:
        with FileLock(lock, timeout=0):
            return True
    except Timeout:
        return False


def live_workers(directory: Path) -> list[Path]:
    """The locks of the workers that are alive (see `gelu_jax.runs.worker`).

    Args:
      directory: of a comparison.

    Returns:
      The paths of their lock files.
    """
    return [lock for lock in directory.glob("workers/worker-*.lock") if not is_free(lock)]


def _wait_for_workers(directory: Path) -> None:
    """Workers of a killed process stop by themselves, each at its next evaluation."""
    limit = time.monotonic() + _PATIENCE
    while live_workers(directory):
        if time.monotonic() > limit:
            raise _refused(directory, "workers of an earlier command are still stopping")
        time.sleep(0.1)


def claim(
    directory: Path,
    differences: Callable[[Mapping[str, Any]], Sequence[str]],
    *,
    overwrite: bool,
    also: str = "",
) -> None:
    """Makes sure that a locked directory is empty, or holds what is about to be continued.

    Args:
      directory: where to write.
      differences: what tells the training or comparison whose config, as plain data, stands there
        from the one that is to be written; nothing if it is the same.
      overwrite: deletes another training or comparison that stands there. Files of anything else
        are never deleted.
      also: what else a person may do about it, for the message.

    Raises:
      ConfigError: something else stands there.
    """
    if _is_empty(directory):
        return
    config = _standing(directory)
    if config is None:
        raise _refused(directory, "holds other files; choose another --output")
    found = differences(config)
    if found and not overwrite:
        more = f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        listed = "; ".join(found[:_SHOWN]) + more
        reason = f"holds another run or comparison ({listed}); choose another --output, "
        raise _refused(directory, f"{reason}{also}or --overwrite")
    if found:
        _remove(directory, *_RUNS, *_TRACKED, *_FILES)
    _remove(directory, "workers", *_DRAFTS, *(f"{runs}/.*" for runs in _RUNS))


def _standing(directory: Path) -> dict[str, Any] | None:
    """The config of the training or comparison that a directory holds; None if there is none."""
    try:
        config = load(directory / "config.yaml").data
    except ConfigError:
        return None
    is_ours = {"run", "arms"} <= config.keys() or {"data", "model", "steps"} <= config.keys()
    return config if is_ours else None


def _is_empty(directory: Path) -> bool:
    ignored = {directory / ".lock", directory / "identity.json"}
    ignored = ignored.union(*map(directory.glob, _DRAFTS))
    return ignored.issuperset(directory.iterdir())


def _remove(directory: Path, *patterns: str) -> None:
    for path in [path for pattern in patterns for path in directory.glob(pattern)]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _refused(directory: Path, reason: str) -> ConfigError:
    return ConfigError([Problem("output", directory, reason)])
