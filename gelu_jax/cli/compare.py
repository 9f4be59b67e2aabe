"""compare: arms over seeds and learning rates."""

import sys
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from gelu_jax import signals
from gelu_jax.cli.arguments import ConfigFile, Overrides
from gelu_jax.cli.configs import find_config
from gelu_jax.cli.failures import check_backend
from gelu_jax.cli.session import Log, claimed, progress, run_name, show
from gelu_jax.compare.analysis import analyze
from gelu_jax.compare.config import CompareConfig, differs_only_in_seeds, is_same_comparison
from gelu_jax.compare.experiment import compare, prepare
from gelu_jax.compare.records import read_results
from gelu_jax.errors import ConfigError, Problem, check
from gelu_jax.report.summary import summary
from gelu_jax.report.write import write_report
from gelu_jax.runs.launchers import launch
from gelu_jax.runs.trackers import trackers
from gelu_jax.runs.worker_pool import WorkerPool
from gelu_jax.training.config import from_dict, read_config

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

    Resumes if it was interrupted: finished runs in the output directory are not trained again.

    Args:
        config: a YAML file, or one of `gelu-jax configs` by name, such as compare_activations.
        overrides: section.key=value for any field, such as run.steps=200.
        output: where to write; runs/<name of the config> by default.
        overwrite: delete another comparison that stands in the output directory.
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
    asked = read_config(find_config(config), CompareConfig, (*overrides, *QUICK * quick))
    directory = output or Path("runs") / run_name(config)
    check_backend()
    trainers = prepare(asked)  # all that can be wrong shows before anything is written
    tracked = trackers(log, directory, trainers)
    with claimed(directory, partial(is_same_comparison, asked), overwrite=overwrite):
        planned = _with_seeds(asked, directory, add_seeds)
        with ExitStack() as stack:
            if pool:  # its workers are to be stopped
                stack.enter_context(signals.deferred())
            callback = stack.enter_context(
                progress(planned, tracked, several_at_once=pool is not None)
            )
            executor = pool and stack.enter_context(WorkerPool(pool, directory, trainers, callback))
            comparison = compare(planned, directory, callback, trainers, executor, _say)
        analysis, files = analyze(comparison), write_report(comparison, directory)
    print(summary(analysis, files)) if json else show(analysis, files)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _with_seeds(config: CompareConfig, directory: Path, more: int) -> CompareConfig:
    """The config with as many seeds as the finished comparison there has, and some more.

    Counted from what is finished, so that the same command resumes after an interruption.
    """
    with suppress(ConfigError):
        finished = from_dict(read_results(directory).config, CompareConfig)
        if differs_only_in_seeds(finished, config):
            return replace(config, seeds=max(config.seeds, finished.seeds + more))
    return replace(config, seeds=config.seeds + more)
