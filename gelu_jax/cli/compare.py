"""compare, train, report: what trains runs, and draws them."""

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from gelu_jax.cli.arguments import ConfigFile, Finished, Overrides
from gelu_jax.cli.interrupts import interrupted
from gelu_jax.cli.progress import Board
from gelu_jax.compare.analysis import Analysis, analyze
from gelu_jax.compare.experiment import CompareConfig, compare, prepare
from gelu_jax.compare.records import Run, read_results
from gelu_jax.errors import ConfigError, Problem, check
from gelu_jax.files import is_primary
from gelu_jax.report.summary import summary
from gelu_jax.report.verdict import verdict
from gelu_jax.report.write import write_report
from gelu_jax.runs.directory import claim, locked, same_but_for_seeds
from gelu_jax.runs.launchers import Launch, launch
from gelu_jax.runs.perform import Task, last_point
from gelu_jax.runs.trackers import Kind, trackers
from gelu_jax.runs.worker_pool import WorkerPool
from gelu_jax.training.checkpoint import newest
from gelu_jax.training.config import from_dict, read_config
from gelu_jax.training.distributed import DistributedConfig, together
from gelu_jax.training.trainer import TrainConfig

Log = Annotated[tuple[Kind, ...], tyro.conf.UseAppendAction]
Several = Annotated[DistributedConfig, tyro.conf.OmitArgPrefixes]

ALONE = DistributedConfig()
QUICK = ("protocol=smoke test", "seeds=2", "learning_rates=[]")


def compare_command(
    config: ConfigFile,
    overrides: Overrides = (),
    output: Path | None = None,
    overwrite: bool = False,
    add_seeds: int = 0,
    quick: bool = False,
    json: bool = False,
    log: Log = (),
    launcher: str | None = None,
    workers: int | None = None,
    resources: tuple[str, ...] = (),
) -> None:
    """Train arms over seeds and learning rates, and write a report with a verdict.

    Goes on where it stopped: what is finished in the output directory is not trained again.

    Args:
        config: a YAML file such as configs/compare_activations.yaml.
        overrides: section.key=value for any field, such as run.steps=200.
        output: where to write; runs/<name of the config> by default.
        overwrite: delete another comparison that stands in the output directory.
        add_seeds: more seeds than the comparison in the output directory has.
        quick: a smoke test of two seeds without tuning, which draws no conclusion.
        json: print one JSON document and nothing else; progress goes to standard error.
        log: also write to a tracker, as runs go; may be given twice.
        launcher: local, slurm or ray: have workers do the runs, on this machine or on others.
        workers: how many; as many as this machine has cores by default.
        resources: key=value, what each worker asks its launcher for: partition=gpu time=60
            gpus_per_node=1 (slurm), num_gpus=1 (ray).
    """
    staff = launch(launcher, workers, resources)
    comparison = read_config(config, CompareConfig, (*overrides, *QUICK * quick))
    directory = output or Path("runs") / _name(config)
    analysis, files = _run(
        comparison, directory, overwrite=overwrite, add_seeds=add_seeds, log=log, staff=staff
    )
    if json:
        print(summary(analysis, files))
    else:
        _tell(analysis, files)


def train_command(
    config: ConfigFile,
    overrides: Overrides = (),
    output: Path | None = None,
    overwrite: bool = False,
    log: Log = (),
    several: Several = ALONE,
) -> None:
    """Train one config, and write its curves. Goes on where it stopped.

    Args:
        config: a YAML file such as configs/byte_lm.yaml.
        overrides: section.key=value for any field, such as steps=200.
        output: where to write; runs/<name of the config> by default.
        overwrite: delete another run that stands in the output directory.
        log: also write to a tracker, as the run goes; may be given twice.
    """
    run = read_config(config, TrainConfig, overrides)
    name = _name(config)
    directory = output or Path("runs") / name
    single = CompareConfig(run=run, arms={name: {}}, seeds=1)
    with together(several, partial(newest, directory)):
        analysis, files = _run(single, directory, overwrite=overwrite, log=log)
        if is_primary():
            _tell(analysis, files)


def _name(config: Path) -> str:
    """runs/x/config.yaml repeats x; any other file is called by its own name."""
    return config.parent.name if config.stem == "config" else config.stem


def _run(
    config: CompareConfig,
    directory: Path,
    *,
    overwrite: bool,
    add_seeds: int = 0,
    log: Sequence[Kind] = (),
    staff: Launch | None = None,
) -> tuple[Analysis, tuple[Path, ...]]:
    check([Problem("add_seeds", add_seeds, "must not be below 0")] if add_seeds < 0 else [])
    trainers = prepare(config)  # all that can be wrong with it shows before anything is written
    tracked = trackers(log, directory, trainers) if is_primary() else ()
    with locked(directory) if is_primary() else nullcontext():
        if is_primary():
            claim(directory, config, overwrite=overwrite)
        config = _with_seeds(config, directory, add_seeds)
        with ExitStack() as stack:
            board = stack.enter_context(Board(config, Console(stderr=True, quiet=not is_primary())))
            for tracker in tracked:
                stack.enter_context(tracker)

            def watch(task: Task, run: Run) -> None:
                if interrupted.is_set():
                    raise KeyboardInterrupt
                board.watch(task, last_point(run))
                if staff is None or run.status != "interrupted":  # of several at once, when done
                    for tracker in tracked:
                        tracker.watch(task, run)

            crew = staff and stack.enter_context(WorkerPool(staff, directory, trainers, watch))
            comparison = compare(config, directory, watch, trainers, crew)
        files = write_report(comparison, directory) if is_primary() else ()
        return analyze(comparison), files


def _tell(analysis: Analysis, files: Sequence[Path]) -> None:
    print(verdict(analysis))
    print(*files, sep="\n")


def _with_seeds(config: CompareConfig, directory: Path, more: int) -> CompareConfig:
    """The config with as many seeds as the finished comparison there has, and some more.

    Counted from what is finished, so that the same command goes on after a stop.
    """
    with suppress(ConfigError):
        finished = from_dict(read_results(directory).config, CompareConfig)
        if same_but_for_seeds(finished, config):
            return replace(config, seeds=max(config.seeds, finished.seeds + more))
    return replace(config, seeds=config.seeds + more)


def report_command(run: Finished) -> None:
    """Draw the report of a finished run or comparison again, without training.

    Args:
        run: its directory, such as runs/compare_activations.
    """
    comparison = read_results(run)
    _tell(analyze(comparison), write_report(comparison, run))
