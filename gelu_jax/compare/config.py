"""The config of a comparison: one run, and the arms that differ from it in the fields they name."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, Literal

import numpy as np

from gelu_jax.compare.factors import factorial_arms, factorial_contrasts, references
from gelu_jax.compare.ladder import SCALED, LadderConfig
from gelu_jax.compare.records import Metric
from gelu_jax.errors import ConfigError, Problem, check
from gelu_jax.nn import checks
from gelu_jax.training.config import from_dict, to_dict
from gelu_jax.training.optimizer import with_learning_rate
from gelu_jax.training.trainer import TrainConfig

Changes = Mapping[str, Any]

TUNING_OFFSET = 1_000
"""The seeds of tuning runs begin so far above the first reported seed."""


@dataclass(frozen=True)
class CompareConfig:
    """What is compared.

    An arm's width is matched to the first arm's cost, unless the arm sets its width itself. With
    several learning rates each arm takes the one that is best on seeds that are not reported.

    Attributes:
      run: the run that the arms change.
      arms: name → changes, as dotted path → value; the others are compared with the first. Where
        there are factors, their combinations.
      contrasts: name → arm → weight, the sums of losses that are asked about, such as
        `{deep: {gelu_deep: 1, relu_deep: -1}}`; the weights of one sum to zero. Only these are
        tested, so fewer find more. By default every pair of arms is, and where there are factors
        the differences within levels, main effects and interactions.
      factors: factor → level → changes, instead of arms: every combination of levels is one, and is
        compared and matched within the levels of all factors but the first (see `factors`).
      description: one or two sentences for the report.
      metric: the loss that learning rates are chosen and arms compared by. The training loss at an
        evaluation is the mean over the steps since the one before, with dropout if there is any.
      seeds: how many are reported, counted up from `run.seed`.
      max_seeds: how many there may be after all calls of `--add-seeds`; each call spends a part of
        the level 0.05, so that the chance of a false finding stays below it over all of them. By
        default as many as `seeds`: one evaluation, which has the whole level.
      learning_rates: the grid to choose from, or arm → grid; empty keeps each arm's own.
      tuning_seeds: how many seeds choose the learning rate.
      match: what arms have in common: "parameters", "active_parameters", which one token meets in
        a mixture of experts, "flops" of a step, or "width".
      multiple_of: matched widths are multiples of it.
      protocol: "full", or "smoke test", which draws no conclusion.
      ladder: repeats the comparison at several sizes, and fits a law of loss and compute; None is
        the one size of `run`.

    Raises:
      ConfigError: with a line for everything that is wrong.
    """

    run: TrainConfig
    arms: Mapping[str, Changes] = field(default_factory=dict[str, Changes])
    contrasts: Mapping[str, Mapping[str, float]] = field(
        default_factory=dict[str, Mapping[str, float]]
    )
    factors: Mapping[str, Mapping[str, Changes]] = field(
        default_factory=dict[str, Mapping[str, Changes]]
    )
    description: str = ""
    metric: Metric = "validation loss"
    seeds: int = 8
    max_seeds: int | None = None
    learning_rates: tuple[float, ...] | Mapping[str, tuple[float, ...]] = ()
    tuning_seeds: int = 2
    match: Literal["parameters", "active_parameters", "flops", "width"] = "parameters"
    multiple_of: int = 8
    protocol: Literal["full", "smoke test"] = "full"
    ladder: LadderConfig | None = None

    def __post_init__(self):
        check(self._factor_problems())
        if self.factors and not self.arms:  # written out, so that records show them
            object.__setattr__(self, "arms", factorial_arms(self.factors))
        if self.factors and not self.contrasts:
            object.__setattr__(self, "contrasts", factorial_contrasts(self.factors))
        check(self._problems())

    @property
    def references(self) -> dict[str, str]:
        """The arm that each arm is matched to: the first one, or within levels of factors."""
        first = next(iter(self.arms), "")
        return references(self.factors) if self.factors else dict.fromkeys(self.arms, first)

    def _factor_problems(self) -> Iterator[Problem]:
        for name, levels in self.factors.items():
            if len(levels) < 2:
                yield Problem(f"factors.{name}", list(levels), "a factor has at least two levels")
        paths = [{p for level in f.values() for p in level} for f in self.factors.values()]
        for path in sorted(set[str]().union(*(a & b for a, b in combinations(paths, 2)))):
            yield Problem("factors", path, "is changed by two factors")
        arms = factorial_arms(self.factors) if self.factors else {}
        if arms and self.arms and to_dict(self.arms) != to_dict(arms):
            yield Problem("arms", list(self.arms), "factors give the arms; leave them out")

    def _problems(self) -> Iterator[Problem]:
        yield from checks.positive(
            seeds=self.seeds, tuning_seeds=self.tuning_seeds, multiple_of=self.multiple_of
        )
        if self.seeds > TUNING_OFFSET:
            reason = f"more than {TUNING_OFFSET} would overlap with the tuning seeds"
            yield Problem("seeds", self.seeds, reason)
        if self.max_seeds is not None and self.seeds > self.max_seeds:
            reason = f"more than max_seeds = {self.max_seeds}, which was fixed beforehand"
            yield Problem("seeds", self.seeds, reason)
        yield from self._rate_problems()
        if self.ladder and self.run.early_stopping_patience is not None:
            yield _censored("run.", self.run.early_stopping_patience)
        if not self.arms:
            yield Problem("arms", {}, "a comparison has at least one arm")
        for name, changes in self.arms.items():
            yield from self._arm_problems(name, changes)
        yield from self._contrast_problems()

    def _rate_problems(self) -> Iterator[Problem]:
        own = self.learning_rates if isinstance(self.learning_rates, Mapping) else {}
        if own and own.keys() != self.arms.keys():
            reason = f"must name each arm once: {', '.join(self.arms)}"
            yield Problem("learning_rates", list(own), reason)
        for grid in own.values() or (self.grid(""),):
            for learning_rate in grid:
                yield from checks.positive(learning_rates=learning_rate)
                yield from checks.finite(learning_rates=learning_rate)
            if len(set(grid)) < len(grid):
                yield Problem("learning_rates", grid, "a rate is given twice")

    def grid(self, arm: str) -> tuple[float, ...]:
        """The learning rates that an arm chooses from.

        Args:
          arm: its name.

        Returns:
          Its grid; nothing where the arm keeps its own rate.
        """
        rates = self.learning_rates
        return tuple(rates.get(arm, ()) if isinstance(rates, Mapping) else rates)

    def _contrast_problems(self) -> Iterator[Problem]:
        directions: dict[tuple[float, ...], str] = {}
        for name, weights in self.contrasts.items():
            path = f"contrasts.{name}"
            for arm in weights.keys() - self.arms.keys():
                yield Problem(path, arm, f"no such arm; the arms are {', '.join(self.arms)}")
            if abs(sum(weights.values())) > 1e-9 or not any(weights.values()):
                yield Problem(path, dict(weights), "the weights must sum to zero, and not all be 0")
                continue
            vector = np.array([weights.get(arm, 0.0) for arm in self.arms])
            vector = np.round(vector / vector[np.argmax(np.abs(vector))], 9)
            if (same := directions.setdefault(tuple(vector), name)) != name:
                yield Problem(path, dict(weights), f"asks the same as {same}")

    def _arm_problems(self, name: str, changes: Changes) -> Iterator[Problem]:
        if not name or set(name) & set("/\\") or name.startswith("."):
            yield Problem("arms", name, "cannot be the name of a folder")
        try:
            arm = changed(self.run, changes)
            if (arm.data, arm.batch_size) != (self.run.data, self.run.batch_size):
                yield Problem(f"arms.{name}", dict(changes), "arms must see the same data")
            for learning_rate in (rate for rate in self.grid(name) if 0 < rate < math.inf):
                with_learning_rate(arm.optimizer, learning_rate)  # raises what does not fit
        except ConfigError as error:
            yield from (replace(p, field=f"arms.{name}.{p.field}") for p in error.problems)
        shared = {"seed", *(["optimizer.learning_rate"] if self.learning_rates else [])}
        for path in changes.keys() & shared:
            reason = "is the same for all arms: set seeds and learning_rates instead"
            yield Problem(f"arms.{name}.{path}", changes[path], reason)
        if self.ladder and "early_stopping_patience" in changes:
            yield _censored(f"arms.{name}.", changes["early_stopping_patience"])
        sizes = {path for path in changes if path.split(".")[-1] in SCALED}
        for path in sizes if self.ladder else ():
            yield Problem(f"arms.{name}.{path}", changes[path], "a ladder sets it at each rung")


def _censored(section: str, patience: object) -> Problem:
    reason = "a ladder needs the loss at the end of every run"
    return Problem(f"{section}early_stopping_patience", patience, reason)


def changed(run: TrainConfig, changes: Changes) -> TrainConfig:
    """A run with some fields changed, checked as a config file is.

    Args:
      run: the config to change.
      changes: dotted path → value.

    Returns:
      A new config.

    Raises:
      ConfigError: a field does not exist, or only passes its value on to parts that have their own.
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
            yield Problem(path, value, "changes nothing here; name the field of the part itself")


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested sections as dotted paths.

    Args:
      tree: nested mappings.
      prefix: put before each path.

    Returns:
      Dotted path → value.

    >>> flatten({"model": {"d_ff": 8}, "steps": 3})
    {'model.d_ff': 8, 'steps': 3}
    """
    if not isinstance(tree, Mapping) or (prefix and not tree):
        return {prefix.removesuffix("."): tree}
    return {k: v for key, sub in tree.items() for k, v in flatten(sub, f"{prefix}{key}.").items()}


def differences(there: CompareConfig, here: CompareConfig) -> list[str]:
    """What tells two comparisons apart, field by field.

    Args:
      there: the one that stands somewhere.
      here: the one that is asked for.

    Returns:
      "field: value there, value here" for each field; nothing if one is the other with any number
      of seeds, its arms in any order but for the first one, which the others are compared with.
    """
    baselines = [next(iter(each.arms)) for each in (there, here)]
    if baselines[0] != baselines[1]:
        first = f"{baselines[0]} is the first arm there, {baselines[1]} here"
        return [f"{first}, which the others are compared with"]
    # as plain data, because a dtype that was read back is a name
    before, after = (flatten(to_dict(replace(c, seeds=1))) for c in (there, here))
    return [
        f"{name}: {before.get(name, 'nothing')} there, {after.get(name, 'nothing')} here"
        for name in dict.fromkeys([*before, *after])
        if str(before.get(name, "nothing")) != str(after.get(name, "nothing"))
    ]
