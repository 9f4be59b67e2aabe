"""A comparison: arms × seeds × learning rates, matched, paired, tuned, and put on record."""

import math
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, Protocol

import jax

from gelu_jax.compare import matching
from gelu_jax.compare.curves import final_loss
from gelu_jax.compare.records import Arm, Comparison, Metric, Run, write_results
from gelu_jax.errors import ConfigError, Problem, check
from gelu_jax.nn import checks
from gelu_jax.runs.perform import Task, Watch, perform
from gelu_jax.training.config import from_dict, to_dict, write_config
from gelu_jax.training.data import Dataset, load_data
from gelu_jax.training.trainer import TrainConfig, Trainer
from gelu_jax.version import __version__

Changes = Mapping[str, Any]

_TUNING = 1_000  # tuning seeds begin so far above the reported ones


@dataclass(frozen=True)
class CompareConfig:
    """What is compared: arms that differ from one run in the fields they name.

    ``arms`` maps each arm's name to its changes, dotted path → value; the first arm is the one
    that the others are held against. An arm's width is matched to the first arm's cost, unless
    the arm names its width itself.

    With several ``learning_rates`` each arm takes the one that is best on ``tuning_seeds`` seeds,
    which are not the reported ones. Reported seeds count up from ``run.seed``.

    ``metric`` is the loss that rates are chosen and arms told apart by; the training loss at an
    evaluation is the mean over the steps since the one before, with dropout where there is any.
    """

    run: TrainConfig
    arms: Mapping[str, Changes]
    description: str = ""
    metric: Metric = "validation loss"
    seeds: int = 8
    learning_rates: tuple[float, ...] = ()
    tuning_seeds: int = 1
    match: Literal["parameters", "flops", "width"] = "parameters"
    multiple_of: int = 8
    protocol: Literal["full", "smoke test"] = "full"

    def __post_init__(self):
        check(self._problems())

    def _problems(self) -> Iterator[Problem]:
        yield from checks.positive(
            seeds=self.seeds, tuning_seeds=self.tuning_seeds, multiple_of=self.multiple_of
        )
        yield from self._rate_problems()
        if self.seeds > _TUNING:
            reason = f"more would meet the tuning seeds; nearest: {_TUNING}"
            yield Problem("seeds", self.seeds, reason)
        if not self.arms:
            yield Problem("arms", {}, "a comparison has at least one arm")
        for name, changes in self.arms.items():
            if not name or set(name) & set("/\\") or name.startswith("."):
                yield Problem("arms", name, "no name for a folder")
            try:
                arm = changed(self.run, changes)
                if (arm.data, arm.batch_size) != (self.run.data, self.run.batch_size):
                    yield Problem(f"arms.{name}", dict(changes), "arms must see the same data")
            except ConfigError as error:
                yield from (replace(p, field=f"arms.{name}.{p.field}") for p in error.problems)
            for path in changes.keys() & self._set_for_all():
                reason = "is the same for all arms here: see seeds and learning_rates"
                yield Problem(f"arms.{name}.{path}", changes[path], reason)

    def _rate_problems(self) -> Iterator[Problem]:
        for rate in self.learning_rates:
            yield from checks.positive(learning_rates=rate)
        if len(set(self.learning_rates)) < len(self.learning_rates):
            yield Problem("learning_rates", self.learning_rates, "a rate is there twice")

    def _set_for_all(self) -> set[str]:
        return {"seed", *(["optimizer.learning_rate"] if self.learning_rates else [])}


def changed(run: TrainConfig, changes: Changes) -> TrainConfig:
    """The run with some fields changed, checked as a config file is.

    Raises ConfigError for a field that does not exist, or that only passes its value on to parts
    which already have one.
    """
    plain, changes = to_dict(run), flatten(changes)
    for path, value in changes.items():
        section = plain
        *sections, last = path.split(".")
        for key in sections:
            if not isinstance(section.get(key), dict):
                section[key] = {}
            section = section[key]
        section[last] = to_dict(value)
    result = from_dict(plain, TrainConfig)
    check(_without_effect(result, changes))
    return result


def _without_effect(run: TrainConfig, changes: Changes) -> Iterator[Problem]:
    flat = flatten(to_dict(run))
    for path, value in changes.items():
        if flat.get(path) != to_dict(value) and not any(k.startswith(path + ".") for k in flat):
            yield Problem(path, value, "changes nothing here; name the part's own field")


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested sections as dotted paths.

    >>> flatten({"model": {"d_ff": 8}, "steps": 3})
    {'model.d_ff': 8, 'steps': 3}
    """
    if not isinstance(tree, Mapping) or (prefix and not tree):
        return {prefix.removesuffix("."): tree}
    return {k: v for key, sub in tree.items() for k, v in flatten(sub, f"{prefix}{key}.").items()}


def prepare(config: CompareConfig) -> dict[str, Trainer]:
    """A trainer for each arm; writes nothing.

    Raises ConfigError for all that can be wrong with the input once the config has been read:
    data that is missing or too short, arms that do not fit it.
    """
    data = load_data(config.run.data, config.run.batch_size)
    return {name: Trainer(arm, data) for name, arm in matched_arms(config, data).items()}


def compare(
    config: CompareConfig,
    directory: Path,
    watch: Watch = lambda *_: None,
    trainers: Mapping[str, Trainer] | None = None,
    staff: "Executor | None" = None,
) -> Comparison:
    """Tunes, trains, and writes ``results.json``; does only what is missing in the directory.

    The resolved config is written beside it: ``gelu-jax compare <directory>/config.yaml`` repeats
    the comparison.

    ``watch`` is called with a task and its record, as it begins and at each evaluation.
    ``trainers`` are those of `prepare`, where it has been called before. ``staff`` does the runs;
    without one they are done here, one after another.
    """
    trainers = trainers or prepare(config)
    arms = {name: trainer.config for name, trainer in trainers.items()}
    directory.mkdir(parents=True, exist_ok=True)
    write_config(config, directory / "config.yaml")
    staff = staff or SerialExecutor(trainers, directory, watch)
    tuning = _tune(config, staff)
    # Seeds outside, arms inside: the running differences are paired from the first seed on.
    rates = {name: _rate(config, arms[name], tuning[name]) for name in arms}
    first = config.run.seed
    reported = staff.perform([
        Task(name, seed, rate, "report")
        for seed in range(first, first + config.seeds)
        for name, rate in rates.items()
    ])  # fmt: skip
    runs = (*chain.from_iterable(tuning.values()), *reported)
    data = next(iter(trainers.values())).data
    comparison = _record(directory.name, config, arms, data, runs, staff.environment)
    write_results(comparison, directory)
    return comparison


class Executor(Protocol):
    """Who does the runs of a comparison."""

    def perform(self, tasks: Sequence[Task]) -> list[Run]:
        """The records of some tasks, in their order; what is done already is only read."""
        ...

    @property
    def environment(self) -> dict[str, str]:
        """Where they are done, and how."""
        ...


@dataclass(frozen=True)
class SerialExecutor:
    """This process, which does one run after another."""

    trainers: Mapping[str, Trainer]
    directory: Path
    watch: Watch

    def perform(self, tasks: Sequence[Task]) -> list[Run]:
        return [perform(self.trainers[t.arm], t, self.directory, self.watch) for t in tasks]

    @property
    def environment(self) -> dict[str, str]:
        return environment() | {"runs": "one after another, in one process"}


def matched_arms(config: CompareConfig, data: Dataset) -> dict[str, TrainConfig]:
    """The config of each arm: its changes made, and its width matched to the first arm's cost."""
    arms = {name: changed(config.run, changes) for name, changes in config.arms.items()}
    if config.match == "width":
        return arms
    costs: dict[str, matching.Cost] = {
        "parameters": matching.parameters,
        "flops": lambda arm: matching.flops_per_step(arm, data),
    }
    cost = costs[config.match]
    target = cost(next(iter(arms.values())))
    return {
        name: arm
        if cost(arm) == target or _names_width(config.arms[name])
        else matching.matched(arm, cost, target, config.multiple_of)
        for name, arm in arms.items()
    }


def _names_width(changes: Changes) -> bool:
    return any(path.split(".")[-1] == "d_ff" for path in changes)


def _tune(config: CompareConfig, staff: Executor) -> dict[str, list[Run]]:
    """The runs of each arm's search for its rate; a best rate at the edge extends the grid once."""
    found: dict[str, list[Run]] = {name: [] for name in config.arms}
    rates = sorted(config.learning_rates)
    if len(rates) < 2:
        return found
    start = config.run.seed + _TUNING
    seeds = range(start, start + config.tuning_seeds)

    def search(rates_of: Mapping[str, Sequence[float]]) -> None:
        # Arms inside, as with the seeds: workers begin with different arms, compile each one once
        tasks = [
            Task(name, seed, rates_of[name][index], "tuning")
            for index in range(max(map(len, rates_of.values()), default=0))
            for seed in seeds
            for name in rates_of
        ]
        for run in staff.perform(tasks) if tasks else ():
            found[run.arm].append(run)

    search(dict.fromkeys(found, rates))
    beyond = {rates[0]: rates[0] ** 2 / rates[1], rates[-1]: rates[-1] ** 2 / rates[-2]}
    best = {name: best_rate(runs, config.metric) for name, runs in found.items()}
    search({name: [beyond[rate]] for name, rate in best.items() if rate in beyond})
    return found


def _rate(config: CompareConfig, arm: TrainConfig, tuning: Sequence[Run]) -> float:
    """The rate of the reported runs: tuned, or the only one of the grid, or the arm's own."""
    if tuning:
        return best_rate(tuning, config.metric)
    return config.learning_rates[0] if config.learning_rates else arm.optimizer.learning_rate


def best_rate(runs: Sequence[Run], metric: Metric) -> float:
    """The rate of the lowest mean final loss, a diverged run counting as infinite."""
    losses: dict[float, list[float]] = {}
    for run in runs:
        loss = final_loss(run, metric) if run.status == "finished" else math.inf
        losses.setdefault(run.learning_rate, []).append(loss)
    return min(losses, key=lambda rate: fmean(losses[rate]))


def planned_steps(config: CompareConfig) -> dict[str, int]:
    """The steps of all runs of each arm, should no grid be extended."""
    rates = len(config.learning_rates)
    runs = config.seeds + (rates * config.tuning_seeds if rates > 1 else 0)
    return {name: runs * changed(config.run, arm).steps for name, arm in config.arms.items()}


def _record(
    name: str,
    config: CompareConfig,
    arms: Mapping[str, TrainConfig],
    data: Dataset,
    runs: Sequence[Run],
    where: Mapping[str, str],
) -> Comparison:
    flat = {name: flatten(to_dict(arm)) for name, arm in arms.items()}
    base = next(iter(flat.values()))
    return Comparison(
        name=name,
        description=config.description,
        unit=config.run.data.unit,
        tokens_per_step=data.tokens_per_step,
        protocol=config.protocol,
        arms=tuple(
            Arm(
                name,
                {k: v for k, v in flat[name].items() if k not in base or base[k] != v},
                matching.parameters(arm),
                matching.flops_per_step(arm, data),
                matching.width(arm),
            )
            for name, arm in arms.items()
        ),
        runs=tuple(runs),
        config=to_dict(config),
        environment=where,
        data={"description": data.facts.description, "hash": data.facts.hash},
        command=f"gelu-jax compare runs/{name}/config.yaml",
        metric=config.metric,
    )


def environment() -> dict[str, str]:
    """Where a result comes from: versions, device, commit, date."""
    device = jax.devices()[0]
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
        "device": f"{device.device_kind} × {jax.device_count()}, {os.cpu_count()} CPU cores",
        "platform": platform.platform(),
        "python": platform.python_version(),
        "gelu_jax": __version__,
        **{name: version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")},
    }


def _commit() -> str:
    where = Path(__file__).parent
    command = ["git", "-C", str(where), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
