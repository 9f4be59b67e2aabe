"""compare: arms over seeds and learning rates, at one size or several."""

import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from gelu_jax import signals
from gelu_jax.cli.arguments import ConfigFile, Overrides
from gelu_jax.cli.configs import check_kind, find_config
from gelu_jax.cli.failures import check_backend
from gelu_jax.cli.session import Log, claimed, progress, run_directory, show
from gelu_jax.compare.analysis import analyze
from gelu_jax.compare.climb import climb, ladder_rungs, read_ladder, rung_config, rung_homes
from gelu_jax.compare.config import CompareConfig, differences
from gelu_jax.compare.experiment import compare, prepare
from gelu_jax.compare.ladder_analysis import analyze_ladder
from gelu_jax.compare.outline import Expense, measure
from gelu_jax.compare.records import Comparison, read_results
from gelu_jax.errors import ABSENT, ConfigError, Problem, check, nearest
from gelu_jax.report.ladder_verdict import ladder_verdict
from gelu_jax.report.summary import ladder_summary, summary
from gelu_jax.report.verdict import verdict
from gelu_jax.report.wording import counted, duration
from gelu_jax.report.write import write_ladder_report, write_report
from gelu_jax.runs.directory import locked
from gelu_jax.runs.identity import command_to_repeat, write_identity
from gelu_jax.runs.launchers import Launch, launch
from gelu_jax.runs.trackers import Tracker, trackers
from gelu_jax.runs.worker_pool import WorkerPool
from gelu_jax.training.config import from_dict, read_config
from gelu_jax.training.memory_plan import in_bytes
from gelu_jax.training.trainer import Trainer

_DROPPED = re.compile(r"arms\.([^.=]+)=\s*(?:null|~)?\s*")
QUICK = ("protocol=smoke test", "seeds=2", "learning_rates=[]")


def compare_command(
    config: ConfigFile,
    overrides: Overrides = (),
    output: Path | None = None,
    overwrite: bool = False,
    change: bool = False,
    add_seeds: int = 0,
    quick: bool = False,
    json: bool = False,
    log: Log = (),
    launcher: str | None = None,
    workers: int | None = None,
    resources: tuple[str, ...] = (),
) -> None:
    """Train arms over seeds and learning rates, and write a report with a verdict.

    Resumes if it was interrupted: finished runs in the output directory are not trained again.

    Args:
        config: a YAML file, or one of `gelu-jax configs` by name, such as compare_activations.
        overrides: section.key=value for any field, such as run.steps=200.
        output: where to write; runs/<name of the config> by default.
        overwrite: delete another comparison that stands in the output directory.
        change: continue a comparison with another config: what is there is read, what is missing
            is trained, and the change is put on record.
        add_seeds: more seeds than the comparison in the output directory has, up to max_seeds of
            the config, which is fixed before the first evaluation: each evaluation spends a part
            of the level.
        quick: a smoke test of two seeds without tuning, which draws no conclusion.
        json: print one JSON document and nothing else; progress goes to standard error.
        log: also write to a tracker while training; may be given twice.
        launcher: local, slurm or ray: have workers do the runs, on this machine or on others.
        workers: how many; as many as this machine has cores by default.
        resources: key=value, what each worker asks its launcher for: partition=gpu time=60
            gpus_per_node=1 (slurm), num_gpus=1 (ray).
    """
    check([Problem("add_seeds", add_seeds, "must not be below 0")] if add_seeds < 0 else [])
    pool = launch(launcher, workers, resources)
    file = find_config(config)
    check_kind(file, "compare")
    asked = read_comparison(file, (*overrides, *QUICK * quick))
    directory = run_directory(config, output)
    check_backend()
    first = asked if asked.ladder is None else rung_config(asked, ladder_rungs(asked), 0, ())
    trainers = prepare(first)  # all that can be wrong shows before anything is written
    tracked = trackers(log, directory, trainers)
    with claimed(directory, asked, trainers, overwrite=overwrite, change=change):
        write_identity(directory, trainers)
        planned = _with_seeds(asked, directory, add_seeds)
        if planned.ladder is None:
            comparison = _compare(planned, directory, trainers, pool, tracked)
            analysis, files = analyze(comparison), write_report(comparison, directory)
            print(summary(analysis, files)) if json else show(verdict(analysis), files)
        else:
            climb(planned, directory, partial(_compare_rung, pool, log))
            report_ladder(directory, json=json)


def report_ladder(directory: Path, *, json: bool) -> None:
    """Writes the report of a ladder, and prints its verdict.

    Args:
      directory: of the ladder, of which three rungs or more are finished.
      json: print one JSON document instead.

    Raises:
      ConfigError: as by `read_ladder`.
    """
    config, rungs = read_ladder(directory)
    found, command = analyze_ladder(rungs), command_to_repeat("compare", directory, config)
    files = write_ladder_report(found, config, directory, command)
    if json:
        print(ladder_summary(directory.resolve().name, found, files))
    else:
        show(ladder_verdict(found), files)


def _compare(
    config: CompareConfig,
    directory: Path,
    trainers: Mapping[str, Trainer],
    pool: Launch | None,
    tracked: Sequence[Tracker],
) -> Comparison:
    """Does the runs of a comparison, and shows how far they are."""
    with ExitStack() as stack:
        if pool:  # its workers are to be stopped
            stack.enter_context(signals.deferred())
        if pool is None:
            _say_expense(measure(config, trainers, directory))
        callback = stack.enter_context(progress(config, tracked, several_at_once=pool is not None))
        executor = pool and stack.enter_context(WorkerPool(pool, directory, trainers, callback))
        return compare(config, directory, callback, trainers, executor, _say)


def _compare_rung(
    pool: Launch | None, log: Log, config: CompareConfig, directory: Path
) -> Comparison:
    """One rung of a ladder, as a comparison in a directory of its own, with its report."""
    _say(config.description)
    trainers = prepare(config)
    with locked(directory):
        write_identity(directory, trainers)
        found = _compare(config, directory, trainers, pool, trackers(log, directory, trainers))
        write_report(found, directory)
    return found


def _say_expense(expense: Expense | None) -> None:
    """What the missing runs take, before they start."""
    if expense is not None:
        _say(
            f"{counted(expense.runs, 'run')}, one after another: about "
            f"{duration(expense.seconds)} and {in_bytes(expense.memory)} of memory here (by "
            f"{counted(expense.steps, 'step')} of {expense.measured} and the FLOPs of each arm)."
        )


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def read_comparison(file: Path, overrides: Sequence[str]) -> CompareConfig:
    """Reads a comparison with its overrides, of which ``arms.name=null`` leaves out an arm.

    Args:
      file: the config.
      overrides: `section.key=value` each.

    Returns:
      The config.

    Raises:
      ConfigError: with a line for everything that is wrong.
    """
    dropped = [found[1] for text in overrides if (found := _DROPPED.fullmatch(text))]
    kept = [text for text in overrides if not _DROPPED.fullmatch(text)]
    config = read_config(file, CompareConfig, kept)
    check(
        Problem(f"arms.{name}", ABSENT, f"no such arm; {nearest(name, config.arms)}")
        for name in dropped
        if name not in config.arms
    )
    return replace(config, arms={k: v for k, v in config.arms.items() if k not in dropped})


def _with_seeds(config: CompareConfig, directory: Path, more: int) -> CompareConfig:
    """The config with as many seeds as the finished comparison there has, and some more.

    Counted from what is finished, so that the same command resumes after an interruption.
    """
    with suppress(ConfigError):
        homes = [directory] if config.ladder is None else rung_homes(directory)
        finished = [from_dict(read_results(home).config, CompareConfig) for home in homes]
        if config.ladder is not None or not differences(finished[0], config):
            seeds = min(each.seeds for each in finished)
            return replace(config, seeds=max(config.seeds, seeds + more))
    return replace(config, seeds=config.seeds + more)
