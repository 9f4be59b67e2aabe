"""Checkpoints of a run: any pytree, by step, the newest that is whole.

    <directory>/<step>/state/      the tree, as orbax writes it
    <directory>/<step>/sums.json   the SHA-256 of each of its files

A checkpoint is written under a hidden name and renamed, so that a step's folder is complete or
absent. The sums find what happens to it later: orbax reads many a damaged file without complaint.

Where several processes share a run, all of them save and restore together, in one directory that
all of them see; the first names and renames, sums, checks and removes.
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

_SUMS = "sums.json"
_OVERHEAD = 64 * 1024  # bytes of indices and metadata beside the arrays
_ATTEMPTS = 50


def save(directory: Path, step: int, tree: Any) -> None:
    """Writes a pytree as the checkpoint of a step, whole or not at all.

    Keeps the one before it, and no other. Raises OSError where the disk is full.
    """
    with Saver(directory) as saver:
        saver.save(step, tree)


class Saver:
    """Saves as `save` does, in the background: the training waits only until the arrays are copied.

    A save begins when the one before it is done, and the last is done when the ``with`` block ends;
    what went wrong is raised there.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self._writer = _quiet(ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler()))
        self._thread = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            self._writer.close()

    def save(self, step: int, tree: Any) -> None:
        """Begins to save a step; returns when its arrays are copied off the devices."""
        self.wait()
        half = self.directory / f".{step}"
        try:
            if is_primary():
                _remove(*self.directory.glob(".*"))
                half.mkdir(parents=True)
                _reserve(half / "state", tree)
            with _os_errors(half):
                args = ocp.args.StandardSave(_flat(tree))
                self._writer.save(half.resolve() / "state", args=args)
        except BaseException:
            with suppress(Exception):
                self._writer.wait_until_finished()
            if is_primary():
                _remove(half)
            raise
        self._pending = self._thread.submit(self._finish, step, half)

    def wait(self) -> None:
        """Returns when what was begun is saved; raises OSError where it could not be."""
        pending = self._pending
        if pending is not None:
            try:
                pending.result()
            finally:  # an interrupted wait is no end of it
                self._pending = None if pending.done() else pending

    def _finish(self, step: int, half: Path) -> None:
        whole = self.directory / str(step)
        try:
            with _os_errors(half):
                self._writer.wait_until_finished()
            if not is_primary():
                return
            write_file(half / _SUMS, json.dumps(_sums(half / "state")))
            _remove(whole)
            half.replace(whole)
        finally:
            if is_primary():
                _remove(half)
        others = [other for other in _steps(self.directory) if other != step]
        before = max((other for other in others if other < step), default=None)
        _remove(*(self.directory / str(other) for other in others if other != before))


def restore(directory: Path, like: T) -> T | None:
    """The newest checkpoint that can be read, in the structure of `like`; None where there is none.

    Its leaves lie where those of `like` do, whatever mesh they were written from; where `like` has
    no places, on one device. A damaged checkpoint is passed over with a warning that names it.
    """
    for step in broadcast_from_primary(lambda: sorted(_steps(directory), reverse=True)):
        path = directory / str(step)
        reason = broadcast_from_primary(partial(_damage, path))
        if reason is None:
            try:
                return _read(path / "state", like)
            except (OSError, ValueError, KeyError) as error:
                reason = str(error).partition("\n")[0]
        if is_primary():
            warnings.warn(f"{path}: damaged checkpoint, passed over ({reason})", stacklevel=2)
    return None


def newest(directory: Path) -> int | None:
    """The greatest step of which there is a checkpoint, anywhere below a directory."""
    homes = {path.parent.parent for path in directory.rglob(_SUMS)}
    return max((step for home in homes for step in _steps(home)), default=None)


def _damage(path: Path) -> str | None:
    """Why a checkpoint is not to be read; None where its files are as they were written."""
    try:
        whole = json.loads((path / _SUMS).read_bytes()) == _sums(path / "state")
    except (OSError, ValueError) as error:
        return str(error)
    return None if whole else "its files are not as they were written"


def _reserve(path: Path, tree: Any) -> None:
    """Raises OSError unless there is room: orbax, stopped half-way, fills the screen."""
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
    if hasattr(os, "posix_fallocate"):
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size + _OVERHEAD)
        path.unlink()


@contextmanager
def _os_errors(path: Path) -> Generator[None]:
    """Raises as OSError what the operating system refused, which tensorstore wraps."""
    try:
        yield
    except ValueError as error:
        code = re.search(r"os_error_code='(\d+)'", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error


def _read(path: Path, like: T) -> T:
    abstract = _flat(jax.tree.map(_placed, like))
    with _quiet(ocp.Checkpointer(ocp.StandardCheckpointHandler())) as reader:
        flat = reader.restore(path.resolve(), args=ocp.args.StandardRestore(abstract))
    return jax.tree.unflatten(jax.tree.structure(like), [flat[name] for name in abstract])


def _placed(leaf: Any) -> jax.ShapeDtypeStruct:
    """Where a leaf is read to: never where it was written from, which may not be here."""
    place = leaf.sharding or SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)


def _quiet(checkpointer: C) -> C:
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # it prints what is raised as well
    return checkpointer


def _steps(directory: Path) -> list[int]:
    return [int(path.name) for path in directory.glob("[0-9]*") if path.name.isdecimal()]


def _sums(folder: Path) -> dict[str, str]:
    sums = dict[str, str]()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        sums[path.relative_to(folder).as_posix()] = digest
    return sums


def _remove(*folders: Path) -> None:
    """Again where that fails: after an error, files that orbax had begun may still come in."""
    for folder in folders:
        for _ in range(_ATTEMPTS):
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():
                break
            time.sleep(0.02)


def _flat(tree: Any) -> dict[str, Any]:
    """Leaves by their path: what a checkpoint holds does not depend on how modules are built."""
    return {jax.tree_util.keystr(p): x for p, x in jax.tree_util.tree_leaves_with_path(tree)}
