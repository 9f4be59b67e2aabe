"""Checkpoints of a run: any pytree, by step; the latest that is undamaged is restored.

    <directory>/<step>/state/      the tree, as orbax writes it
    <directory>/<step>/sums.json   the SHA-256 of each of its files

A checkpoint is written under a hidden name and renamed, so that a step's folder is complete or
absent. The checksums detect later damage: orbax reads many damaged files without an error.

Where several processes share a run, all of them save and restore, in one directory that all of them
see; the primary creates and renames folders, writes and compares checksums, and deletes.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import time
import warnings
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding

from gelu_jax.files import is_primary, write_file
from gelu_jax.training.distributed import broadcast_from_primary

T = TypeVar("T")
C = TypeVar("C", bound=ocp.Checkpointer)

_CHECKSUMS = "sums.json"
_OVERHEAD = 64 * 1024  # bytes of indices and metadata beside the arrays
_ATTEMPTS = 50
_NUMBERED = re.compile(r"\.(w_in|b_in|learned|layers)_(\d+)(?=\W)")  # lists, when first written


def save(directory: Path, step: int, tree: Any) -> None:
    """Writes the checkpoint of a step, whole or not at all; keeps the one before it, and no other.

    Args:
      directory: the checkpoints of the run.
      step: of the run.
      tree: arrays.

    Raises:
      OSError: the disk is full; the checkpoints are as they were.
    """
    with AsyncSaver(directory) as saver:
        saver.save(step, tree)


class AsyncSaver:
    """Saves as `save` does, in the background: training waits only until the arrays are copied.

    A save begins when the one before it is done, and the last is done when the `with` block ends,
    which raises what went wrong.

    Args:
      directory: the checkpoints of the run.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self._writer = _quiet(ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler()))
        self._thread = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None

    def __enter__(self) -> "AsyncSaver":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            self._writer.close()

    def save(self, step: int, tree: Any) -> None:
        """Begins to save a step; returns when its arrays are copied off the devices.

        Args:
          step: of the run.
          tree: arrays.

        Raises:
          OSError: the disk is full, now or in the save before.
        """
        self.wait()
        draft = self.directory / f".{step}"
        try:
            if is_primary():
                _remove(*self.directory.glob(".*"))
                draft.mkdir(parents=True)
                _check_space(draft / "state", tree)
            with _os_errors(draft):
                args = ocp.args.StandardSave(_flat(tree))
                self._writer.save(draft.resolve() / "state", args=args)
        except BaseException:
            with suppress(Exception):
                self._writer.wait_until_finished()
            if is_primary():
                _remove_failed(draft)
            raise
        self._pending = self._thread.submit(self._finish, step, draft)

    def wait(self) -> None:
        """Returns when the save that has begun is done.

        Raises:
          OSError: it failed.
        """
        pending = self._pending
        if pending is not None:
            try:
                pending.result()
            finally:  # Ctrl-C interrupts the wait, but not the save
                self._pending = None if pending.done() else pending

    def _finish(self, step: int, draft: Path) -> None:
        final = self.directory / str(step)
        try:
            with _os_errors(draft):
                self._writer.wait_until_finished()
            if not is_primary():
                return
            write_file(draft / _CHECKSUMS, json.dumps(_checksums(draft / "state")))
            _remove(final)
            draft.replace(final)
        except BaseException:
            if is_primary():
                _remove_failed(draft)
            raise
        others = [other for other in _steps(self.directory) if other != step]
        before = max((other for other in others if other < step), default=None)
        _remove(*(self.directory / str(other) for other in others if other != before))


def restore(directory: Path, abstract: T) -> T | None:
    """Reads the latest checkpoint that is undamaged; warns of each damaged one that it skips.

    Args:
      directory: the checkpoints of the run.
      abstract: shapes, dtypes and shardings of the tree; where there are no shardings, the arrays
        are put on one device. The mesh that they were written from does not matter.

    Returns:
      The tree, in the structure of `abstract`; None where there is no such checkpoint.
    """
    for step in broadcast_from_primary(lambda: sorted(_steps(directory), reverse=True)):
        path = directory / str(step)
        reason = broadcast_from_primary(partial(_damage, path))
        if reason is None:
            try:
                return _read(path / "state", abstract)
            except (OSError, ValueError, KeyError) as error:
                reason = str(error).partition("\n")[0]
        if is_primary():
            warnings.warn(f"{path}: skipped a damaged checkpoint ({reason})", stacklevel=2)
    return None


def latest_step(directory: Path) -> int | None:
    """Finds the greatest step of which there is a checkpoint.

    Args:
      directory: is searched with all that is below it.

    Returns:
      The step; None where there is no checkpoint.
    """
    homes = {path.parent.parent for path in directory.rglob(_CHECKSUMS)}
    return max((step for home in homes for step in _steps(home)), default=None)


def _damage(path: Path) -> str | None:
    """Why a checkpoint cannot be read; None where its files are as they were written."""
    try:
        intact = json.loads((path / _CHECKSUMS).read_bytes()) == _checksums(path / "state")
    except (OSError, ValueError) as error:
        return str(error)
    return None if intact else "its files are not as they were written"


def _check_space(path: Path, tree: Any) -> None:
    """Raises OSError unless the disk has room: orbax, stopped half-way, prints pages of errors."""
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
    if hasattr(os, "posix_fallocate"):
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size + _OVERHEAD)
        path.unlink()


@contextmanager
def _os_errors(path: Path) -> Generator[None]:
    """Raises as OSError the errors of the operating system, which tensorstore wraps."""
    try:
        yield
    except ValueError as error:
        code = re.search(r"os_error_code='(\d+)'", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error


def _read(path: Path, abstract: T) -> T:
    placed = _flat(jax.tree.map(_placed, abstract))
    with _quiet(ocp.Checkpointer(ocp.StandardCheckpointHandler())) as reader:
        flat = reader.restore(path.resolve(), args=ocp.args.StandardRestore(placed))
    return jax.tree.unflatten(jax.tree.structure(abstract), [flat[name] for name in placed])


def _placed(leaf: Any) -> jax.ShapeDtypeStruct:
    """With a sharding of this machine: the one it was written with may name absent devices."""
    sharding = leaf.sharding or SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _quiet(checkpointer: C) -> C:
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # it also prints what it raises
    return checkpointer


def _steps(directory: Path) -> list[int]:
    return [int(path.name) for path in directory.glob("[0-9]*") if path.name.isdecimal()]


def _checksums(folder: Path) -> dict[str, str]:
    checksums = dict[str, str]()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        checksums[path.relative_to(folder).as_posix()] = digest
    return checksums


def _remove(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_failed(draft: Path) -> None:
    """Removes what was left, for a second: after an error orbax may still be writing into it."""
    for _ in range(_ATTEMPTS):
        _remove(draft)
        time.sleep(0.02)


def _flat(tree: Any) -> dict[str, Any]:
    """Leaves by their path, so that checkpoints do not depend on the classes of the modules."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {_NUMBERED.sub(r".\1[\2]", jax.tree_util.keystr(path)): x for path, x in leaves}
