"""Checkpoints of a run: any pytree, by step, the newest that is whole.

    <directory>/<step>/state/      the tree, as orbax writes it
    <directory>/<step>/sums.json   the SHA-256 of each of its files

A checkpoint is written under a hidden name and renamed, so that a step's folder is complete or
absent. The sums find what happens to it later: orbax reads many a damaged file without complaint.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import warnings
from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp

T = TypeVar("T")

_SUMS = "sums.json"
_OVERHEAD = 64 * 1024  # bytes of indices and metadata beside the arrays


def save(directory: Path, step: int, tree: Any) -> None:
    """Writes a pytree as the checkpoint of a step, whole or not at all.

    Keeps the one before it, and no other. Raises OSError where the disk is full.
    """
    half, whole = directory / f".{step}", directory / str(step)
    _remove(*directory.glob(".*"))
    try:
        half.mkdir(parents=True)
        _reserve(half / "state", tree)
        _write(half / "state", tree)
        (half / _SUMS).write_text(json.dumps(_sums(half / "state")))
        _remove(whole)
        half.replace(whole)
    finally:
        _remove(half)
    others = [other for other in _steps(directory) if other != step]
    before = max((other for other in others if other < step), default=None)
    _remove(*(directory / str(other) for other in others if other != before))


def restore(directory: Path, like: T) -> T | None:
    """The newest checkpoint that can be read, in the structure of `like`; None where there is none.

    A damaged checkpoint is passed over with a warning that names it.
    """
    for step in sorted(_steps(directory), reverse=True):
        path = directory / str(step)
        try:
            if json.loads((path / _SUMS).read_bytes()) != _sums(path / "state"):
                raise ValueError("its files are not as they were written")
            return _read(path / "state", like)
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).partition("\n")[0]
            warnings.warn(f"{path}: damaged checkpoint, passed over ({reason})", stacklevel=2)
    return None


def _reserve(path: Path, tree: Any) -> None:
    """Raises OSError unless there is room: orbax, stopped half-way, fills the screen."""
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
    if hasattr(os, "posix_fallocate"):
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size + _OVERHEAD)
        path.unlink()


def _write(path: Path, tree: Any) -> None:
    try:
        with _checkpointer() as checkpointer:
            checkpointer.save(path.resolve(), args=ocp.args.StandardSave(_flat(tree)))
    except ValueError as error:  # how tensorstore reports what the operating system refused
        code = re.search(r"os_error_code='(\d+)'", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error


def _read(path: Path, like: T) -> T:
    abstract = _flat(jax.eval_shape(lambda: like))
    with _checkpointer() as checkpointer:
        flat = checkpointer.restore(path.resolve(), args=ocp.args.StandardRestore(abstract))
    return jax.tree.unflatten(jax.tree.structure(like), [flat[name] for name in abstract])


def _checkpointer() -> ocp.Checkpointer:
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # it prints what is raised as well
    return ocp.Checkpointer(ocp.StandardCheckpointHandler())


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
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _flat(tree: Any) -> dict[str, Any]:
    """Leaves by their path: what a checkpoint holds does not depend on how modules are built."""
    return {jax.tree_util.keystr(p): x for p, x in jax.tree_util.tree_leaves_with_path(tree)}
