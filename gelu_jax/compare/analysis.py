"""From a comparison to its numbers: a summary of each arm, and the contrasts between arms."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from gelu_jax.compare.curves import LOSSES, final_loss
from gelu_jax.compare.factors import references
from gelu_jax.compare.family import Look, infer, spent
from gelu_jax.compare.records import Arm, Comparison
from gelu_jax.compare.statistics import (
    detectable_difference,
    family_share,
    fewest_pairs,
    pairing_gain,
    seeds_needed,
    sign_flip_test,
    speed_up,
    speed_up_curve,
    tuning_regret,
)

ALPHA = 0.05
"""The level of the family: the chance of any false finding, over all contrasts and looks."""


@dataclass(frozen=True)
class ArmSummary:
    """One arm's reported runs over its seeds, and the result of its learning-rate search.

    Attributes:
      arm: the arm.
      learning_rate: the rate of the reported runs; NaN where there is none.
      losses: seed → final loss, of the runs that finished and no other.
      accuracies: final validation accuracies of those runs, where they were measured.
      diverged: seeds whose run diverged.
      stopped: seeds whose run stopped early: their final losses are unknown.
      interrupted: seeds whose run has not finished.
      seconds_per_step: median over the finished runs, without compilation.
      seconds_per_run: likewise, of a whole run.
      compile_seconds: the longest compilation of a run.
      mismatch: parameters relative to those of the arm that it is matched to, minus 1; active
        parameters where these are matched.
      rates: learning rate → mean final loss over the tuning seeds. A run that diverged, or ended
        above the first loss of its curve, counts with that first loss; one that stopped early does
        not count.
      sensitivity: mean of `rates` minus their minimum (Wortsman et al., "Small-scale proxies for
        large-scale Transformer training instabilities", 2023, eq. 1); NaN without a search.
      at_edge: whether the chosen rate is the lowest or highest that was tried.
      regret: how much lower the loss might be at a better choice of the rate (`tuning_regret`);
        NaN for fewer than three rates.
    """

    arm: Arm
    learning_rate: float
    losses: Mapping[int, float]
    accuracies: tuple[float, ...]
    diverged: tuple[int, ...]
    stopped: tuple[int, ...]
    interrupted: tuple[int, ...]
    seconds_per_step: float
    seconds_per_run: float
    compile_seconds: float
    mismatch: float
    rates: Mapping[float, float]
    sensitivity: float
    at_edge: bool
    regret: float

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
    """A weighted sum of the arms' losses, seed by seed; most often arm − baseline, lower is better.

    Attributes:
      name: the arm's name where the baseline is the first arm, or the name that the config gives.
      weights: arm → weight; they sum to zero.
      seeds: the seeds that all of its arms finished.
      differences: one per seed, in the unit of the loss.
      mean: their mean; NaN without a pair.
      sd: their standard deviation; NaN for fewer than two.
      interval: confidence interval of the mean, which holds zero unless `found`: 95 %, over all
        looks, and adjusted for the family; None where so few pairs bound nothing.
      p_value: p of the sign-flip test of this contrast alone.
      p_adjusted: p in the family of all contrasts and looks; NaN where a run diverged or stopped.
      detectable: the minimum detectable difference with 80 % power.
      pairing_gain: variance of an unpaired difference over that of a paired one.
      seeds_needed: how many seeds would find the observed difference with 80 % power, were it the
        true one and there one look; None for more than 100.
      speed_up: how many times fewer steps the arm needs to reach the baseline's median final
        loss; 0 where it does not, NaN where the curves share no steps or more than two arms count.
      speed_up_interval: its 95 % bootstrap confidence interval; None for fewer than three pairs.
      diverged: whether a run of one of its arms diverged.
      censored: whether a run of one of its arms stopped early. The seeds that are left were chosen
        by their losses, so nothing is concluded from them.
      found: whether the difference is significant; never in a smoke test nor where a run diverged
        or stopped early.
    """

    name: str
    weights: Mapping[str, float]
    seeds: tuple[int, ...]
    differences: tuple[float, ...]
    mean: float
    sd: float
    interval: tuple[float, float] | None
    p_value: float
    p_adjusted: float
    detectable: float
    pairing_gain: float
    seeds_needed: int | None
    speed_up: float
    speed_up_interval: tuple[float, float] | None
    diverged: bool
    censored: bool = False
    found: bool = False

    @property
    def pair(self) -> tuple[str, str] | None:
        """The arm and its baseline; None for a sum over more arms or of other weights."""
        names = sorted(self.weights, key=self.weights.__getitem__, reverse=True)
        ones = [self.weights[name] for name in names] == [1, -1]
        return (names[0], names[1]) if ones else None


@dataclass(frozen=True)
class Analysis:
    """All numbers of a comparison.

    Attributes:
      comparison: what they were computed from.
      arms: a summary of each arm, in the order of the config.
      contrasts: those of the config; without any, each arm but the first against the first.
      family: all contrasts that are tested together: those of the config, or every pair of arms.
      looks: the numbers of seeds at which the family was tested, with the level spent by then.
    """

    comparison: Comparison
    arms: tuple[ArmSummary, ...]
    contrasts: tuple[Contrast, ...]
    family: tuple[Contrast, ...]
    looks: tuple[Look, ...]

    @property
    def significant(self) -> frozenset[tuple[str, str]]:
        """Pairs of arm names (lower, higher) whose mean losses differ significantly."""
        pairs = ((c.pair, c.mean) for c in self.family if c.found)
        return frozenset(
            pair if mean < 0 else (pair[1], pair[0]) for pair, mean in pairs if pair is not None
        )

    @property
    def level(self) -> float:
        """The largest adjusted p that is significant at the present look."""
        return self.looks[-1].level

    @property
    def max_seeds(self) -> int:
        """How many seeds were planned before the first look; those of that look by default."""
        return self.comparison.config.get("max_seeds") or self.looks[0].pairs

    def seconds(self, seeds: int) -> float:
        """What it would take to train all arms from more seeds, one run after another.

        Args:
          seeds: how many more.

        Returns:
          Seconds, with compilation; NaN where no run was timed.
        """
        runs = sum(arm.seconds_per_run for arm in self.arms)
        return seeds * runs + sum(arm.compile_seconds for arm in self.arms)

    @property
    def order(self) -> tuple[ArmSummary, ...]:
        """The arms with a finished run and none that stopped early, lowest mean loss first."""
        known = (arm for arm in self.arms if arm.losses and not arm.stopped)
        return tuple(sorted(known, key=lambda arm: arm.mean))

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
    """Summarizes every arm and tests all contrasts as one family, paired by seed.

    Args:
      comparison: the record of a comparison, finished or not.

    Returns:
      Every number that a report shows.
    """
    arms = tuple(_summary(comparison, arm) for arm in comparison.arms)
    looks = _looks(comparison)
    asked: Mapping[str, Mapping[str, float]] = comparison.config.get("contrasts") or {}
    members = asked or _pairs(comparison)
    family = tuple(_contrast(comparison, arms, name, members[name], looks) for name in members)
    family = _inferred(comparison, family, looks)
    first = comparison.first.name
    shown = family if asked else tuple(c for c in family if first in c.weights)
    return Analysis(comparison, arms, shown, family, looks)


def _looks(comparison: Comparison) -> tuple[Look, ...]:
    seeds = len(_seeds(comparison))
    before = [look for look in comparison.looks if look < seeds]
    planned = comparison.config.get("max_seeds") or min(comparison.looks or (seeds,))
    return tuple(Look(look, spent(look, max(1, planned), ALPHA)) for look in (*before, seeds))


def _seeds(comparison: Comparison) -> tuple[int, ...]:
    return tuple(sorted({run.seed for run in comparison.runs if run.purpose == "report"}))


def _pairs(comparison: Comparison) -> dict[str, Mapping[str, float]]:
    """Every pair of arms, the later one minus the earlier one."""
    first = comparison.first
    return {
        b.name if a is first else f"{b.name} − {a.name}": {b.name: 1.0, a.name: -1.0}
        for a, b in combinations(comparison.arms, 2)
    }


def _inferred(
    comparison: Comparison, family: tuple[Contrast, ...], looks: tuple[Look, ...]
) -> tuple[Contrast, ...]:
    """The family with its adjusted p-values and intervals.

    Contrasts of arms with a run that diverged or stopped early are not tested.
    """
    tested = [c for c in family if len(c.seeds) > 1 and not c.diverged and not c.censored]
    seeds, names = _seeds(comparison), [arm.name for arm in comparison.arms]
    rows = {seed: row for row, seed in enumerate(seeds)}
    differences = np.full((len(seeds), len(tested)), math.nan)
    for column, contrast in enumerate(tested):
        differences[[rows[seed] for seed in contrast.seeds], column] = contrast.differences
    pairs = [(names.index(c.pair[0]), names.index(c.pair[1])) for c in tested if c.pair]
    found = infer(differences, looks, pairs if len(pairs) == len(tested) else ())
    full = comparison.protocol == "full"
    inferred = {
        contrast.name: replace(
            contrast,
            p_adjusted=inference.p_value,
            interval=inference.interval if math.isfinite(sum(inference.interval)) else None,
            found=full and inference.found,
        )
        for contrast, inference in zip(tested, found, strict=True)
    }
    return tuple(inferred.get(contrast.name, contrast) for contrast in family)


def _summary(comparison: Comparison, arm: Arm) -> ArmSummary:
    runs = comparison.runs_of(arm.name)
    finished = [run for run in runs if run.status == "finished"]
    timed = [run for run in finished if run.eval_steps and run.eval_steps[-1] > 0]
    rates = tuning_losses(comparison, arm.name)
    chosen = runs[0].learning_rate if runs else math.nan
    return ArmSummary(
        arm=arm,
        learning_rate=chosen,
        losses={run.seed: final_loss(run, comparison.metric) for run in finished},
        accuracies=tuple(r.validation_accuracy[-1] for r in finished if r.validation_accuracy),
        diverged=tuple(run.seed for run in runs if run.status == "diverged"),
        stopped=tuple(run.seed for run in runs if run.status == "stopped"),
        interrupted=tuple(run.seed for run in runs if run.status == "interrupted"),
        seconds_per_step=_median([run.seconds[-1] / run.eval_steps[-1] for run in timed]),
        seconds_per_run=_median([run.seconds[-1] for run in timed]),
        compile_seconds=max((run.compile_seconds for run in runs), default=0.0),
        mismatch=_size(comparison, arm) / _size(comparison, _reference(comparison, arm)) - 1,
        rates=rates,
        sensitivity=float(np.mean([*rates.values()])) - min(rates.values()) if rates else math.nan,
        at_edge=len(rates) > 1 and chosen in (min(rates), max(rates)),
        regret=tuning_regret(_tuning(comparison, arm.name)),
    )


def _size(comparison: Comparison, arm: Arm) -> int:
    active = comparison.config.get("match") == "active_parameters"
    return arm.active_parameters or arm.parameters if active else arm.parameters


def _reference(comparison: Comparison, arm: Arm) -> Arm:
    factors = comparison.config.get("factors")
    name = references(factors)[arm.name] if factors else comparison.first.name
    return next(each for each in comparison.arms if each.name == name)


def tuning_losses(comparison: Comparison, arm: str) -> Mapping[float, float]:
    """The mean final loss of an arm's tuning runs at each learning rate.

    Args:
      comparison: the record.
      arm: its name.

    Returns:
      Learning rate → loss, as `ArmSummary.rates`.
    """
    tried = _tuning(comparison, arm)
    return {rate: float(np.mean([*losses.values()])) for rate, losses in tried.items()}


def _tuning(comparison: Comparison, arm: str) -> dict[float, dict[int, float]]:
    """Learning rate → tuning seed → final loss, as `ArmSummary.rates` counts it."""
    losses: dict[float, dict[int, float]] = {}
    for run in comparison.runs_of(arm, "tuning"):
        curve = LOSSES[comparison.metric](run).values
        if curve and run.status in ("finished", "diverged"):
            start, end = curve[0], curve[-1]
            worse = run.status == "diverged" or not end <= start
            losses.setdefault(run.learning_rate, {})[run.seed] = start if worse else end
    return losses


def _contrast(
    comparison: Comparison,
    arms: tuple[ArmSummary, ...],
    name: str,
    weights: Mapping[str, float],
    looks: tuple[Look, ...],
) -> Contrast:
    """One contrast on its own; the family's p-value and interval are added later."""
    used = [arm for arm in arms if arm.arm.name in weights]
    seeds = tuple(sorted(set[int].intersection(*(set(arm.losses) for arm in used))))
    losses = {arm.arm.name: np.array([arm.losses[seed] for seed in seeds], float) for arm in used}
    differences = sum((w * losses[arm] for arm, w in weights.items()), np.zeros(len(seeds)))
    mean, sd = float(np.mean(differences)) if seeds else math.nan, _sd(differences)
    share = contrast_share(len(arms), len(comparison.config.get("contrasts") or ()))
    alone = Contrast(
        name=name,
        weights=weights,
        seeds=seeds,
        differences=tuple(map(float, differences)),
        mean=mean,
        sd=sd,
        interval=None,
        p_value=float(sign_flip_test(differences)) if len(seeds) > 1 else 1.0,
        p_adjusted=math.nan,
        detectable=detectable_difference(sd, len(seeds), looks[-1].level, share),
        pairing_gain=math.nan,
        seeds_needed=(
            seeds_needed(mean, sd, ALPHA, share) if len(seeds) > 1 else fewest_pairs(ALPHA)
        ),
        speed_up=math.nan,
        speed_up_interval=None,
        diverged=any(arm.diverged for arm in used),
        censored=any(arm.stopped for arm in used),
    )
    if alone.pair is None or alone.censored:
        return alone
    arm, baseline = alone.pair
    factor, interval = _speed_up(comparison, baseline, arm, seeds)
    gain = pairing_gain(losses[baseline], losses[arm])
    return replace(alone, pairing_gain=gain, speed_up=factor, speed_up_interval=interval)


def contrast_share(arms: int, contrasts: int) -> float:
    """The part of the level that a family leaves to one contrast, for planning.

    Args:
      arms: how many there are.
      contrasts: how many the config names; 0 stands for every pair of arms.

    Returns:
      Bonferroni's part for named contrasts, Tukey's for pairs of arms.
    """
    return 1 / contrasts if contrasts else family_share(arms, ALPHA)


def _speed_up(
    comparison: Comparison, baseline: str, arm: str, seeds: tuple[int, ...]
) -> tuple[float, tuple[float, float] | None]:
    """Speed-up over the paired seeds; NaN where the curves do not all share their steps."""
    curves = _paired_curves(comparison, baseline, arm, seeds)
    return speed_up(*curves) if curves else (math.nan, None)


def speed_ups_to_targets(
    comparison: Comparison, contrast: Contrast
) -> list[tuple[float, float, tuple[float, float] | None]]:
    """The speed-up of a contrast to every target on the way, as `speed_up_curve` has it.

    Args:
      comparison: the record.
      contrast: one of two arms.

    Returns:
      Target, factor and interval; nothing where the curves do not all share their steps.
    """
    arm, baseline = contrast.pair or ("", "")
    curves = _paired_curves(comparison, baseline, arm, contrast.seeds) if arm else None
    return speed_up_curve(*curves) if curves else []


def _paired_curves(
    comparison: Comparison, baseline: str, arm: str, seeds: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """The shared steps, and the losses (seeds, steps) of baseline and arm."""
    runs = {(run.arm, run.seed): run for run in comparison.runs if run.purpose == "report"}
    pairs = [(runs[baseline, seed], runs[arm, seed]) for seed in seeds]
    curves = [[LOSSES[comparison.metric](run) for run in pair] for pair in pairs]
    shared = {curve.steps for pair in curves for curve in pair}
    steps = shared.pop() if len(shared) == 1 else ()
    if not steps:
        return None
    values = np.array([[curve.values for curve in pair] for pair in curves])
    return np.array(steps, float), values[:, 0], values[:, 1]


def _sd(values: np.ndarray) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def _median(values: list[float]) -> float:
    return float(np.median(values)) if values else math.nan
