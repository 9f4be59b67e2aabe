"""A training or a comparison that is under way: what is there, what is missing, what is left."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from gelu_jax.compare.config import CompareConfig
from gelu_jax.compare.experiment import planned_runs, prepare, record
from gelu_jax.compare.records import Comparison
from gelu_jax.errors import ConfigError
from gelu_jax.runs.environment import environment
from gelu_jax.runs.execution import Task, resolved
from gelu_jax.runs.identity import command_to_repeat
from gelu_jax.runs.record import Run, read_run
from gelu_jax.training.config import from_dict, read_config, to_dict
from gelu_jax.training.document import load
from gelu_jax.training.trainer import TrainConfig, Trainer


class Unfinished(NamedTuple):
    """What a directory holds before its `results.json` is written.

    Attributes:
      comparison: the record of the runs that are there, of the protocol "unfinished".
      done: how many runs have ended.
      planned: how many there are to be, if no grid is extended.
      missing: a line for each arm that is not done, and one for each run that is under way.
      seconds: what the training that is left takes, one run after another, at the speed of the runs
        that are there; NaN where an arm has none.
    """

    comparison: Comparison
    done: int
    planned: int
    missing: tuple[str, ...]
    seconds: float


def read_unfinished(directory: Path) -> Unfinished:
    """Reads the runs of a training or a comparison that has not come to its end.

    Nothing is written, and what is being trained there goes on.

    Args:
      directory: with a config.yaml.

    Returns:
      What is there; the runs of another config than that of the directory are left out.

    Raises:
      ConfigError: the config cannot be read, or its data are not here.
    """
    config = _config(directory)
    trainers = prepare(config)
    runs = _runs_there(config, trainers, directory)
    command = command_to_repeat("compare", directory, config)
    found = record(directory.resolve().name, config, trainers, runs, environment(), command)
    counted = [_counted(config, name, runs) for name in trainers]
    ended, planned = map(sum, zip(*counted, strict=True))
    lines = tuple(line for name in trainers for line in _missing(config, name, trainers, runs))
    seconds = sum(_seconds(config, name, trainers[name], runs) for name in trainers)
    return Unfinished(replace(found, protocol="unfinished"), ended, planned, lines, seconds)


def runs_left(
    config: CompareConfig, trainers: Mapping[str, Trainer], directory: Path
) -> dict[str, int]:
    """Counts the runs that are still to be done.

    Args:
      config: of the comparison.
      trainers: the trainer of each arm.
      directory: of the comparison, whether or not there is anything yet.

    Returns:
      Arm → number of runs, if its grid is not extended.
    """
    with warnings.catch_warnings(
        action="ignore"
    ):  # of damaged records, when they are trained again
        runs = _runs_there(config, trainers, directory)
    counted = {name: _counted(config, name, runs) for name in trainers}
    return {name: planned - ended for name, (ended, planned) in counted.items()}


def _runs_there(
    config: CompareConfig, trainers: Mapping[str, Trainer], directory: Path
) -> list[Run]:
    runs = [run for name, trainer in trainers.items() for run in _runs(directory, name, trainer)]
    return list(_of_one_rate(config, runs))


def _config(directory: Path) -> CompareConfig:
    """The config of a comparison; a training is one of a single arm."""
    path = directory / "config.yaml"
    if "run" in load(path).data:
        return read_config(path, CompareConfig)
    run = read_config(path, TrainConfig)
    names = sorted(folder.name for folder in (directory / "runs").glob("*")) or [directory.name]
    return CompareConfig(run=run, arms={names[0]: {}}, seeds=1)


def _runs(directory: Path, arm: str, trainer: Trainer) -> Iterator[Run]:
    """The records of an arm whose config is the one that the directory asks for."""
    for home in sorted((directory / "runs" / arm).glob("*-lr*-seed*")):
        run = read_run(home / "run.json")
        if run is not None and _is_asked_for(home, run, trainer):
            yield run


def _is_asked_for(home: Path, run: Run, trainer: Trainer) -> bool:
    task = Task(run.arm, run.seed, run.learning_rate, run.purpose)
    try:
        there = read_config(home / "config.yaml", TrainConfig)
    except ConfigError:  # it is of another version
        return False
    return to_dict(there) == to_dict(from_dict(to_dict(resolved(trainer, task)), TrainConfig))


def _of_one_rate(config: CompareConfig, runs: list[Run]) -> Iterator[Run]:
    """The tuning runs, and those that are reported, of each arm at the rate of most of them."""
    seeds = range(config.run.seed, config.run.seed + config.seeds)
    rates: dict[str, list[float]] = {}
    for run in runs:
        if run.purpose == "report":
            rates.setdefault(run.arm, []).append(run.learning_rate)
    for run in runs:
        of_arm = rates.get(run.arm, [])
        is_reported = run.seed in seeds and run.learning_rate == max(of_arm, key=of_arm.count)
        if run.purpose == "tuning" or is_reported:
            yield run


def _counted(config: CompareConfig, arm: str, runs: list[Run]) -> tuple[int, int]:
    """The runs of an arm that have ended, and those that are planned."""
    ended = sum(run.arm == arm and run.status != "interrupted" for run in runs)
    tuning = sum(run.arm == arm and run.purpose == "tuning" for run in runs)
    return ended, max(planned_runs(config, arm), config.seeds + tuning)  # an extended grid has more


def _missing(
    config: CompareConfig, arm: str, trainers: Mapping[str, Trainer], runs: list[Run]
) -> Iterator[str]:
    of_arm = [run for run in runs if run.arm == arm]
    done, planned = _counted(config, arm, runs)
    if done == planned:
        return
    reported = sum(run.purpose == "report" and run.status != "interrupted" for run in of_arm)
    tuning = planned - config.seeds
    tuned = f"{done - reported} of {tuning} tuning runs, " if tuning else ""
    yield f"{arm}: {tuned}{reported} of {config.seeds} reported runs"
    for run in of_arm:
        if run.status == "interrupted" and (point := run.last_point) is not None:
            name = Task(run.arm, run.seed, run.learning_rate, run.purpose).name
            steps = f"step {point.step:,} of {trainers[arm].config.steps:,}"
            yield f"{arm} {name}: {steps}, validation loss {point.validation_loss:.4f}"


def _seconds(config: CompareConfig, arm: str, trainer: Trainer, runs: list[Run]) -> float:
    """What an arm's missing steps take at the mean speed of those that are done."""
    of_arm = [run for run in runs if run.arm == arm]
    done, planned = _counted(config, arm, runs)
    timed = [run for run in of_arm if run.eval_steps and run.eval_steps[-1] > 0]
    partly = sum(run.eval_steps[-1] for run in timed if run.status == "interrupted")
    steps = (planned - done) * trainer.config.steps - partly
    if not steps:
        return 0.0
    speeds = [run.seconds[-1] / run.eval_steps[-1] for run in timed]
    return steps * fmean(speeds) if speeds else float("nan")
