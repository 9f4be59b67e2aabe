"""Statistics against closed forms, brute force and simulations of known truth."""

import itertools
import math
from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis.extra.numpy import arrays
from scipy import stats

from gelu_jax.compare.analysis import ALPHA
from gelu_jax.compare.statistics import (
    EXACT_PAIRS,
    attainable_level,
    detectable_difference,
    detectable_factor,
    family_share,
    fewest_pairs,
    lowest_point,
    pairing_gain,
    power,
    seeds_needed,
    sign_flip_test,
    speed_up,
    speed_up_curve,
    steps_to_target,
    tuning_regret,
)

WHOLE = arrays(np.int64, st.integers(2, 9), elements=st.integers(-1000, 1000))
DIFFERENCES = WHOLE.map(lambda whole: whole / 1000)
UNITS = st.one_of(st.integers(-60, 60).map(lambda power: 2.0**power), st.floats(1e-6, 1e6))


def enumerated(whole: np.ndarray) -> float:
    """The p of the sign-flip test for whole numbers, whose sums are exact: every pattern's."""
    sums = np.zeros(1, np.int64)
    for value in whole:
        sums = np.concatenate([sums - value, sums + value])
    return float(np.mean(np.abs(sums) >= abs(whole.sum())))


@given(WHOLE, UNITS, st.randoms(use_true_random=False))
def test_sign_flip_test_is_the_enumeration(whole: np.ndarray, unit: float, random):
    """To the last bit, in any unit and order; losses up to a million times the differences."""
    expected = enumerated(whole)
    shuffled = [*map(float, whole)]
    random.shuffle(shuffled)
    differences = np.array(shuffled) * unit
    assert sign_flip_test(differences) == expected
    assert sign_flip_test(-differences) == expected
    losses = random.uniform(0, 1e6) * np.abs(differences).mean()
    assert sign_flip_test((losses + differences) - losses) == expected


@pytest.mark.parametrize(
    "decimals",
    [
        "0 .815 .323 -.074 -.457 -.779 -.097 -.035 .323",
        ".1 .2 -.3 .1 .1",
        ".7 -.1 -.2 -.3 -.1",
        "1e-30 -1e-30 1e-31 2e-31 3e-31",
    ],
)
def test_ties_of_decimals_are_those_of_fractions(decimals: str):
    """In float64 the sums of tied patterns differ in their last bit: .1 + .2 is not .3."""
    exact = [Fraction(value) for value in decimals.split()]
    patterns = itertools.product((-1, 1), repeat=len(exact))
    sums = [abs(sum(s * d for s, d in zip(signs, exact, strict=True))) for signs in patterns]
    p = sum(total >= abs(sum(exact)) for total in sums) / len(sums)
    differences = np.array(decimals.split(), float)
    for unit in (1.0, 2.0**-40, 1 / math.log(2), 1e-3):
        for order in (differences, differences[::-1], -np.roll(differences, 3)):
            assert sign_flip_test(order * unit) == p


def test_the_example_of_the_issue():
    """What the test gave when a tie counted or not by chance: 0.984375."""
    assert sign_flip_test([0, 0.815, 0.323, -0.074, -0.457, -0.779, -0.097, -0.035, 0.323]) == (
        0.9921875
    )


@pytest.mark.parametrize("pairs", [10, 15, 16, 17, 20])
def test_more_pairs_are_the_enumeration_too(pairs: int):
    whole = np.random.default_rng(pairs).integers(-60, 100, pairs)
    assert sign_flip_test(whole * 0.001) == enumerated(whole)


@given(st.integers(2, 28).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
@example((EXACT_PAIRS, EXACT_PAIRS // 3))
def test_equal_sizes_are_the_sign_test(pairs_and_positive: tuple[int, int]):
    """Differences of one size, most of whose patterns tie: scipy's binomial test."""
    pairs, positive = pairs_and_positive
    signs = np.repeat([1.0, -1.0], [positive, pairs - positive])
    expected = stats.binomtest(positive, pairs).pvalue
    assert sign_flip_test(0.1 * signs) == pytest.approx(expected, rel=1e-12)


def test_a_difference_that_is_not_finite_has_no_p():
    assert math.isnan(sign_flip_test([0.1, math.nan, 0.3]))
    assert math.isnan(sign_flip_test([math.inf, -math.inf]))


@pytest.mark.parametrize(("pairs", "least"), [(3, 0.25), (5, 0.0625), (6, 0.03125), (8, 0.0078125)])
def test_the_least_possible_p(pairs: int, least: float):
    assert sign_flip_test(np.full(pairs, -0.1)) == least
    assert sign_flip_test(np.arange(1.0, pairs + 1)) == least


def test_no_difference_and_ties_have_p_one():
    assert sign_flip_test(np.zeros(8)) == 1
    assert sign_flip_test(np.array([1.0, -1.0, 2.0, -2.0])) == 1


def test_beyond_the_exact_pairs_patterns_are_sampled_alike_each_time():
    differences = np.random.default_rng(0).normal(0.2, 1, EXACT_PAIRS + 1)
    p = sign_flip_test(differences)
    assert p == sign_flip_test(differences[::-1])
    assert sign_flip_test(np.full(EXACT_PAIRS + 1, 0.1)) == 1 / (2**16 + 1)
    assert p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.02)


def test_false_positives_come_at_the_nominal_level():
    """2,000 comparisons without a difference: 12 of 256 sign patterns have p ≤ 0.05 at n = 8."""
    p = sign_flip_test(np.random.default_rng(3).standard_normal((2000, 8)))
    low, high = stats.binom.interval(0.999, 2000, 12 / 256)
    assert low <= np.sum(p <= 0.05) <= high


@pytest.mark.parametrize("pairs", [2, 5, 6, 8, 16])
@pytest.mark.parametrize("share", [1.0, 0.38])
def test_power_at_the_detectable_difference_is_80_percent(pairs: int, share: float):
    shift = detectable_difference(1.0, pairs, ALPHA, share)
    expected = 0.8 if pairs >= fewest_pairs(ALPHA) else 0.0
    assert power(min(shift, 100.0), pairs, ALPHA, share) == pytest.approx(expected)


def test_the_share_of_a_family_is_tukeys():
    """Upper 5 % points of the studentized range with infinite degrees of freedom, from tables."""
    for arms, q in {2: 2.772, 3: 3.314, 4: 3.633, 6: 4.030, 8: 4.286}.items():
        expected = 2 * stats.norm.sf(q / math.sqrt(2)) / 0.05
        assert family_share(arms) == pytest.approx(expected, rel=3e-3)


@pytest.mark.parametrize("pairs", [2, 3, 5, 8, 16, 40])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_detectable_factor_gives_the_power_by_integration(pairs: int, alpha: float):
    """P(T > c) = ∫ Φ(δ√n − c·√(v/ν)) χ²_ν(v) dv: the noncentral t without its code."""
    shift = detectable_factor(pairs, alpha) * math.sqrt(pairs)
    critical = stats.t.isf(alpha / 2, pairs - 1)
    middles = (np.arange(20_000) + 0.5) / 20_000
    chi = np.sqrt(stats.chi2.ppf(middles, pairs - 1) / (pairs - 1))
    power = stats.norm.sf(critical * chi - shift) + stats.norm.cdf(-critical * chi - shift)
    assert np.mean(power) == pytest.approx(0.8, abs=2e-5)


def test_the_published_factors():
    """facts/comparison.md; Cohen 1988 has 1.00 for ten pairs."""
    factors = {3: 3.26, 4: 2.13, 6: 1.43, 8: 1.16, 10: 1.0, 16: 0.75}
    assert {n: round(detectable_factor(n), 2) for n in factors} == factors


@given(st.integers(2, 60), st.floats(1e-4, 0.2))
def test_attainable_level_is_a_level_of_the_test(pairs: int, alpha: float):
    level = attainable_level(pairs, alpha)
    patterns = 2 ** (pairs - 1)
    assert level <= alpha < level + 1 / patterns + 1e-15
    assert level * patterns == int(level * patterns)
    assert (level > 0) == (pairs >= fewest_pairs(alpha))


def test_too_few_pairs_can_see_nothing():
    assert detectable_difference(0.01, 5, 0.05) == math.inf
    assert detectable_difference(0.0, 5, 0.05) == math.inf
    assert detectable_difference(math.nan, 1, 0.05) == math.inf
    assert math.isfinite(detectable_difference(0.01, 7, 0.05 / 2))
    assert detectable_difference(0.01, 6, 0.05 / 2) == math.inf


@given(st.floats(0.01, 10), st.floats(0.001, 10), st.floats(1e-3, 1e3))
def test_seeds_needed_is_the_least_that_finds_it(difference: float, sd: float, scale: float):
    needed = seeds_needed(difference, sd, ALPHA)
    assert seeds_needed(-difference, sd, ALPHA) == needed
    if needed is None:
        assert detectable_difference(sd, 100, ALPHA) > difference
        return
    assert detectable_difference(sd, needed, ALPHA) <= difference
    assert detectable_difference(sd, needed - 1, ALPHA) > difference


def test_seeds_needed_of_nothing():
    assert seeds_needed(0.0, 0.1, ALPHA) is None
    assert seeds_needed(0.1, 0.0, ALPHA) == fewest_pairs(ALPHA)


@pytest.mark.parametrize("correlation", [0.0, 0.9, 0.98])
def test_pairing_gain_is_one_over_one_minus_the_correlation(correlation: float):
    """For equal variances var(a) + var(b) over var(a − b) is 1/(1 − ρ)."""
    rng = np.random.default_rng(7)
    covariance = [[1, correlation], [correlation, 1]]
    first, second = rng.multivariate_normal([0, 0], covariance, 20_000).T
    assert pairing_gain(first, second) == pytest.approx(1 / (1 - correlation), rel=0.05)


def test_pairing_gain_edges():
    assert math.isnan(pairing_gain(np.array([1.0]), np.array([2.0])))
    assert pairing_gain(np.array([1.0, 2.0]), np.array([1.5, 2.5])) == math.inf
    assert math.isnan(pairing_gain(np.array([1.0, 1.0]), np.array([2.0, 2.0])))


def exponential(steps: np.ndarray, floor: float, pace: float) -> np.ndarray:
    return floor + np.exp(-pace * steps)


def test_steps_to_target_of_an_exponential():
    steps = np.linspace(0, 100, 2001)
    curves = np.array([exponential(steps, 1, pace) for pace in (0.05, 0.1)])
    targets = np.array([1.5, 1.1, 2.0, 1.0])
    expected = [[math.log(2) / pace, math.log(10) / pace, 0, math.inf] for pace in (0.05, 0.1)]
    np.testing.assert_allclose(steps_to_target(steps, curves, targets), expected, rtol=1e-4)


def test_the_first_crossing_counts():
    steps = np.arange(5.0)
    curve = np.array([[4.0, 2.0, 3.0, 2.0, 1.0]])
    assert steps_to_target(steps, curve, np.array([2.0, 3.0, 1.5])).tolist() == [[1.0, 0.5, 3.5]]


def test_speed_up_of_a_curve_that_is_twice_as_fast():
    steps = np.linspace(0, 100, 1001)
    first = np.array([exponential(steps, level, 0.03) for level in np.linspace(1, 1.001, 9)])
    fast = np.array([exponential(steps, level, 0.06) for level in np.linspace(1, 1.001, 9)])
    factor, interval = speed_up(steps, first, fast)
    assert factor == pytest.approx(2, rel=0.01)
    assert interval is not None
    assert interval[0] <= factor <= interval[1]


def test_a_miss_is_censored():
    steps = np.linspace(0, 100, 101)
    first = np.array([exponential(steps, 1, 0.05)] * 5)
    assert speed_up(steps, first, first + 0.5) == (0.0, (0.0, 0.0))
    factor, interval = speed_up(steps, first, np.concatenate([first[:2] + 0.5, first[2:] - 0.1]))
    assert factor > 1
    assert interval is not None
    assert interval[0] == 0


@pytest.mark.filterwarnings("error")
def test_an_arm_that_is_there_from_the_start_is_infinitely_faster_without_a_warning():
    first, arm = np.array([[4.0, 3, 2]] * 3), np.ones((3, 3))
    assert speed_up(np.array([0.0, 10, 20]), first, arm) == (math.inf, (math.inf, math.inf))


@pytest.mark.parametrize("pairs", [1, 2])
def test_speed_up_of_few_pairs_has_no_interval(pairs: int):
    steps = np.linspace(0, 100, 101)
    first = np.array([exponential(steps, 1, 0.05)] * pairs)
    factor, interval = speed_up(steps, first, first)
    assert factor == pytest.approx(1)
    assert interval is None


def test_the_speed_up_curve_ends_in_the_speed_up():
    """An exponential and one that is 1.5 times as fast, so every target is 1.5 times as near."""
    steps = np.arange(0.0, 101.0, 5)
    spread = np.linspace(-0.02, 0.02, 5)[:, None]
    first, arm = (2 + 3 * np.exp(-rate * steps / 40) + spread for rate in (1.0, 1.5))
    curve = speed_up_curve(steps, first, arm)
    assert len(curve) == 20
    assert curve[-1][:2] == (np.median(first[:, -1]), speed_up(steps, first, arm)[0])
    for target, factor, interval in curve:
        assert 2 < target < 5
        assert factor == pytest.approx(1.5, rel=0.05)
        assert interval is not None
        assert interval[0] <= factor <= interval[1]


def test_the_speed_up_curve_skips_losses_that_are_no_new_low():
    steps = np.arange(5.0)
    losses = np.array([[5.0, 4.0, 4.5, 4.0, 3.0]])
    assert [target for target, *_ in speed_up_curve(steps, losses, losses)] == [4.0, 3.0]


def test_the_lowest_point_of_a_planted_parabola():
    rates = 1e-3 * 2.0 ** np.arange(5)
    losses = {rate: 1.5 + 0.3 * np.log(rate / 3.3e-3) ** 2 for rate in rates}
    rate, loss = lowest_point(losses)
    assert (rate, loss) == pytest.approx((3.3e-3, 1.5))
    assert lowest_point({1.0: 1.0, 2.0: 2.0, 4.0: 3.0}) == (1.0, 1.0)
    assert lowest_point({1.0: 3.0, 2.0: 1.0, 4.0: math.inf}) == (2.0, 1.0)


def test_regret_is_what_a_finer_grid_and_other_seeds_could_change():
    tried = {1.0: {0: 2.2, 1: 2.0}, 2.0: {0: 2.0, 1: 2.04}, 4.0: {0: 2.3, 1: 2.3}}
    alone = {rate: {0: seeds[0]} for rate, seeds in tried.items()}
    mean = {rate: (seeds[0] + seeds[1]) / 2 for rate, seeds in tried.items()}
    by_chance = (mean[1.0] - mean[2.0]) / 2  # seed 1 alone would have taken the rate 1
    finer = mean[2.0] - lowest_point(mean)[1]
    assert tuning_regret(tried) == pytest.approx(by_chance + finer)
    assert tuning_regret(alone) == pytest.approx(2.0 - lowest_point(
        {rate: seeds[0] for rate, seeds in tried.items()})[1])  # fmt: skip
    assert math.isnan(tuning_regret({1.0: {0: 2.0}, 2.0: {0: 2.1}}))
