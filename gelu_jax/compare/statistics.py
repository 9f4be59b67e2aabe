"""Statistics of paired runs: arrays in, numbers out.

Losses come in pairs, one for each seed that two arms share, and most functions work on the
differences of those pairs. Lower is better throughout.
"""

import math
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

EXACT_PAIRS = 40
"""`sign_flip_test` counts all 2ⁿ sign patterns up to this many pairs, and samples them beyond."""

_SAMPLED_PATTERNS = 2**16
_RESAMPLES = 9_999
_CURVE_RESAMPLES = 999

# Two sums of signed differences are a tie where they are closer than this share of Σ|dᵢ|.
# Arithmetic explains gaps of that size and data do not: the sums themselves round to 1e-14 of it,
# another unit (bits for nats) to 1e-16, and losses in float64 that are a million times their
# differences to 1e-10, while differences of float32 losses are whole multiples of about 1e-7.
# Among the patterns of continuous differences the window holds a share of about 1e-9, and
# counting one more pattern only raises p.
TIE = 1e-9
"""Sums that differ by at most this share of Σ|dᵢ| are equal."""

Floats = NDArray[np.float64]


def sign_flip_test(differences: ArrayLike) -> Floats:
    """The two-sided p-value of the exact sign-flip test that the mean difference is zero.

    Under the null hypothesis each difference dᵢ is as likely as −dᵢ, so p is the share of the 2ⁿ
    sign patterns s with |Σ sᵢdᵢ| ≥ |Σ dᵢ|, and no p-value is below 2/2ⁿ. Two sums that differ by
    at most 1e-9 · Σ|dᵢ| are equal here: rounding sets apart sums that tie, and which of them are
    larger would depend on the unit and on the order of the seeds.

    `scipy.stats.permutation_test` allows for rounding in proportion to the observed mean, which
    is too little where large differences leave a small mean.

    Source: Fisher, "The Design of Experiments", 1935, §21.

    Args:
      differences: (..., n), one per pair.

    Returns:
      (...) p-values; exact for n ≤ `EXACT_PAIRS`, from 65,536 sampled patterns for more pairs,
      and NaN where a difference is not finite.

    >>> float(sign_flip_test([-0.04, -0.05, -0.03, -0.05, -0.04, -0.06]))
    0.03125
    """
    return np.apply_along_axis(_sign_flip_p, -1, np.asarray(differences, np.float64))


def _sign_flip_p(differences: Floats) -> float:
    if not np.isfinite(differences).all():
        return math.nan
    # sorted, and summed by fsum: the same numbers in whatever order the seeds come
    sizes = np.sort(np.abs(differences))
    least = abs(math.fsum(differences)) - TIE * math.fsum(sizes)
    if least <= 0:
        return 1.0
    if len(sizes) > EXACT_PAIRS:
        rng = np.random.default_rng(0)
        sums = sum(size * rng.choice((-1.0, 1.0), _SAMPLED_PATTERNS) for size in sizes)
        return float(1 + np.sum(np.abs(sums) >= least)) / (1 + _SAMPLED_PATTERNS)
    # Each pattern is one of the left half and one of the right: for each left sum, a binary search
    # counts the right sums that lift it to `least`, so that 2ⁿ patterns cost 2^(n/2) searches.
    left, right = _signed_sums(sizes[::2]), np.sort(_signed_sums(sizes[1::2]))
    reaching = right.size - np.searchsorted(right, least - left)
    return float(2 * reaching.sum()) / 2 ** len(sizes)  # as many lie at −least and below


def _signed_sums(sizes: Floats) -> Floats:
    """Σ ±sizes for every pattern of signs: (n,) → (2ⁿ,)."""
    sums = np.zeros(1)
    for size in sizes:
        sums = np.concatenate([sums - size, sums + size])
    return sums


def attainable_level(pairs: int, alpha: float) -> float:
    """The size of the sign-flip test at a nominal level: its largest possible p that is ≤ alpha.

    Args:
      pairs: the number of pairs n.
      alpha: the nominal level.

    Returns:
      A multiple of 2/2ⁿ; 0 where even the smallest p-value is above `alpha`.

    >>> attainable_level(8, 0.05), attainable_level(5, 0.05)
    (0.046875, 0.0)
    """
    patterns = 2.0 ** (pairs - 1)
    return math.floor(alpha * patterns) / patterns


def fewest_pairs(alpha: float) -> int:
    """The smallest number of pairs at which the sign-flip test can reach p ≤ alpha at all.

    Args:
      alpha: the level.

    Returns:
      The smallest n with 2/2ⁿ ≤ alpha.

    >>> fewest_pairs(0.05), fewest_pairs(0.05 / 2)
    (6, 7)
    """
    return math.ceil(math.log2(2 / alpha))


@lru_cache(maxsize=4096)
def detectable_factor(pairs: int, alpha: float = 0.05, power: float = 0.8) -> float:
    """The minimum detectable difference, in standard deviations of the paired differences.

    It solves P(t′ₙ₋₁(δ√n) > t₁₋α/₂) = power for δ, where t′ is the noncentral t distribution: the
    power of the two-sided paired t-test (its other tail adds less than 1e-6), which the sign-flip
    test follows when alpha is one of its own levels (`attainable_level`).

    Args:
      pairs: the number of pairs n.
      alpha: the level of the test.
      power: the probability that the difference is found.

    Returns:
      δ; infinite for alpha = 0 and for fewer than two pairs.

    >>> [round(detectable_factor(n), 2) for n in (3, 4, 6, 8, 10, 16)]
    [3.26, 2.13, 1.43, 1.16, 1.0, 0.75]
    """
    if pairs < 2 or alpha <= 0:
        return math.inf
    critical = float(stats.t.isf(alpha / 2, pairs - 1))

    def missing(shift: float) -> float:
        return float(stats.nct.sf(critical, pairs - 1, shift)) - power

    return optimize.root_scalar(missing, bracket=(0.0, 2 * critical + 3)).root / math.sqrt(pairs)


def family_share(arms: int, level: float = 0.05) -> float:
    """The part of the level that comparing every pair of arms leaves to one pair.

    2Φ(−q/√2) / level with q the upper quantile of the studentized range of as many means: the
    single-step test of all pairs of arms with equal variances, for planning; a step-down test
    leaves more.

    Source: Tukey, "The Problem of Multiple Comparisons", 1953.

    Args:
      arms: how many are compared.
      level: of the family.

    Returns:
      Between 0 and 1; 1 for two arms.

    >>> round(family_share(2), 3), round(family_share(3), 3), round(family_share(6), 3)
    (1.0, 0.382, 0.088)
    """
    q = float(stats.studentized_range.isf(level, arms, np.inf))
    return min(1.0, float(2 * stats.norm.sf(q / math.sqrt(2))) / level)


def detectable_difference(sd: float, pairs: int, alpha: float, share: float = 1.0) -> float:
    """The minimum detectable difference: the smallest that is found with about 80 % power.

    Args:
      sd: the standard deviation of the paired differences.
      pairs: the number of pairs.
      alpha: the nominal level of the family of tests.
      share: the part of the level that the family leaves to this contrast.

    Returns:
      The difference in the unit of `sd`; infinite where so few pairs can never reach `alpha`.
    """
    factor = detectable_factor(pairs, attainable_level(pairs, alpha) * share)
    return factor * sd if math.isfinite(factor) else math.inf


def power(effect: float, pairs: int, alpha: float, share: float = 1.0) -> float:
    """The probability that a difference is found, as `detectable_difference` has it.

    Args:
      effect: the true difference in standard deviations of the paired differences.
      pairs: the number of pairs.
      alpha: the nominal level of the family of tests.
      share: the part of the level that the family leaves to this contrast.

    Returns:
      A probability; 0 where so few pairs can never reach `alpha`.

    >>> round(power(1.16, 8, 0.05), 2), power(1.16, 5, 0.05)
    (0.79, 0.0)
    """
    attainable = attainable_level(pairs, alpha) * share
    if pairs < 2 or attainable <= 0:
        return 0.0
    critical = float(stats.t.isf(attainable / 2, pairs - 1))
    return float(stats.nct.sf(critical, pairs - 1, abs(effect) * math.sqrt(pairs)))


def seeds_needed(
    difference: float, sd: float, alpha: float, share: float = 1.0, most: int = 100
) -> int | None:
    """How many pairs it takes to find a difference of this size with 80 % power.

    Args:
      difference: the true difference, of either sign.
      sd: the standard deviation of the paired differences, in the same unit.
      alpha: the nominal level of the family of tests.
      share: the part of the level that the family leaves to this contrast.
      most: where to stop looking.

    Returns:
      The number of pairs; None if it is more than `most`.

    >>> seeds_needed(difference=0.021, sd=0.02, alpha=0.05)
    10
    """
    enough = (
        n
        for n in range(2, most + 1)
        if detectable_difference(sd, n, alpha, share) <= abs(difference)
    )
    return next(enough, None)


def pairing_gain(first: Floats, second: Floats) -> float:
    """The variance of an unpaired difference over that of a paired one.

    (s₁² + s₂²) / s²(second − first): at 4, pairing by seed was worth four times the seeds.

    Args:
      first: (n,) losses of one arm.
      second: (n,) losses of the other, in the same order of seeds.

    Returns:
      The ratio; NaN for fewer than two pairs, infinite where the losses vary but their
      differences do not.
    """
    if len(first) < 2:
        return math.nan
    unpaired = float(np.var(first, ddof=1) + np.var(second, ddof=1))
    paired = 0.0 if _constant(second - first) else float(np.var(second - first, ddof=1))
    if paired == 0:
        return math.inf if unpaired > 0 else math.nan
    return unpaired / paired


def steps_to_target(steps: Floats, losses: Floats, targets: Floats) -> Floats:
    """The step at which each curve first reaches each target, interpolated between points.

    Args:
      steps: (t,) increasing.
      losses: (n, t), one curve per row.
      targets: (m,).

    Returns:
      (n, m); infinite where a curve never reaches the target.

    >>> steps_to_target(np.array([0.0, 10, 20]), np.array([[4.0, 2, 1]]), np.array([3.0, 0.5]))
    array([[ 5., inf]])
    """
    best = np.minimum.accumulate(losses, axis=-1)
    reached = best[:, None, :] <= targets[None, :, None]
    after = reached.argmax(-1)
    before = np.maximum(after - 1, 0)
    high, low = np.take_along_axis(best, before, -1), np.take_along_axis(best, after, -1)
    drop = np.where(after > 0, high - low, 1.0)
    share = np.where(after > 0, (high - targets) / drop, 1.0)
    when = steps[before] + share * (steps[after] - steps[before])
    return np.where(reached.any(-1), when, np.inf)


def speed_up(steps: Floats, first: Floats, arm: Floats) -> tuple[float, tuple[float, float] | None]:
    """How many times fewer steps an arm needs to reach the first arm's median final loss.

    The factor is the last step of the curves over the median step at which the arm's seeds reach
    that loss. A seed that never does counts as infinite.

    Args:
      steps: (t,) shared by all curves.
      first: (n, t) losses of the first arm.
      arm: (n, t) losses of the other arm, paired with `first` by row.

    Returns:
      The factor, 0 where at least half of the seeds never reach the loss; and its 95 % percentile
      bootstrap interval, which resamples pairs of seeds and with them the target, None for fewer
      than three pairs.
    """

    value, interval = _speed_up_at(len(steps) - 1, steps, first, arm, _RESAMPLES)
    return value, interval


def speed_up_curve(
    steps: Floats, first: Floats, arm: Floats
) -> list[tuple[float, float, tuple[float, float] | None]]:
    """The speed-up to every target, of which `speed_up` is the last.

    The targets are the first arm's median losses at its evaluations, as far as each is below all
    before it; the factor is the step of that evaluation over the arm's median step to the target.

    Args:
      steps: as for `speed_up`.
      first: as for `speed_up`.
      arm: as for `speed_up`.

    Returns:
      Target, factor and interval, for each target from the first to the last. The schedule of the
      learning rate is that of the whole run, so early targets are reached at a high rate.
    """
    medians = np.median(first, axis=0)
    lowest = np.minimum.accumulate(medians)
    reached = [i for i in range(1, len(steps)) if medians[i] < lowest[i - 1]]
    return [
        (float(medians[i]), *_speed_up_at(i, steps, first, arm, _CURVE_RESAMPLES)) for i in reached
    ]


def _speed_up_at(
    at: int, steps: Floats, first: Floats, arm: Floats, resamples: int
) -> tuple[float, tuple[float, float] | None]:
    """The speed-up to the first arm's median loss at one of its evaluations."""

    def factor(chosen: NDArray[np.int64]) -> Floats:
        targets = np.median(first[chosen, at], axis=-1)
        times = steps_to_target(steps, arm, targets)
        median = np.median(times.T[np.arange(len(chosen))[:, None], chosen], axis=-1)
        with np.errstate(divide="ignore"):
            return steps[at] / median

    pairs = len(first)
    value = float(factor(np.arange(pairs, dtype=np.int64)[None])[0])
    if pairs < 3:
        return value, None
    drawn = np.random.default_rng(0).integers(pairs, size=(resamples, pairs))
    with np.errstate(invalid="ignore"):  # between two infinite factors it finds NaN
        bounds = np.quantile(factor(drawn), (0.025, 0.975))
    low, high = np.where(np.isnan(bounds), np.inf, bounds)
    return value, (float(low), float(high))


def lowest_point(losses: Mapping[float, float]) -> tuple[float, float]:
    """The lowest point of a parabola in log η, through the best rate of a grid and its neighbours.

    Args:
      losses: learning rate η → mean final loss.

    Returns:
      The learning rate, within the grid's ratio of the best one, and the loss there; those of the
      best rate itself where it is at the edge, or where a neighbour's loss is not finite.

    >>> rate, loss = lowest_point({1e-3: 2.5, 1e-2: 2.0, 1e-1: 2.5})
    >>> round(rate, 6), round(loss, 6)
    (0.01, 2.0)
    """
    rates = sorted(losses)
    at = min(range(len(rates)), key=lambda i: losses[rates[i]])
    around = rates[max(0, at - 1) : at + 2]
    y = np.array([losses[rate] for rate in around])
    if len(around) < 3 or not at > 0 or not np.isfinite(y).all():
        return rates[at], losses[rates[at]]
    x = np.log(np.array(around) / rates[at])
    square, slope, level = np.polyfit(x, y, 2)
    lowest = float(np.clip(-slope / (2 * square), x[0], x[-1])) if square > 0 else 0.0
    return rates[at] * math.exp(lowest), float(level + lowest * (slope + square * lowest))


def tuning_regret(losses: Mapping[float, Mapping[int, float]]) -> float:
    """How much lower the loss of an arm might be at a better choice of its learning rate.

    Two parts: from the best rate down to the lowest point of a parabola through its neighbours,
    which is what a finer grid might gain; and, over the tuning seeds, the mean of what the best
    rate of a single seed loses to that of all of them, which is what the choice owes to chance.

    Args:
      losses: learning rate → tuning seed → final loss.

    Returns:
      At least 0, in the unit of the loss; NaN for fewer than three rates.

    >>> round(tuning_regret({1: {0: 2.2, 1: 2.2}, 2: {0: 2.0, 1: 2.1}, 4: {0: 2.1, 1: 2.0}}), 4)
    0.0188
    """
    means = {rate: float(np.mean([*seeds.values()])) for rate, seeds in losses.items()}
    if len(means) < 3:
        return math.nan
    best = min(means.values())
    shared = set[int].intersection(*(set(seeds) for seeds in losses.values()))
    alone = [min(losses, key=lambda rate: losses[rate][seed]) for seed in shared]
    by_chance = float(np.mean([means[rate] - best for rate in alone])) if shared else 0.0
    return by_chance + max(0.0, best - lowest_point(means)[1])


def _constant(values: Floats) -> bool:
    """Whether the values differ by no more than the rounding of their differences."""
    return float(np.ptp(values)) <= 1e-12 * float(np.max(np.abs(values)))
