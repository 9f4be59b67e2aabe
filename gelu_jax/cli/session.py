"""What `train` and `compare` share: a directory that is theirs, the progress, and the trackers."""

import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from gelu_jax import signals
from gelu_jax.cli.progress import ProgressDisplay
from gelu_jax.compare.config import CompareConfig, flatten
from gelu_jax.compare.config import differences as comparison_differences
from gelu_jax.errors import ConfigError
from gelu_jax.files import is_primary
from gelu_jax.report.verdict import Verdict
from gelu_jax.runs.directory import claim, locked
from gelu_jax.runs.environment import processor
from gelu_jax.runs.execution import Callback, Task
from gelu_jax.runs.identity import FILE, identity, read_identity
from gelu_jax.runs.record import Run
from gelu_jax.runs.trackers import Kind, Tracker
from gelu_jax.training.config import from_dict, to_dict
from gelu_jax.training.trainer import TrainConfig, Trainer

Log = Annotated[tuple[Kind, ...], tyro.conf.UseAppendAction]


@contextmanager
def claimed(
    directory: Path,
    config: TrainConfig | CompareConfig,
    trainers: Mapping[str, Trainer],
    *,
    overwrite: bool,
    change: bool = False,
) -> Generator[None]:
    """Keeps a directory for this process, which writes a new training or comparison to it, or
    continues the same one.

    Args:
      directory: where to write.
      config: what is to be trained.
      trainers: the trainer of each arm.
      overwrite: deletes another training or comparison that stands there.
      change: continues a comparison with another config, and keeps its runs.

    Raises:
      ConfigError: something else stands there, or another process is using it.
    """
    if not is_primary():
        yield
        return
    with locked(directory):
        before, its_processor = read_identity(directory)

        def found(standing: Mapping[str, Any]) -> list[str]:
            other = differences(config, standing)
            if change and "arms" in standing:  # but for what looks at the data were planned by
                other = [line for line in other if line.startswith("max_seeds:")]
            return other or _changed(before, identity(trainers))

        also = "--change to keep its runs, " if isinstance(config, CompareConfig) else ""
        claim(directory, found, overwrite=overwrite, also=also)
        if its_processor not in (None, processor()) and (directory / "config.yaml").exists():
            here = f"this one is {processor()}: new results differ in their last digits"
            warnings.warn(f"{directory} was begun on {its_processor}; {here}", stacklevel=2)
        yield


def differences(config: TrainConfig | CompareConfig, standing: Mapping[str, Any]) -> list[str]:
    """What tells a config from the one of a directory, field by field.

    Args:
      config: of what is to be trained.
      standing: a config.yaml, as plain data. `train` used to leave that of a comparison with one
        arm, which changes nothing. The number of seeds does not count, nor the order of the arms
        but for the first one, which the others are compared with.

    Returns:
      "field: value there, value here" for each field; nothing if they are the same.
    """
    if isinstance(config, TrainConfig) and _is_alone(standing):
        standing = standing["run"]
    if ("arms" in standing) != isinstance(config, CompareConfig):
        return [f"it is a {'comparison' if 'arms' in standing else 'training run'}"]
    try:
        there = from_dict(standing, type(config))
    except ConfigError as error:
        return [f"its config is no longer valid: {error.problems[0]}"]
    if isinstance(there, CompareConfig) and isinstance(config, CompareConfig):
        return comparison_differences(there, config)
    return _changed(*({k: str(v) for k, v in flatten(to_dict(c)).items()} for c in (there, config)))


def _is_alone(standing: Mapping[str, Any]) -> bool:
    return len(standing.get("arms", ())) == 1 and not any(standing["arms"].values())


def _changed(there: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    if not there:  # written by a version that did not record it
        return []
    names = dict.fromkeys([*there, *here])
    return [
        f"{name}: {there.get(name, 'nothing')} there, {here.get(name, 'nothing')} here"
        for name in names
        if there.get(name) != here.get(name)
    ]


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
            display.update(task, run.last_point, stopped=run.status == "stopped")
            if not several_at_once or run.status != "interrupted":
                for tracker in trackers:
                    tracker.update(task, run)

        yield callback


def show(verdict: Verdict, files: Sequence[Path]) -> None:
    """Prints what was found, and where it was written.

    Args:
      verdict: on the comparison or the ladder.
      files: what the report consists of.
    """
    print(verdict)
    print(*files, sep="\n")


def run_name(config: Path) -> str:
    """What a run or comparison is called, and its directory below runs/.

    Args:
      config: the file as the user named it.

    Returns:
      The name of the file; for a config.yaml that of its folder, but for the config.yaml of a run
      that has been done the name under which it was done.
    """
    if config.stem != "config":
        return config.stem
    done = [path.name for path in (config.parent / "runs").glob("*") if _is_of_a_run(config)]
    return done[0] if len(done) == 1 else config.resolve().parent.name or "run"


def _is_of_a_run(config: Path) -> bool:
    return config.name == "config.yaml" and (config.parent / FILE).exists()


def run_directory(config: Path, output: Path | None) -> Path:
    """Where a run or comparison is written.

    Args:
      config: the file as the user named it.
      output: the directory that the user named, if any.

    Returns:
      The directory; by default runs/<name>, and for the config.yaml that stands in the directory of
      a run, this directory.
    """
    if output is not None:
        return output
    if _is_of_a_run(config):
        return config.parent
    return Path("runs") / run_name(config)
