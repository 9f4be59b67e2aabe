"""A comparison: arms × seeds × learning rates, matched, paired, tuned, and put on record."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from statistics import fmean

from gelu_jax.compare import matching
from gelu_jax.compare.config import (
    TUNING_OFFSET,
    CompareConfig,
    changed,
    differences,
    flatten,
)
from gelu_jax.compare.curves import final_loss
from gelu_jax.compare.planning import forecast, outlook
from gelu_jax.compare.records import Arm, Change, Comparison, Metric, read_results, write_results
from gelu_jax.errors import ConfigError
from gelu_jax.runs.execution import Callback, Task
from gelu_jax.runs.executors import Executor, SerialExecutor
from gelu_jax.runs.identity import command_to_repeat
from gelu_jax.runs.record import Run
from gelu_jax.training.config import from_dict, to_dict, write_config
from gelu_jax.training.data import Dataset, load_data
from gelu_jax.training.trainer import TrainConfig, Trainer

MOST_EXTENSIONS = 4
"""How often the grid of an arm is extended while its best learning rate is at the edge."""


def prepare(config: CompareConfig) -> dict[str, Trainer]:
    """A trainer for each arm; nothing is written or compiled yet.

    Args:
      config: of the comparison.

    Returns:
      Arm → trainer, with the width that `match` asks for.

    Raises:
      ConfigError: the data is missing or too short, or an arm does not fit it.
    """
    data = load_data(config.run.data, config.run.batch_size)
    return {name: Trainer(arm, data) for name, arm in matched_arms(config, data).items()}


def compare(
    config: CompareConfig,
    directory: Path,
    callback: Callback = lambda *_: None,
    trainers: Mapping[str, Trainer] | None = None,
    executor: Executor | None = None,
    announce: Callable[[str], object] = lambda _: None,
) -> Comparison:
    """Tunes, trains, and writes ``results.json``; does only what is missing in the directory.

    The resolved config is written beside it: ``gelu-jax compare <directory>/config.yaml`` repeats
    the comparison.

    Args:
      config: of the comparison.
      directory: where everything is written.
      callback: called with a task and its record, as it begins and at each evaluation.
      trainers: what `prepare` gave, if it has been called before.
      executor: does the runs; by default they are done here, one after another.
      announce: called with a line on what the seeds can show, before anything is trained, and with
        another on what the tuning runs suggest, before the reported runs.

    Returns:
      The record that is written.

    Raises:
      ConfigError: as by `prepare`.
      OSError: the disk is full, or no worker is left.
      KeyboardInterrupt: interrupted; the same call resumes.
    """
    trainers = trainers or prepare(config)
    write_config(config, directory / "config.yaml")
    executor = executor or SerialExecutor(trainers, directory, callback)
    _announce(announce, outlook(config))
    tuning = _tune(config, executor)
    learning_rates = {
        name: _learning_rate(config, name, trainer.config, tuning[name])
        for name, trainer in trainers.items()
    }
    pilots = {
        name: [run for run in runs if run.learning_rate == learning_rates[name]]
        for name, runs in tuning.items()
    }
    _announce(announce, forecast(config, pilots))
    first = config.run.seed
    # Seeds outside, arms inside: the running differences are paired from the first seed on.
    reported = executor.execute([
        Task(name, seed, learning_rate, "report")
        for seed in range(first, first + config.seeds)
        for name, learning_rate in learning_rates.items()
    ])  # fmt: skip
    runs = (*chain.from_iterable(tuning.values()), *reported)
    command = command_to_repeat("compare", directory, config)
    found = record(directory.name, config, trainers, runs, executor.environment, command)
    found = _with_history(found, directory, config)
    write_results(found, directory)
    return found


def _announce(announce: Callable[[str], object], line: str) -> None:
    if line:
        announce(line)


def _with_history(found: Comparison, directory: Path, config: CompareConfig) -> Comparison:
    """The record with the evaluations and changes before it, and with the present ones.

    A change begins no new count of looks: whoever changes a comparison has seen it.
    """
    looks, changes = {config.seeds}, ()
    with suppress(ConfigError):
        before = read_results(directory)
        was = from_dict(before.config, CompareConfig)
        looks, changes = {*looks, *(before.looks or (was.seeds,))}, before.changes
        if other := differences(was, config):
            changes = (*changes, Change(max(before.looks or (was.seeds,)), tuple(other)))
    return replace(found, looks=tuple(sorted(looks)), changes=changes)


def matched_arms(config: CompareConfig, data: Dataset) -> dict[str, TrainConfig]:
    """The config of each arm: its changes made, and its width matched to its reference's cost.

    Args:
      config: of the comparison.
      data: that the arms train on; the FLOPs of a step depend on it.

    Returns:
      Arm → config.
    """
    arms = {name: changed(config.run, changes) for name, changes in config.arms.items()}
    if config.match == "width":
        return arms
    costs: dict[str, matching.Cost] = {
        "parameters": lambda arm: matching.parameters(arm, data),
        "active_parameters": lambda arm: matching.active_parameters(arm, data),
        "flops": lambda arm: matching.flops_per_step(arm, data),
    }
    cost = costs[config.match]
    targets = {name: cost(arms[name]) for name in dict.fromkeys(config.references.values())}
    keeps_width = {
        name: matching.width(arm) is None or matching.sets_width(arm, flatten(config.arms[name]))
        for name, arm in arms.items()
    }
    return {
        name: arm
        if keeps_width[name] or cost(arm) == (target := targets[config.references[name]])
        else matching.matched(arm, cost, target, config.multiple_of)
        for name, arm in arms.items()
    }


def _tune(config: CompareConfig, executor: Executor) -> dict[str, list[Run]]:
    """Each arm's search for its learning rate; a best rate at the edge of its grid extends it."""
    found: dict[str, list[Run]] = {name: [] for name in config.arms}
    start = config.run.seed + TUNING_OFFSET
    seeds = range(start, start + config.tuning_seeds)

    def search(grids: Mapping[str, Sequence[float]]) -> None:
        # Arms inside, as with the seeds: workers begin with different arms, compile each one once
        tasks = [
            Task(name, seed, grid[index], "tuning")
            for index in range(max(map(len, grids.values()), default=0))
            for seed in seeds
            for name, grid in grids.items()
            if index < len(grid)
        ]
        for run in executor.execute(tasks) if tasks else ():
            found[run.arm].append(run)

    grids = {name: sorted(config.grid(name)) for name in config.arms}
    search({name: grid for name, grid in grids.items() if len(grid) > 1})
    lowest = config.run.optimizer.min_learning_rate
    for _ in range(MOST_EXTENSIONS):
        beyond = {name: _beyond(runs, config.metric) for name, runs in found.items() if runs}
        search({name: [r for r in rates if r >= lowest] for name, rates in beyond.items()})
    return found


def _beyond(runs: Sequence[Run], metric: Metric) -> tuple[float, ...]:
    """The rate beyond the best one where that is at the edge of those tried; else nothing."""
    best, grid = best_learning_rate(runs, metric), sorted({run.learning_rate for run in runs})
    beyond = {grid[0]: grid[0] ** 2 / grid[1], grid[-1]: grid[-1] ** 2 / grid[-2]}
    return (beyond[best],) if best in beyond else ()


def _learning_rate(
    config: CompareConfig, name: str, arm: TrainConfig, runs: Sequence[Run]
) -> float:
    """That of the reported runs: tuned, or the only one of the grid, or the arm's own."""
    if runs:
        return best_learning_rate(runs, config.metric)
    return next(iter(config.grid(name)), arm.optimizer.peak)


def best_learning_rate(runs: Sequence[Run], metric: Metric) -> float:
    """The learning rate of the lowest mean final loss.

    Args:
      runs: of one arm; a run that diverged or stopped early counts as infinite.
      metric: which loss.

    Returns:
      One of the learning rates of the runs; where no rate has only finished runs, the one with the
      lowest mean of their last losses.
    """
    losses: dict[float, list[tuple[float, float]]] = {}
    for run in runs:
        last = final_loss(run, metric)
        loss = last if run.status == "finished" else math.inf
        kept = last if math.isfinite(last) else math.inf
        losses.setdefault(run.learning_rate, []).append((loss, kept))
    return min(losses, key=lambda rate: tuple(map(fmean, zip(*losses[rate], strict=True))))


def planned_runs(config: CompareConfig, arm: str) -> int:
    """How many runs an arm needs, if no grid is extended.

    Args:
      config: of the comparison.
      arm: its name.

    Returns:
      Reported and tuning runs of the arm.
    """
    grid = len(config.grid(arm))
    return config.seeds + (grid * config.tuning_seeds if grid > 1 else 0)


def record(
    name: str,
    config: CompareConfig,
    trainers: Mapping[str, Trainer],
    runs: Sequence[Run],
    environment: Mapping[str, str],
    command: str,
) -> Comparison:
    """What is put on record of runs: `results.json`, from which reports are drawn.

    Args:
      name: of the comparison.
      config: of the comparison.
      trainers: arm → trainer.
      runs: of all arms, tuning and reported.
      environment: where they were done.
      command: what repeats them.

    Returns:
      The record; nothing is written.
    """
    flat = {arm: flatten(to_dict(trainer.config)) for arm, trainer in trainers.items()}
    first = next(iter(flat.values()))
    data = next(iter(trainers.values())).data
    return Comparison(
        name=name,
        description=config.description,
        unit=config.run.data.unit,
        tokens_per_step=data.tokens_per_step,
        protocol=config.protocol,
        arms=tuple(
            Arm(
                arm,
                {k: v for k, v in flat[arm].items() if k not in first or first[k] != v},
                matching.parameters(trainer.config, data),
                matching.flops_per_step(trainer.config, data),
                matching.width(trainer.config),
                matching.active_parameters(trainer.config, data),
            )
            for arm, trainer in trainers.items()
        ),
        runs=tuple(runs),
        config=to_dict(config),
        environment=environment,
        data={"description": data.info.description, "hash": data.info.hash},
        command=command,
        metric=config.metric,
    )
