"""What `train` and `compare` share: a directory that is theirs, the progress, and the trackers."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from gelu_jax import signals
from gelu_jax.cli.progress import ProgressDisplay
from gelu_jax.compare.analysis import Analysis
from gelu_jax.compare.config import CompareConfig
from gelu_jax.files import is_primary
from gelu_jax.report.verdict import verdict
from gelu_jax.runs.directory import claim, locked
from gelu_jax.runs.execution import Callback, Task
from gelu_jax.runs.record import Run
from gelu_jax.runs.trackers import Kind, Tracker

Log = Annotated[tuple[Kind, ...], tyro.conf.UseAppendAction]


@contextmanager
def claimed(
    directory: Path, is_same: Callable[[Mapping[str, Any]], bool], *, overwrite: bool
) -> Generator[None]:
    """Keeps a directory for this process, which writes a new training or comparison to it, or
    continues the same one.

    Args:
      directory: where to write.
      is_same: as for `claim`.
      overwrite: deletes another training or comparison that stands there.

    Raises:
      ConfigError: something else stands there, or another process is using it.
    """
    with locked(directory) if is_primary() else nullcontext():
        if is_primary():
            claim(directory, is_same, overwrite=overwrite)
        yield


@contextmanager
def progress(
    config: CompareConfig, trackers: Sequence[Tracker], *, several_at_once: bool = False
) -> Generator[Callback]:
    """Shows what runs do, in the terminal and in trackers.

    Args:
      config: what is trained, as a comparison.
      trackers: to be written to.
      several_at_once: trackers, which write one run after another, get a run when it has ended.

    Yields:
      What to call after each evaluation.
    """
    with ExitStack() as stack:
        console = Console(stderr=True, quiet=not is_primary())
        display = stack.enter_context(ProgressDisplay(config, console))
        stack.enter_context(signals.before_exit(display.stop))
        for tracker in trackers:
            stack.enter_context(tracker)
            stack.enter_context(signals.before_exit(tracker.stop))

        def callback(task: Task, run: Run) -> None:
            display.update(task, run.last_point)
            if not several_at_once or run.status != "interrupted":
                for tracker in trackers:
                    tracker.update(task, run)

        yield callback


def show(analysis: Analysis, files: Sequence[Path]) -> None:
    """Prints what was found, and where it was written.

    Args:
      analysis: of the comparison.
      files: what the report consists of.
    """
    print(verdict(analysis))
    print(*files, sep="\n")


def run_name(config: Path) -> str:
    """What a run or comparison is called, and its directory below runs/.

    Args:
      config: the file as the user named it.

    Returns:
      The name of the file; for runs/x/config.yaml, which repeats x, the name of the folder.
    """
    return config.parent.name if config.stem == "config" else config.stem
