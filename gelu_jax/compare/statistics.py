"""Statistics of paired runs: arrays in, numbers out.

Losses come in pairs, one for each seed that two arms share; everything here works on the
differences of those pairs. Lower is better throughout.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

EXACT_PAIRS = 16
"""Up to so many pairs all 2ⁿ sign patterns are enumerated; beyond, as many are drawn."""

_RESAMPLES = 9_999

Floats = NDArray[np.float64]


def paired_interval(differences: Floats, confidence: float = 0.95) -> tuple[float, float] | None:
    """The bootstrap interval (BCa) of the mean of (n,) differences; None for fewer than three.

    The draws are the same in every call, so a report drawn twice says the same. With few pairs
    the interval is too short: at n = 8 normal differences, 95 % nominal covers about 88 %
    (`tests/test_statistics.py` measures it), so conclusions rest on `sign_flip_test`.

    Source: Efron, "Better Bootstrap Confidence Intervals", 1987.

    >>> low, high = paired_interval(np.array([-0.04, -0.05, -0.03, -0.05, -0.04, -0.06]))
    >>> -0.06 < low < -0.045 < high < -0.03
    True
    """
    if len(differences) < 3:
        return None
    if _constant(differences):
        return float(differences[0]), float(differences[0])
    result = stats.bootstrap(
        (np.sort(differences),),
        _mean_of_sorted,
        n_resamples=_RESAMPLES,
        confidence_level=confidence,
        method="BCa",
        rng=np.random.default_rng(0),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def _mean_of_sorted(values: Floats, axis: int) -> Floats:
    # few pairs draw the same resample in many orders: sorted, it has the same mean to the last bit,
    # so that BCa counts it as a tie whatever the unit and the order of the seeds
    return np.mean(np.sort(values, axis), axis)


def sign_flip_test(differences: Floats) -> Floats:
    """Two-sided p of the exact sign-flip test for a mean of zero: (..., n) → (...).

    Under the hypothesis each difference is as likely as its negative, so the observed mean is
    compared with the means of all 2ⁿ sign patterns: the least possible p is 2/2ⁿ.

    Source: Fisher, "The Design of Experiments", 1935, §21.

    >>> float(sign_flip_test(np.array([-0.04, -0.05, -0.03, -0.05, -0.04, -0.06])))
    0.03125
    """
    result = stats.permutation_test(
        (differences,),
        _mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=2**EXACT_PAIRS,
        axis=-1,
        rng=np.random.default_rng(0),
    )
    return np.asarray(result.pvalue)


def _mean(values: Floats, axis: int) -> Floats:
    return np.mean(values, axis=axis)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Holm's step-down adjustment: p-values that hold for the family as a whole.

    Source: Holm, "A Simple Sequentially Rejective Multiple Test Procedure", 1979.

    >>> holm([0.01, 0.04, 0.03])
    (0.03, 0.06, 0.06)
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return tuple(adjusted)


def attainable_level(pairs: int, alpha: float) -> float:
    """The level at which the sign-flip test of so many pairs works: the last p that is ≤ alpha.

    >>> attainable_level(8, 0.05), attainable_level(5, 0.05)
    (0.046875, 0.0)
    """
    patterns = 2.0 ** (pairs - 1)
    return math.floor(alpha * patterns) / patterns


def fewest_pairs(alpha: float) -> int:
    """The least number of pairs at which the sign-flip test can reach p ≤ alpha at all.

    >>> fewest_pairs(0.05), fewest_pairs(0.05 / 2)
    (6, 7)
    """
    return math.ceil(math.log2(2 / alpha))


@lru_cache(maxsize=4096)
def detectable_factor(pairs: int, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest true difference that is found with this power, in sd of the differences.

    It solves P(t′ₙ₋₁(δ√n) > t₁₋α/₂) = power for δ, where t′ is the noncentral t distribution: the
    power of the two-sided paired t-test (its other tail adds less than 1e-6), which the sign-flip
    test follows when alpha is one of its own levels (`attainable_level`). Infinite for alpha = 0
    or one pair.

    >>> [round(detectable_factor(n), 2) for n in (3, 4, 6, 8, 10, 16)]
    [3.26, 2.13, 1.43, 1.16, 1.0, 0.75]
    """
    if pairs < 2 or alpha <= 0:
        return math.inf
    critical = float(stats.t.isf(alpha / 2, pairs - 1))

    def missing(shift: float) -> float:
        return float(stats.nct.sf(critical, pairs - 1, shift)) - power

    return optimize.root_scalar(missing, bracket=(0.0, 2 * critical + 3)).root / math.sqrt(pairs)


def detectable_difference(sd: float, pairs: int, alpha: float) -> float:
    """The smallest difference that the sign-flip test finds with about 80 % power.

    Its power there, measured on normal differences, is 0.73–0.83; down to 0.68 where only the
    one pattern of all equal signs rejects.
    """
    factor = detectable_factor(pairs, attainable_level(pairs, alpha))
    return factor * sd if math.isfinite(factor) else math.inf


def seeds_needed(difference: float, sd: float, alpha: float, most: int = 100) -> int | None:
    """How many pairs find a difference of this size with 80 % power; None for more than `most`.

    >>> seeds_needed(difference=0.021, sd=0.02, alpha=0.05)
    10
    """
    enough = (n for n in range(2, most + 1) if _finds(difference, sd, n, alpha))
    return next(enough, None)


def _finds(difference: float, sd: float, pairs: int, alpha: float) -> bool:
    return detectable_difference(sd, pairs, alpha) <= abs(difference)


def pairing_gain(first: Floats, second: Floats) -> float:
    """What pairing seeds gains: variance of an unpaired difference over that of a paired one.

    (s₁² + s₂²) / s²(second − first): 4 means that pairing was worth four times the seeds.
    NaN for fewer than two pairs, infinite where the differences do not vary but the losses do.
    """
    if len(first) < 2:
        return math.nan
    unpaired = float(np.var(first, ddof=1) + np.var(second, ddof=1))
    paired = 0.0 if _constant(second - first) else float(np.var(second - first, ddof=1))
    if paired == 0:
        return math.inf if unpaired > 0 else math.nan
    return unpaired / paired


def steps_to_target(steps: Floats, losses: Floats, targets: Floats) -> Floats:
    """When each of n curves first reaches each of m targets, interpolated; infinite for a miss.

    Shapes: `steps` (t,), `losses` (n, t), `targets` (m,) → (n, m).

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
    """How many times sooner an arm reaches the first arm's median final loss, and 95 % interval.

    Shapes: `steps` (t,), both curves (n, t), paired by row. The factor is the last step of the
    curves over the median step at which the arm's seeds get there; a seed that misses counts as
    never, so 0 says that half the seeds missed. The interval is a percentile bootstrap that
    draws pairs of seeds and with them the target; None for fewer than three pairs.
    """

    def factor(chosen: NDArray[np.int64]) -> Floats:
        targets = np.median(first[chosen, -1], axis=-1)
        times = steps_to_target(steps, arm, targets)
        with np.errstate(divide="ignore"):
            return steps[-1] / np.median(times.T[np.arange(len(chosen))[:, None], chosen], axis=-1)

    pairs = len(first)
    value = float(factor(np.arange(pairs, dtype=np.int64)[None])[0])
    if pairs < 3:
        return value, None
    drawn = np.random.default_rng(0).integers(pairs, size=(_RESAMPLES, pairs))
    low, high = np.quantile(factor(drawn), (0.025, 0.975))
    return value, (float(low), float(high))


def _constant(values: Floats) -> bool:
    """Whether the values differ by no more than the rounding of their differences."""
    return float(np.ptp(values)) <= 1e-12 * float(np.max(np.abs(values)))
