"""The one way a file is written: under a temporary name beside it, synced, then put in place.

A reader meets the old file or the new one, never half of one; and of several processes that share
a run, only the primary writes.
"""

import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import jax


def is_primary() -> bool:
    """Whether this process is the one that writes and prints: process 0, or the only one.

    Returns:
      True in process 0, and wherever `jax.distributed` is not initialized.

    >>> is_primary()
    True
    """
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def write_file(path: Path, content: str | bytes) -> None:
    """Writes a file atomically; makes its folder if needed. Does nothing unless `is_primary`.

    Args:
      path: where the file shall stand; a file that stands there is replaced.
      content: bytes, or text to be written as UTF-8.

    Raises:
      OSError: the disk is full, or the folder cannot be written to; `path` is then as it was.
    """
    if not is_primary():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """A temporary path to write to, which takes the place of `path` when the block ends well.

    Args:
      path: the file to be replaced, in a folder that exists.

    Yields:
      A hidden path in the same folder. It is gone when the block has ended, however it ended.

    Raises:
      OSError: what was written could not be synced or renamed.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield draft
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Generator[Path]:
    """A hidden folder to write into, which becomes `path` when the block ends well.

    Args:
      path: the folder to be made; where one stands there already, it must be empty.

    Yields:
      A folder beside it. It is gone when the block has ended, however it ended.

    Raises:
      OSError: `path` is not an empty folder, or the disk is full; nothing is then left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield draft
        draft.chmod(0o755)
        draft.replace(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
