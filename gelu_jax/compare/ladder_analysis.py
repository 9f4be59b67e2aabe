"""From the rungs of a ladder to its numbers: laws of loss and compute, and effective speed-ups."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple

import numpy as np

from gelu_jax.compare.analysis import Analysis, ArmSummary, analyze
from gelu_jax.compare.family import Look, infer
from gelu_jax.compare.records import Comparison
from gelu_jax.compare.scaling import (
    Law,
    fit_laws,
    held_out_errors,
    jackknife,
    log_speed_ups,
    mean_and_slope,
    shares_floor,
)
from gelu_jax.compare.statistics import Floats
from gelu_jax.errors import Problem, check

Looks = tuple[Look, ...]
Unit = Literal["FLOPs", "tokens", "seconds"]

COSTS: Mapping[Unit, Callable[[Comparison, ArmSummary, int], float]] = {
    "FLOPs": lambda rung, arm, steps: arm.arm.flops_per_step * steps,
    "tokens": lambda rung, arm, steps: float(rung.tokens_per_step * steps),
    "seconds": lambda rung, arm, steps: arm.seconds_per_step * steps,
}
"""What a run costs in each unit; seconds are of training alone, on the device that trained."""

STEADY = 0.1
"""A slope of log₁₀ of the speed-up, per decade, that counts as none: 26 % per decade."""

NEGLIGIBLE = 0.01
"""One that counts as none even where it differs significantly from 0: 2 % per decade."""


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % confidence interval.

    Attributes:
      value: the number.
      interval: None where so few seeds bound nothing.
      p_adjusted: in the family of all that the ladder asserts; NaN where nothing is asserted.
      found: whether it differs significantly from zero, or a factor from 1.
    """

    value: float
    interval: tuple[float, float] | None
    p_adjusted: float = math.nan
    found: bool = False


@dataclass(frozen=True)
class SpeedUp:
    """How many times the cost of an arm the first arm needs for the same loss.

    Attributes:
      arm: its name.
      at_rungs: the factor at each rung; each interval holds on its own.
      mean: the geometric mean over the rungs.
      slope: of log₁₀ of the factor, per decade of the first arm's cost.
    """

    arm: str
    at_rungs: tuple[Estimate, ...]
    mean: Estimate
    slope: Estimate

    @property
    def trend(self) -> str:
        """What the factor does with scale: "grows", "shrinks", "stays", or "unknown"."""
        most = max(map(abs, self.slope.interval or (-math.inf, math.inf)))
        if self.slope.found and most > NEGLIGIBLE:
            return "grows" if self.slope.value > 0 else "shrinks"
        return "stays" if most <= STEADY else "unknown"


@dataclass(frozen=True)
class LadderAnalysis:
    """All numbers of a ladder.

    Attributes:
      rungs: the analysis of each rung, from the smallest to the largest.
      arms: the arms with a law: those without a diverged run, if the first arm is one of them.
      diverged: the other arms.
      seeds: those that all of these arms have finished at every rung.
      costs: unit → (arms, rungs) cost of a run.
      losses: (seeds, arms, rungs) final losses.
      laws: unit → the law of each arm.
      shared: whether the arms have one L∞.
      exponents: α of each arm's law in FLOPs.
      floors: L∞ of each arm's law in FLOPs.
      held_out: (arms, rungs) predicted − measured loss of each rung from the others, in FLOPs; None
        for fewer than four rungs.
      speed_ups: unit → arms but the first; the family that is tested has mean and slope in FLOPs.
      looks: the numbers of seeds at which the ladder was evaluated, with the level spent by then.
    """

    rungs: tuple[Analysis, ...]
    arms: tuple[str, ...]
    diverged: tuple[str, ...]
    seeds: tuple[int, ...]
    costs: Mapping[Unit, Floats]
    losses: Floats
    laws: Mapping[Unit, tuple[Law, ...]]
    shared: bool
    exponents: tuple[Estimate, ...]
    floors: tuple[Estimate, ...]
    held_out: Floats | None
    speed_ups: Mapping[Unit, tuple[SpeedUp, ...]]
    looks: Looks

    @property
    def sizes(self) -> tuple[int, ...]:
        """Parameters of the first arm at each rung."""
        return tuple(rung.comparison.first.parameters for rung in self.rungs)


def analyze_ladder(rungs: Sequence[Comparison]) -> LadderAnalysis:
    """Fits the laws, and tests the speed-ups of all arms and their slopes as one family.

    Args:
      rungs: the records, from the smallest size to the largest; at least three, of the same arms.

    Returns:
      Every number that the report of a ladder shows.

    Raises:
      ConfigError: the rungs have different arms, or no seed has finished at all of them.
    """
    analyses = tuple(map(analyze, rungs))
    arms, diverged = _arms(analyses)
    summaries = [[_summary(rung, arm) for rung in analyses] for arm in arms]
    finished = (set(each.losses) for arm in summaries for each in arm)
    seeds = tuple(sorted(set[int].intersection(*finished)))
    check([] if seeds else [Problem("seeds", [], "none has finished at all rungs")])
    losses = np.array([[[each.losses[s] for each in arm] for arm in summaries] for s in seeds])
    costs: dict[Unit, Floats] = {unit: _costs(rungs, summaries, unit) for unit in COSTS}
    shared = shares_floor(costs["FLOPs"], losses.mean(0))
    looks = analyses[0].looks
    fits: dict[Unit, _Fits] = {
        unit: _fits(costs[unit], losses, arms, looks, shared=shared) for unit in COSTS
    }
    speed_ups: dict[Unit, tuple[SpeedUp, ...]] = {u: fit.speed_ups for u, fit in fits.items()}
    if rungs[0].protocol == "full":
        tested = _tested(fits["FLOPs"], len(rungs), looks)
        speed_ups["FLOPs"] = tuple(map(_with_test, speed_ups["FLOPs"], tested))
    held_out = None
    if len(rungs) > 3:
        held_out = held_out_errors(costs["FLOPs"], losses.mean(0), shared=shared)
    return LadderAnalysis(
        rungs=analyses,
        arms=arms,
        diverged=diverged,
        seeds=seeds,
        costs=costs,
        losses=losses,
        laws={unit: fit.laws for unit, fit in fits.items()},
        shared=shared,
        exponents=fits["FLOPs"].exponents,
        floors=fits["FLOPs"].floors,
        held_out=held_out,
        speed_ups=speed_ups,
        looks=looks,
    )


def _arms(analyses: Sequence[Analysis]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The arms that can have a law, and those of which a run diverged."""
    names = [tuple(arm.arm.name for arm in rung.arms) for rung in analyses]
    if len(set(names)) > 1:
        check([Problem("arms", list(names[-1]), f"the first rung has {', '.join(names[0])}")])
    lost = {arm.arm.name for rung in analyses for arm in rung.arms if arm.diverged}
    kept = tuple(name for name in names[0] if name not in lost)
    if names[0][0] in lost:
        check([Problem("arms", names[0][0], "a run of the first arm diverged: there is no law")])
    return kept, tuple(name for name in names[0] if name in lost)


def _summary(rung: Analysis, arm: str) -> ArmSummary:
    return next(each for each in rung.arms if each.arm.name == arm)


def _costs(
    rungs: Sequence[Comparison], summaries: Sequence[Sequence[ArmSummary]], unit: Unit
) -> Floats:
    return np.array([
        [
            COSTS[unit](rung, summary, _steps(rung, summary.arm.name))
            for rung, summary in zip(rungs, arm, strict=True)
        ]
        for arm in summaries
    ])  # fmt: skip


def _steps(rung: Comparison, arm: str) -> int:
    return max(run.eval_steps[-1] for run in rung.runs_of(arm) if run.eval_steps)


class _Fits(NamedTuple):
    """The laws in one unit, every number with an interval of its own, and what gave them."""

    laws: tuple[Law, ...]
    speed_ups: tuple[SpeedUp, ...]
    floors: tuple[Estimate, ...]
    exponents: tuple[Estimate, ...]
    values: Floats  # (arms, numbers)
    seeds: Floats  # (seeds, arms, numbers), what each seed contributes to them


def _fits(
    costs: Floats, losses: Floats, arms: Sequence[str], looks: Looks, *, shared: bool
) -> _Fits:
    numbers = partial(_laws_and_speed_ups, costs, shared)
    value, seeds = jackknife(lambda mean: numbers(mean).ravel(), losses)
    table = [Estimate(float(v), _interval(seeds[:, at], looks)) for at, v in enumerate(value)]
    rungs, width = costs.shape[1], costs.shape[1] + 4
    rows = [table[start : start + width] for start in range(0, len(table), width)]
    return _Fits(
        fit_laws(costs, losses.mean(0), shared=shared),
        tuple(
            SpeedUp(arm, tuple(map(_factor, row[:rungs])), _factor(row[rungs]), row[rungs + 1])
            for arm, row in zip(arms[1:], rows[1:], strict=True)
        ),
        tuple(row[-2] for row in rows),
        tuple(row[-1] for row in rows),
        value.reshape(-1, width),
        seeds.reshape(len(seeds), -1, width),
    )


def _laws_and_speed_ups(costs: Floats, shared: bool, losses: Floats) -> Floats:
    """(arms, rungs + 4): log₁₀ speed-up at each rung, its mean and slope, L∞ and α."""
    laws = fit_laws(costs, losses, shared=shared)
    logs = np.vstack([np.zeros(costs.shape[1]), log_speed_ups(costs, losses, laws[0])])
    parts = [logs, mean_and_slope(costs[0], logs), [[w.floor, w.exponent] for w in laws]]
    return np.concatenate(parts, axis=1)


def _interval(seeds: Floats, looks: Looks) -> tuple[float, float] | None:
    """The interval of one number from what each seed contributes to it."""
    if len(seeds) < 2 or not np.isfinite(seeds).all():
        return None
    if np.ptp(seeds) == 0:  # no seed changes it: the bound of a parameter
        return None
    return _finite(infer(seeds[:, None], _until(looks, len(seeds)))[0].interval)


def _until(looks: Looks, seeds: int) -> Looks:
    """The looks at so many seeds, where some have not finished."""
    return tuple(look._replace(pairs=min(look.pairs, seeds)) for look in looks)


def _finite(interval: tuple[float, float]) -> tuple[float, float] | None:
    return interval if math.isfinite(sum(interval)) else None


def _factor(log: Estimate) -> Estimate:
    """An estimate of log₁₀ of a factor as one of the factor."""
    bounds = log.interval and (10 ** log.interval[0], 10 ** log.interval[1])
    return replace(log, value=10**log.value, interval=bounds)


def _with_test(speed_up: SpeedUp, tested: tuple[Estimate, Estimate]) -> SpeedUp:
    return replace(speed_up, mean=_factor(tested[0]), slope=tested[1])


def _tested(fits: _Fits, rungs: int, looks: Looks) -> list[tuple[Estimate, Estimate]]:
    """Mean and slope of the speed-up of each arm but the first, as one family of tests."""
    value = fits.values[1:, rungs : rungs + 2].ravel()
    seeds = fits.seeds[:, 1:, rungs : rungs + 2].reshape(len(fits.seeds), -1)
    found = [Estimate(float(v), None) for v in value]
    usable = [at for at in range(len(value)) if len(seeds) > 1 and np.isfinite(seeds[:, at]).all()]
    results = infer(seeds[:, usable], _until(looks, len(seeds))) if usable else ()
    for at, result in zip(usable, results, strict=True):
        interval = _finite(result.interval)
        found[at] = Estimate(float(value[at]), interval, result.p_value, result.found)
    return list(zip(found[::2], found[1::2], strict=True))
