"""One family of tests: every contrast that a report asserts, over every look at the data.

The losses of the arms at one seed are paired, so a contrast is a difference per seed, and under the
null hypothesis its sign at each seed is a coin toss. Arms share their seeds: one toss turns the
differences of all contrasts at that seed, which keeps the dependence between contrasts as it is.

    Tⱼ(s) = |Σᵢ sᵢ dᵢⱼ| / √(Σᵢ dᵢⱼ²)          the statistic of contrast j under the signs s
    p_S(j) = share of s with max over k ∈ S of T_k(s) ≥ Tⱼ(observed)

Tⱼ is |t| on another scale, alike for all contrasts. A contrast is significant if p_S(j) is within
the level for every set S that holds j and could be the set of true null hypotheses: closed testing
(Marcus, Peritz and Gabriel 1976) by a maximum statistic (Westfall and Young 1993), with the logical
constraints between pairs of arms (Westfall 1997): if a and b differ, c cannot equal both. So the
chance of any false assertion is at most the level, whichever contrasts are truly null, if the noise
of their differences is jointly symmetric.

The interval of a contrast holds each δ that the same test, of dᵢⱼ − δ, does not reject.
"""

import math
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gelu_jax.compare.statistics import TIE, Floats

EXACT_PAIRS = 15
"""Up to so many pairs all sign patterns are counted; beyond, as many as this has are sampled."""

MOST_ARMS = 8
"""Logical constraints are used for so many arms; there are 4,140 ways in which 8 can be equal."""

Nulls = frozenset[int]


class Look(NamedTuple):
    """One look at the data.

    Attributes:
      pairs: how many seeds had been paired by then, counted from the first.
      level: the chance of a false assertion at this look or an earlier one that is allowed.
    """

    pairs: int
    level: float


class Inference(NamedTuple):
    """What the family says about one contrast.

    Attributes:
      p_value: adjusted for all contrasts and looks, of the look that found it or of the last.
      interval: every value of the mean difference that no look rejects; infinite bounds where so
        few pairs reject nothing.
      found: whether zero is not in the interval.
    """

    p_value: float
    interval: tuple[float, float]
    found: bool


def spent(seeds: int, max_seeds: int, level: float = 0.05) -> float:
    """The chance of a false assertion that looks at up to so many seeds may have together.

        level · ln(1 + (e − 1) · min(1, seeds / max_seeds))

    One look, at all seeds, has all of the level. Measured at looks of 8, 16, 24 and 32 seeds, this
    has the highest mean power of the designs that hold the level at each look: .62, against .60
    for spending in proportion to the seeds, .53 for O'Brien and Fleming's, .56 for a plan without
    a last look that spends four fifths at the first, .34 for an e-process of the signed
    differences (true difference .7 sd; `tests/compare/test_error_rates.py`).

    Source: Lan and DeMets, "Discrete Sequential Boundaries for Clinical Trials", 1983, α₂*.

    Args:
      seeds: of the look.
      max_seeds: the most that were planned before the first look.
      level: of all looks together.

    Returns:
      The level spent by then.

    >>> [round(spent(seeds, 24), 4) for seeds in (8, 16, 24)]
    [0.0226, 0.0382, 0.05]
    """
    return level * math.log(1 + (math.e - 1) * min(1.0, seeds / max_seeds))


def infer(
    differences: Floats, looks: Sequence[Look], arms: Sequence[tuple[int, int]] = ()
) -> tuple[Inference, ...]:
    """Tests all contrasts jointly, and bounds each of their mean differences.

    With one look the level holds exactly for jointly symmetric noise, and each interval covers its
    mean difference with at least that probability. At a later look a sign pattern that has crossed
    the boundary of an earlier one counts as crossing (a group-sequential test, Lan and DeMets 1983,
    on the sign-flip distribution): exact for each set S; that the step from S to its subsets and
    the intervals hold as well is measured in `tests/compare/test_error_rates.py`.

    Args:
      differences: (n, m), a row for each seed and a column for each contrast; NaN where a seed has
        no pair.
      looks: in the order of their pairs; the last is the present one.
      arms: the two arms that each contrast compares, which gives the logical constraints; without
        them, or for more than `MOST_ARMS` arms, any contrasts may be null together.

    Returns:
      One `Inference` for each contrast.

    >>> rng = np.random.default_rng(0)
    >>> noise = rng.normal(0, 0.01, (8, 2))
    >>> clear, unclear = infer(noise + [-0.05, 0.0], [Look(8, 0.05)])
    >>> clear.found, unclear.found, clear.p_value
    (True, False, 0.0078125)
    """
    found = [Inference(1.0, (-math.inf, math.inf), False) for _ in differences.T]
    for number in range(1, len(looks) + 1):
        found = _look(_Flips(differences, looks[:number]), found, tuple(arms))
    return tuple(found)


def _look(
    flips: "_Flips", before: list[Inference], arms: tuple[tuple[int, int], ...]
) -> list[Inference]:
    """What is found after one more look: the largest statistics first, until none is rejected."""
    now = list(before)
    rejected = frozenset(j for j, known in enumerate(before) if known.found)
    for j in rejected:
        interval = flips.interval(j, null_sets(len(now), rejected - {j}, arms))
        now[j] = now[j]._replace(interval=_both(now[j].interval, interval))
    largest = 0.0  # an adjusted p is not below that of a contrast which had to be rejected before
    waiting = [j for j in flips.order if j not in rejected]
    while waiting:
        known = rejected
        for j in waiting:
            sets = null_sets(len(now), rejected, arms)
            p = max(largest, flips.p_value(j, sets))
            interval = _both(before[j].interval, flips.interval(j, sets))
            now[j] = Inference(p, interval, p <= flips.level)
            if now[j].found:
                largest, rejected = p, rejected | {j}
        waiting = [j for j in waiting if j not in rejected] if rejected != known else []
    return now


def _both(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    """The common part of two intervals; the first where they have none."""
    low, high = max(one[0], other[0]), min(one[1], other[1])
    return (low, high) if low <= high else one


class _Flips:
    """The differences of the present look under every sign pattern, and those of earlier looks."""

    def __init__(self, differences: Floats, looks: Sequence[Look]):
        self.level = looks[-1].level
        rows = differences[: looks[-1].pairs]
        self.signs = sign_patterns(len(rows))
        self.columns = [_Column(rows[:, j], self.signs) for j in range(rows.shape[1])]
        self.earlier = [
            (_statistics(rows[: look.pairs], self.signs), look.level) for look in looks[:-1]
        ]
        self.statistics = _statistics(rows, self.signs)
        self.order = np.argsort(-self.statistics[:, 0], kind="stable").tolist()
        self.tie = TIE * math.sqrt(max(1, len(rows)))
        self._reach = cache(self._reach_of)
        self._crossed = cache(self._crossed_by)

    def p_value(self, j: int, sets: Sequence[Nulls]) -> float:
        """The largest p of a contrast over the sets that hold it."""
        reaches = (self._reach(j, nulls) for nulls in sets if j in nulls)
        return max(float(np.mean((low <= 0) & (high >= 0))) for low, high in reaches)

    def interval(self, j: int, sets: Sequence[Nulls]) -> tuple[float, float]:
        """The interval of a contrast: all that is not rejected in one of the sets that hold it."""
        reaches = [self._reach(j, nulls) for nulls in sets if j in nulls]
        rank = math.floor(self.level * len(self.signs))  # so many patterns may reach a rejected δ
        low = min(np.partition(low, rank)[rank] for low, _ in reaches)
        high = max(-np.partition(-high, rank)[rank] for _, high in reaches)
        return float(low), float(high)

    def _reach_of(self, j: int, nulls: Nulls) -> tuple[Floats, Floats]:
        """For each sign pattern the δ at which it counts in p: an interval about the mean.

        The pattern's own statistic of dᵢⱼ − δ reaches the observed one as long as δ is between the
        mean of the seeds whose sign is turned and that of the others. Another contrast of the set
        with the statistic M reaches it as long as |mean − δ| ≤ sd·M/√(n − M²).
        """
        column = self.columns[j]
        others = [k for k in nulls if k != j]
        top = self.statistics[others].max(0, initial=-self.tie) + self.tie
        room = column.pairs - top**2
        radius = np.where(room > 0, column.sd * top / np.sqrt(np.maximum(room, TIE)), math.inf)
        low = np.minimum(column.low, column.mean - radius)
        high = np.maximum(column.high, column.mean + radius)
        low[self._crossed(nulls)], high[self._crossed(nulls)] = -math.inf, math.inf
        return low, high

    def _crossed_by(self, nulls: Nulls) -> NDArray[np.bool_]:
        """The sign patterns that an earlier look would have rejected for the whole set."""
        crossed = np.zeros(len(self.signs), bool)
        for statistics, level in self.earlier:
            top = np.where(crossed, math.inf, statistics[sorted(nulls)].max(0))
            rank = len(top) - 1 - math.floor(level * len(top))
            if rank >= 0:
                crossed |= top > np.partition(top, rank)[rank] + self.tie
        return crossed


class _Column:
    """One contrast: its pairs, mean, sd, and the subset means of each sign pattern."""

    def __init__(self, differences: Floats, signs: Floats):
        seen = ~np.isnan(differences)
        values = differences[seen]
        self.pairs = len(values)
        self.mean = math.fsum(values) / self.pairs if self.pairs else 0.0
        self.sd = float(np.std(values)) if self.pairs else 0.0
        margin = TIE * math.fsum(abs(values)) / 2
        low, high = [], []
        for side in (signs[:, seen] > 0, signs[:, seen] < 0):
            count = side.sum(1)
            total = np.where(count > 0, side @ values, math.nan)
            low.append((total - margin) / np.maximum(count, 1))
            high.append((total + margin) / np.maximum(count, 1))
        # a pattern that turns all signs or none counts whatever δ is
        self.low = np.nan_to_num(np.minimum(*low), nan=-math.inf)
        self.high = np.nan_to_num(np.maximum(*high), nan=math.inf)


def _statistics(differences: Floats, signs: Floats) -> Floats:
    """Tⱼ(s), a row for each contrast; 0 where all differences are zero or missing."""
    values = np.nan_to_num(differences.T)
    norms = np.sqrt((values**2).sum(1, keepdims=True))
    return np.abs(values @ signs[:, : values.shape[1]].T) / np.where(norms > 0, norms, 1.0)


@lru_cache(maxsize=8)
def sign_patterns(pairs: int) -> Floats:
    """The sign patterns that the family is tested with.

    Args:
      pairs: the number of pairs n.

    Returns:
      (patterns, n) of 1 and −1, the observed signs first. All patterns up to a common sign, which
      changes no statistic, for n ≤ `EXACT_PAIRS`; otherwise sampled, the same in each call, which
      keeps the test exact (Hemerik and Goeman 2018).

    >>> sign_patterns(3).tolist()
    [[1.0, 1.0, 1.0], [1.0, -1.0, 1.0], [1.0, 1.0, -1.0], [1.0, -1.0, -1.0]]
    """
    free = max(0, min(pairs, EXACT_PAIRS) - 1)
    if pairs <= EXACT_PAIRS:
        turned = np.arange(2**free)[:, None] >> np.arange(free) & 1
    else:
        turned = np.random.default_rng(0).integers(2, size=(2**free, pairs - 1))
        turned[0] = 0
    return np.hstack([np.ones((2**free, min(1, pairs))), 1.0 - 2.0 * turned])


@lru_cache(maxsize=4096)
def null_sets(
    contrasts: int, rejected: Nulls, arms: tuple[tuple[int, int], ...] = ()
) -> tuple[Nulls, ...]:
    """The largest sets of contrasts that can all be null, given that some are not.

    Args:
      contrasts: how many there are.
      rejected: those that are not null.
      arms: as for `infer`.

    Returns:
      Sets of contrasts, none of which is part of another.

    >>> [sorted(nulls) for nulls in null_sets(3, frozenset({0}), ((0, 1), (0, 2), (1, 2)))]
    [[1], [2]]
    """
    remaining = frozenset(range(contrasts)) - rejected
    if not arms or max(map(max, arms)) >= MOST_ARMS:
        return (remaining,)
    kept: list[Nulls] = []
    for nulls in _equalities(arms):
        if not nulls & rejected and not any(nulls <= larger for larger in kept):
            kept.append(nulls)
    return tuple(kept)


@lru_cache(maxsize=16)
def _equalities(arms: tuple[tuple[int, int], ...]) -> tuple[Nulls, ...]:
    """For each way in which arms can be equal the contrasts that are null, the most first."""
    found = {
        frozenset(j for j, (a, b) in enumerate(arms) if blocks[a] == blocks[b])
        for blocks in _partitions(1 + max(map(max, arms)))
    }
    return tuple(sorted(found, key=lambda nulls: (-len(nulls), sorted(nulls))))


def _partitions(count: int) -> Iterator[tuple[int, ...]]:
    """All ways to put things into blocks, as the block of each thing."""
    if count == 0:
        yield ()
        return
    for blocks in _partitions(count - 1):
        for block in range(max(blocks, default=-1) + 2):
            yield (*blocks, block)
