"""What the family of tests promises, on synthetic comparisons of known truth: its error rates.

`make test-error-rates` compares about 150,000 times, the default run a few hundred. A rate may
exceed its nominal value by no more than chance allows: the upper 99.9 % bound of a binomial with
that rate.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from gelu_jax.compare.family import Inference, Look, infer, spent
from gelu_jax.compare.statistics import detectable_difference, family_share, sign_flip_test

ALPHA = 0.05
Noise = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]

NOISE: dict[str, Noise] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "heavy tails": lambda rng, shape: rng.standard_t(2, shape),
    "skewed": lambda rng, shape: rng.exponential(1, shape) - 1,
    "unequal": lambda rng, shape: rng.standard_normal(shape) * np.linspace(0.2, 3, shape[-1]),
}
"""Noise of each arm; the difference of two arms with the same noise is symmetric if neither is."""

MEANS = [
    (0, 0), (0, 0, 0), (0, 0, 2), (0, 2, 2), (0, 0, 2, 2), (0, 0, 0, 1, 2, 2), (0,) * 6, (0,) * 8,
]  # fmt: skip


@dataclass
class Rates:
    """Counts over comparisons."""

    total: int = 0
    with_false_findings: int = 0
    covered: np.ndarray | float = 0.0
    power: float = 0.0

    def assert_holds(self) -> None:
        false = stats.binom.ppf(0.999, self.total, ALPHA)
        assert self.with_false_findings <= false, self
        assert np.min(self.covered) >= stats.binom.ppf(0.001, self.total, 1 - ALPHA), self


def pairs(arms: int) -> tuple[tuple[int, int], ...]:
    return tuple(combinations(range(arms), 2))


def differences(losses: np.ndarray) -> np.ndarray:
    """(n, arms) → (n, pairs)."""
    return np.stack([losses[:, b] - losses[:, a] for a, b in pairs(losses.shape[1])], 1)


def looks_at(seeds: Sequence[int], most: int | None = None) -> list[Look]:
    return [Look(n, spent(n, most or seeds[-1], ALPHA)) for n in seeds]


def rates(
    means: Sequence[float], noise: str, looks: Sequence[Look], count: int, seed: int = 0
) -> Rates:
    """Compares arms with these mean losses, so often."""
    rng, found = np.random.default_rng(seed), Rates()
    truth = differences(np.array([means]))[0]
    for _ in range(count):
        losses = NOISE[noise](rng, (looks[-1].pairs, len(means))) + np.array(means)
        result = infer(differences(losses), looks, pairs(len(means)))
        significant = np.array([r.found for r in result])
        found.total += 1
        found.with_false_findings += bool(significant[truth == 0].any())
        found.covered = found.covered + covers(result, truth)
        found.power += significant[truth != 0].mean() / count if truth.any() else 0.0
    return found


def covers(result: Sequence[Inference], truth: np.ndarray) -> np.ndarray:
    return np.array(
        [r.interval[0] <= t <= r.interval[1] for r, t in zip(result, truth, strict=True)]
    )


@pytest.mark.parametrize(
    ("means", "noise", "count"),
    [((0, 0, 0), "skewed", 300), ((0, 2, 2), "normal", 300), ((0,) * 8, "normal", 60)],
    ids=str,
)
def test_false_findings_of_one_look(means: tuple[float, ...], noise: str, count: int):
    rates(means, noise, looks_at([8]), count).assert_holds()


@pytest.mark.slow
@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("means", MEANS, ids=str)
def test_false_findings_and_coverage_of_one_look(means: tuple[float, ...], noise: str):
    """Eight seeds; complete and partial nulls."""
    count = 2000 if len(means) < 6 else 600
    rates(means, noise, looks_at([8]), count, seed=len(means)).assert_holds()


def test_false_findings_of_several_looks():
    rates((0, 0, 0), "normal", looks_at([6, 8, 10]), 150).assert_holds()
    rates((0, 2, 2), "normal", looks_at([6, 8, 10]), 150).assert_holds()


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [(8, 12), (8, 10, 12, 14), (6, 12)], ids=str)
@pytest.mark.parametrize("means", [*MEANS[:5], (0, 1, 1), (0, 0, 1, 1), (0, 0, 0.5, 1)], ids=str)
def test_false_findings_and_coverage_of_several_looks(
    means: tuple[float, ...], seeds: tuple[int, ...]
):
    """Planned up to the last look; what a look finds stays found."""
    count = 1500 if len(means) < 4 else 400
    rates(means, "normal", looks_at(seeds), count, seed=len(seeds)).assert_holds()


@pytest.mark.slow
def test_the_looks_of_the_issue():
    """From 8 to 24 seeds by fours: 14 % false findings without spending, 5 % with it."""
    for most in (8, 24):
        rates((0, 0), "normal", looks_at([8, 12, 16, 20, 24], most), 600).assert_holds()


@pytest.mark.parametrize(("seeds", "noise"), [(6, "normal"), (8, "skewed"), (12, "heavy tails")])
def test_intervals_cover(seeds: int, noise: str):
    rates((0, 0.5), noise, looks_at([seeds]), 200, seed=seeds).assert_holds()


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 6, 7, 8, 10, 12, 16, 24, 32])
@pytest.mark.parametrize("noise", NOISE)
def test_intervals_cover_at_any_number_of_seeds(seeds: int, noise: str):
    """One difference; "skewed" is the difference of two arms whose losses are."""
    count = 2000 if seeds < 16 else 500
    rates((0, 0.5), noise, looks_at([seeds]), count, seed=seeds).assert_holds()


def skewed_coverage(seeds: int, count: int) -> float:
    """The coverage for differences that are exponential themselves, which is not promised."""
    rng = np.random.default_rng(seeds)
    results = (infer(rng.exponential(1, (seeds, 1)), looks_at([seeds])) for _ in range(count))
    return float(np.mean([covers(result, np.ones(1)) for result in results]))


@pytest.mark.slow
def test_where_the_intervals_do_not_cover():
    """A difference that is skewed itself breaks the assumption of the test: down to 0.90."""
    for seeds in (6, 8, 12, 16):
        assert 0.88 <= skewed_coverage(seeds, 1500) <= 0.97, seeds


def old_test(values: np.ndarray, arms: int) -> np.ndarray:
    """What was asserted before: Holm over the arms against the first, Holm over the rest."""
    p = np.array([float(sign_flip_test(column)) for column in values.T])
    found = np.zeros(len(p), bool)
    first = np.array([a == 0 for a, _ in pairs(arms)])
    for members in (np.flatnonzero(first), np.flatnonzero(~first)):
        ordered = members[np.argsort(p[members])]
        for rank, j in enumerate(ordered):
            if p[j] > ALPHA / (len(ordered) - rank):
                break
            found[j] = True
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "means",
    [(0, 1.3), (0, 0, 1.3), (0, 1.3, 1.3), (0, 0.9, 1.8), (0, 0, 0, 1.3), (0, 0.9, 1.8, 2.7)],
    ids=str,
)
def test_power_is_that_of_the_old_test(means: tuple[float, ...]):
    """Differences of one standard deviation unit at eight seeds, among those with the first arm."""
    rng, count = np.random.default_rng(1), 1500
    truth = differences(np.array([means]))[0]
    asked = np.array([a == 0 for a, _ in pairs(len(means))]) & (truth != 0)
    new = old = 0.0
    for _ in range(count):
        losses = rng.standard_normal((8, len(means))) / np.sqrt(2) + np.array(means)
        values = differences(losses)
        result = infer(values, looks_at([8]), pairs(len(means)))
        new += np.mean([r.found for r, is_asked in zip(result, asked, strict=True) if is_asked])
        old += np.mean(old_test(values, len(means))[asked])
    assert new / count >= old / count - 0.05


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "arms"), [(6, 2), (8, 2), (10, 2), (8, 3), (12, 3), (10, 5)])
def test_power_at_the_minimum_detectable_difference(seeds: int, arms: int):
    """Planning is about right, where 0.80 is meant."""
    shift = detectable_difference(1.0, seeds, ALPHA, family_share(arms))
    means = (0.0,) * (arms - 1) + (shift * np.sqrt(2),)
    power = rates(means, "normal", looks_at([seeds]), 600, seed=seeds).power
    assert 0.68 <= power <= 0.92, power
