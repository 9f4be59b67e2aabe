"""The files that a path, a folder or a glob means."""

import glob
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from gelu_jax.errors import ConfigError, no_such


def find_paths(
    patterns: Iterable[str | os.PathLike[str]], refuse: Callable[[object, str], ConfigError]
) -> list[Path]:
    """Finds every file that is meant, once: a file and a link to it are one.

    Args:
      patterns: files; folders, of which every file counts that is not hidden; and globs, in which
        `**` matches folders at any depth. A path that exists is never read as a glob.
      refuse: makes the error of a pattern, given the pattern and what is wrong with it.

    Returns:
      The files, in an order that does not depend on the disk's.

    Raises:
      ConfigError: a pattern does not lead to a file.
    """
    found: dict[str, Path] = {}
    for pattern in patterns:
        for path in _matches(os.fspath(pattern), lambda reason, p=pattern: refuse(p, reason)):
            found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def _matches(pattern: str, refuse: Callable[[str], ConfigError]) -> list[Path]:
    path = os.path.expanduser(pattern)
    if os.path.isdir(path):
        files = sorted(p for p in Path(path).rglob("*") if _is_visible(p, Path(path)))
        if not files:
            raise refuse("does not hold any file")
        return files
    if os.path.isfile(path):
        return [Path(path)]
    if os.path.exists(path):
        raise refuse("is not a regular file")
    found = sorted(match for match in glob.glob(path, recursive=True) if os.path.isfile(match))
    if not found:
        raise refuse(no_such("file", path))
    return [Path(match) for match in found]


def _is_visible(path: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
    return path.is_file() and not hidden
