"""From a comparison to its numbers: a summary of each arm, and each arm against the first."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from gelu_jax.compare.curves import LOSSES, final_loss
from gelu_jax.compare.records import Arm, Comparison
from gelu_jax.compare.statistics import (
    detectable_difference,
    fewest_pairs,
    holm,
    paired_interval,
    pairing_gain,
    seeds_needed,
    sign_flip_test,
    speed_up,
)

ALPHA = 0.05
"""The level at which a difference is significant."""


@dataclass(frozen=True)
class ArmSummary:
    """One arm's reported runs over its seeds, and the result of its learning-rate search.

    Attributes:
      arm: the arm.
      learning_rate: the rate of the reported runs; NaN where there is none.
      losses: seed → final loss, of the runs that finished and no other.
      accuracies: final validation accuracies of those runs, where they were measured.
      diverged: seeds whose run diverged.
      interrupted: seeds whose run has not finished.
      seconds_per_step: median over the finished runs, without compilation.
      seconds_per_run: likewise, of a whole run.
      compile_seconds: the longest compilation of a run.
      mismatch: parameters relative to the first arm's, minus 1.
      rates: learning rate → mean final loss over the tuning seeds. A run that diverged, or ended
        above the first loss of its curve, counts with that first loss.
      sensitivity: mean of `rates` minus their minimum (Wortsman et al., "Small-scale proxies for
        large-scale Transformer training instabilities", 2023, eq. 1); NaN without a search.
      at_edge: whether the chosen rate is the lowest or highest that was tried.
    """

    arm: Arm
    learning_rate: float
    losses: Mapping[int, float]
    accuracies: tuple[float, ...]
    diverged: tuple[int, ...]
    interrupted: tuple[int, ...]
    seconds_per_step: float
    seconds_per_run: float
    compile_seconds: float
    mismatch: float
    rates: Mapping[float, float]
    sensitivity: float
    at_edge: bool

    @property
    def mean(self) -> float:
        """The mean final loss of the runs that finished; NaN for none."""
        return float(np.mean([*self.losses.values()])) if self.losses else math.nan

    @property
    def sd(self) -> float:
        """The standard deviation over seeds; NaN for fewer than two."""
        return _sd(np.array([*self.losses.values()]))


@dataclass(frozen=True)
class Contrast:
    """One arm against the first over the seeds that both finished: arm − first, lower is better.

    Attributes:
      arm: the arm's name.
      seeds: the paired seeds.
      differences: one per seed, in the unit of the loss.
      mean: their mean; NaN without a pair.
      sd: their standard deviation; NaN for fewer than two.
      interval: 95 % bootstrap confidence interval of the mean; None for fewer than three pairs.
      p_value: p of the sign-flip test.
      p_adjusted: that p, Holm-adjusted over all contrasts.
      detectable: the minimum detectable difference with 80 % power at level ALPHA / contrasts.
      pairing_gain: variance of an unpaired difference over that of a paired one.
      more_seeds: how many further seeds would find the observed difference with 80 % power, were
        it the true one; None for more than 100 seeds in all.
      more_seconds: what they would take, all arms trained one after another, with compilation.
      speed_up: how many times fewer steps the arm needs to reach the first arm's median final
        loss; 0 where it does not, NaN where the curves share no steps.
      speed_up_interval: its 95 % bootstrap confidence interval; None for fewer than three pairs.
      diverged: whether a run of either arm diverged.
      found: whether the difference is significant: p_adjusted ≤ ALPHA, but never in a smoke test
        nor where a run diverged.
    """

    arm: str
    seeds: tuple[int, ...]
    differences: tuple[float, ...]
    mean: float
    sd: float
    interval: tuple[float, float] | None
    p_value: float
    p_adjusted: float
    detectable: float
    pairing_gain: float
    more_seeds: int | None
    more_seconds: float
    speed_up: float
    speed_up_interval: tuple[float, float] | None
    diverged: bool
    found: bool = False


@dataclass(frozen=True)
class Analysis:
    """All numbers of a comparison.

    Attributes:
      comparison: what they were computed from.
      arms: a summary of each arm, in the order of the config.
      contrasts: each arm but the first, against the first.
      significant: pairs of arm names (lower, higher) whose mean losses differ significantly.
    """

    comparison: Comparison
    arms: tuple[ArmSummary, ...]
    contrasts: tuple[Contrast, ...]
    significant: frozenset[tuple[str, str]]

    @property
    def order(self) -> tuple[ArmSummary, ...]:
        """The arms with a finished run, lowest mean loss first."""
        return tuple(sorted((a for a in self.arms if a.losses), key=lambda a: a.mean))

    @property
    def run_config(self) -> Mapping[str, Any]:
        """The config of one run before any arm's changes, whose paths lead into it."""
        config = self.comparison.config
        return config.get("run", config)

    @property
    def decimals(self) -> int:
        """How many decimals of a loss to print: two digits of the smallest standard deviation."""
        spreads = [
            s for s in (*(a.sd for a in self.arms), *(c.sd for c in self.contrasts)) if s > 0
        ]
        return min(8, max(3, 1 - math.floor(math.log10(min(spreads))))) if spreads else 4


def analyze(comparison: Comparison) -> Analysis:
    """Summarizes every arm and compares each with the first, paired by seed.

    Args:
      comparison: the record of a comparison, finished or not.

    Returns:
      Every number that a report shows.
    """
    arms = tuple(_summary(comparison, arm) for arm in comparison.arms)
    alpha = ALPHA / max(1, len(arms) - 1)
    raw = [_contrast(comparison, arms, arm, alpha) for arm in arms[1:]]
    adjusted = holm([contrast.p_value for contrast in raw])
    full = comparison.protocol == "full"
    contrasts = tuple(
        replace(c, p_adjusted=p, found=full and p <= ALPHA and not c.diverged)
        for c, p in zip(raw, adjusted, strict=True)
    )
    pairs = _significant_pairs(arms, contrasts) if full else frozenset[tuple[str, str]]()
    return Analysis(comparison, arms, contrasts, pairs)


def _summary(comparison: Comparison, arm: Arm) -> ArmSummary:
    runs = comparison.runs_of(arm.name)
    finished = [run for run in runs if run.status == "finished"]
    timed = [run for run in finished if run.eval_steps and run.eval_steps[-1] > 0]
    rates = _rates(comparison, arm)
    chosen = runs[0].learning_rate if runs else math.nan
    return ArmSummary(
        arm=arm,
        learning_rate=chosen,
        losses={run.seed: final_loss(run, comparison.metric) for run in finished},
        accuracies=tuple(r.validation_accuracy[-1] for r in finished if r.validation_accuracy),
        diverged=tuple(run.seed for run in runs if run.status == "diverged"),
        interrupted=tuple(run.seed for run in runs if run.status == "interrupted"),
        seconds_per_step=_median([run.seconds[-1] / run.eval_steps[-1] for run in timed]),
        seconds_per_run=_median([run.seconds[-1] for run in timed]),
        compile_seconds=max((run.compile_seconds for run in runs), default=0.0),
        mismatch=arm.parameters / comparison.first.parameters - 1,
        rates=rates,
        sensitivity=float(np.mean([*rates.values()])) - min(rates.values()) if rates else math.nan,
        at_edge=len(rates) > 1 and chosen in (min(rates), max(rates)),
    )


def _rates(comparison: Comparison, arm: Arm) -> Mapping[float, float]:
    """Learning rate → mean final loss, as `ArmSummary.rates`."""
    losses: dict[float, list[float]] = {}
    for run in comparison.runs_of(arm.name, "tuning"):
        curve = LOSSES[comparison.metric](run).values
        if curve and run.status != "interrupted":
            start, end = curve[0], curve[-1]
            worse = run.status == "diverged" or not end <= start
            losses.setdefault(run.learning_rate, []).append(start if worse else end)
    return {rate: float(np.mean(values)) for rate, values in losses.items()}


def _contrast(
    comparison: Comparison, arms: tuple[ArmSummary, ...], arm: ArmSummary, alpha: float
) -> Contrast:
    first = arms[0]
    seeds, differences = _paired(first, arm)
    mean = float(np.mean(differences)) if seeds else math.nan
    sd = _sd(differences)
    needed = seeds_needed(mean, sd, alpha) if len(seeds) > 1 else fewest_pairs(alpha)
    more = None if needed is None else max(1, needed - len(seeds))
    factor, factor_interval = _speed_up(comparison, first, arm, seeds)
    return Contrast(
        arm=arm.arm.name,
        seeds=seeds,
        differences=tuple(map(float, differences)),
        mean=mean,
        sd=sd,
        interval=paired_interval(differences),
        p_value=float(sign_flip_test(differences)) if len(seeds) > 1 else 1.0,
        p_adjusted=1.0,
        detectable=detectable_difference(sd, len(seeds), alpha),
        pairing_gain=pairing_gain(*_paired_losses(first, arm, seeds)),
        more_seeds=more,
        more_seconds=(more or 0) * sum(a.seconds_per_run for a in arms)
        + sum(a.compile_seconds for a in arms),
        speed_up=factor,
        speed_up_interval=factor_interval,
        diverged=bool(first.diverged or arm.diverged),
    )


def _paired(first: ArmSummary, arm: ArmSummary) -> tuple[tuple[int, ...], np.ndarray]:
    seeds = tuple(sorted(first.losses.keys() & arm.losses.keys()))
    first_losses, arm_losses = _paired_losses(first, arm, seeds)
    return seeds, arm_losses - first_losses


def _paired_losses(
    first: ArmSummary, arm: ArmSummary, seeds: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    return (
        np.array([first.losses[seed] for seed in seeds], float),
        np.array([arm.losses[seed] for seed in seeds], float),
    )


def _speed_up(
    comparison: Comparison, first: ArmSummary, arm: ArmSummary, seeds: tuple[int, ...]
) -> tuple[float, tuple[float, float] | None]:
    """Speed-up over the paired seeds; NaN where the curves do not all share their steps."""
    runs = {(run.arm, run.seed): run for run in comparison.runs if run.purpose == "report"}
    pairs = [(runs[first.arm.name, seed], runs[arm.arm.name, seed]) for seed in seeds]
    curves = [[LOSSES[comparison.metric](run) for run in pair] for pair in pairs]
    shared = {curve.steps for pair in curves for curve in pair}
    steps = shared.pop() if len(shared) == 1 else ()
    if not steps:
        return math.nan, None
    values = np.array([[curve.values for curve in pair] for pair in curves])
    return speed_up(np.array(steps, float), values[:, 0], values[:, 1])


def _significant_pairs(
    arms: tuple[ArmSummary, ...], contrasts: tuple[Contrast, ...]
) -> frozenset[tuple[str, str]]:
    """Pairs (lower, higher): the contrasts, and the other pairs as a second Holm family."""
    first = arms[0].arm.name
    found = {(c.arm, first) if c.mean < 0 else (first, c.arm) for c in contrasts if c.found}
    others = [(a, b, *_paired(a, b)) for a, b in combinations(arms[1:], 2)]
    p_values = holm([float(sign_flip_test(d)) if len(s) > 1 else 1.0 for _, _, s, d in others])
    for (a, b, _, differences), p in zip(others, p_values, strict=True):
        if p <= ALPHA and not (a.diverged or b.diverged):
            low, high = (b, a) if np.mean(differences) < 0 else (a, b)
            found.add((low.arm.name, high.arm.name))
    return frozenset(found)


def _sd(values: np.ndarray) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def _median(values: list[float]) -> float:
    return float(np.median(values)) if values else math.nan
