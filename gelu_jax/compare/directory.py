"""The directory of a comparison: one process at a time, and nothing finished is overwritten."""

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from gelu_jax.compare.experiment import CompareConfig
from gelu_jax.errors import ConfigError, Problem
from gelu_jax.training.config import read_config


@contextmanager
def locked(directory: Path) -> Generator[None]:
    """Keeps a second process out.

    Raises ConfigError where another process is at work, or where the directory cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with FileLock(directory / ".lock", timeout=0):
            yield
    except Timeout:
        raise _refused(directory, "another process is at work there") from None
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise _refused(directory, (error.strerror or str(error)).lower()) from None


def claim(directory: Path, config: CompareConfig, *, overwrite: bool) -> None:
    """Makes sure that the directory is free for a config, or holds that very comparison.

    A comparison may go on with other seeds. With ``overwrite`` another one that stands there is
    deleted; files that no comparison wrote never are.

    Raises ConfigError where something else stands there.
    """
    others = [path for path in directory.iterdir() if path.name != ".lock"]
    if not others:
        return
    if not (directory / "config.yaml").exists():
        raise _refused(directory, "holds files of something else; choose another --output")
    if overwrite:
        for path in others:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return
    if not same_but_for_seeds(read_config(directory / "config.yaml", CompareConfig), config):
        raise _refused(
            directory, "holds another comparison; choose another --output, or --overwrite"
        )


def same_but_for_seeds(one: CompareConfig, other: CompareConfig) -> bool:
    """Whether the runs of one comparison can serve the other."""
    return replace(one, seeds=1) == replace(other, seeds=1)


def _refused(directory: Path, reason: str) -> ConfigError:
    return ConfigError([Problem("output", str(directory), reason)])
