"""Statistics against closed forms, brute force and simulations of known truth."""

import itertools
import math
from dataclasses import replace
from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pytest
import synthetic
from hypothesis import example, given, settings
from hypothesis.extra.numpy import arrays
from scipy import stats

from gelu_jax.compare.analysis import ALPHA, analyze
from gelu_jax.compare.statistics import (
    EXACT_PAIRS,
    attainable_level,
    detectable_difference,
    detectable_factor,
    fewest_pairs,
    holm,
    paired_interval,
    pairing_gain,
    seeds_needed,
    sign_flip_test,
    speed_up,
    steps_to_target,
)
from gelu_jax.report.verdict import verdict

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
    """To the last bit, in any unit and order, for losses of up to a million times their differences."""
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


def test_false_positives_of_the_family_stay_below_the_level():
    """2,000 comparisons of three equal arms; the contrasts share their first arm."""
    losses = np.random.default_rng(4).standard_normal((3, 2000, 8))
    p = sign_flip_test(losses[1:] - losses[0])
    found = sum(min(holm(pair)) <= ALPHA for pair in p.T)
    assert found <= stats.binom.ppf(0.999, 2000, ALPHA)
    assert found >= stats.binom.ppf(0.001, 2000, 0.02)


def test_power_at_the_detectable_difference():
    """Measured power of the sign-flip test at δ: 0.73–0.83, 0.68 where one pattern rejects."""
    rng = np.random.default_rng(5)
    for pairs, contrasts, least in (
        (6, 1, 0.70),
        (7, 2, 0.65),
        (8, 1, 0.76),
        (8, 2, 0.73),
        (10, 2, 0.73),
    ):
        alpha = ALPHA / contrasts
        shift = detectable_difference(1.0, pairs, alpha)
        p = sign_flip_test(rng.standard_normal((800, pairs)) + shift)
        assert least <= np.mean(p <= alpha) <= 0.86, (pairs, contrasts)


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


def test_holm_is_the_worked_example():
    """Holm 1979, in the form of p-values; then the same by its definition, in brute force."""
    assert holm([0.01, 0.02, 0.03, 0.04]) == (0.04, 0.06, 0.06, 0.06)
    assert holm([]) == ()
    assert holm([0.3]) == (0.3,)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=7), st.randoms())
def test_holm_by_definition_and_in_any_order(p_values: list[float], random):
    ordered = sorted(p_values)
    adjusted = holm(p_values)
    for p, result in zip(p_values, adjusted, strict=True):
        rank = max(i for i, other in enumerate(ordered) if other == p)
        steps = [min(1.0, (len(ordered) - i) * ordered[i]) for i in range(rank + 1)]
        assert result == max(steps)
    shuffled = list(range(len(p_values)))
    random.shuffle(shuffled)
    assert holm([p_values[i] for i in shuffled]) == tuple(adjusted[i] for i in shuffled)


def test_interval_is_scipys_and_covers_about_as_stated():
    """At n = 8 the BCa interval covers 0.88 of normal means; at n = 30 about 0.94."""
    rng = np.random.default_rng(6)
    for pairs, low, high in ((8, 0.82, 0.93), (30, 0.90, 0.98)):
        intervals = [paired_interval(rng.standard_normal(pairs)) for _ in range(300)]
        covered = np.mean([i is not None and i[0] <= 0 <= i[1] for i in intervals])
        assert low <= covered <= high, pairs


@given(DIFFERENCES.filter(lambda differences: len(differences) > 2))
@settings(max_examples=25)
def test_interval_lies_within_the_differences(differences: np.ndarray):
    low, high = paired_interval(differences) or (math.nan, math.nan)
    assert min(differences) - 1e-9 <= low <= high <= max(differences) + 1e-9


@given(st.integers(0, 10**6), st.integers(3, 12), st.floats(0.01, 100))
@settings(max_examples=25)
def test_interval_knows_no_unit(seed: int, pairs: int, scale: float):
    differences = np.random.default_rng(seed).standard_normal(pairs)
    low, high = paired_interval(differences) or (math.nan, math.nan)
    scaled = paired_interval(differences * scale)
    assert scaled == pytest.approx((low * scale, high * scale), rel=1e-6, abs=1e-9 * scale)


def test_interval_edges():
    assert paired_interval(np.array([0.1])) is None
    assert paired_interval(np.array([0.1, 0.2])) is None
    assert paired_interval(np.zeros(5)) == (0, 0)
    assert paired_interval(np.full(5, 0.3)) == (0.3, 0.3)


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


@pytest.mark.parametrize("pairs", [1, 2])
def test_speed_up_of_few_pairs_has_no_interval(pairs: int):
    steps = np.linspace(0, 100, 101)
    first = np.array([exponential(steps, 1, 0.05)] * pairs)
    factor, interval = speed_up(steps, first, first)
    assert factor == pytest.approx(1)
    assert interval is None


# the analysis of whole comparisons


def test_the_truth_of_the_synthetic_comparison_is_found():
    analysis = analyze(synthetic.comparison())
    gelu, swiglu = analysis.contrasts
    assert swiglu.mean == pytest.approx(-0.047, abs=0.006)
    assert gelu.mean == pytest.approx(-0.016, abs=0.006)
    assert gelu.found
    assert swiglu.found
    assert [arm.arm.name for arm in analysis.order] == ["swiglu", "gelu", "relu"]
    assert swiglu.pairing_gain > 3
    assert swiglu.speed_up > 1.3
    assert analysis.arms[0].rates[1e-3] > analysis.arms[0].rates[3e-3]
    assert not analysis.arms[0].at_edge


def test_arm_order_changes_no_contrast():
    """The other arms may stand in any order; against another first arm the sign turns."""
    made = synthetic.comparison()
    relu, gelu, swiglu = made.arms
    turned = analyze(replace(made, arms=(relu, swiglu, gelu)))
    assert analyze(made).contrasts == tuple(reversed(turned.contrasts))
    other = analyze(replace(made, arms=(swiglu, relu, gelu)))
    forth, back = analyze(made).contrasts[1], other.contrasts[0]
    assert back.differences == tuple(-difference for difference in forth.differences)
    assert (back.p_value, back.sd, back.detectable) == pytest.approx(
        (forth.p_value, forth.sd, forth.detectable)
    )


@pytest.mark.parametrize("seeds", [1, 2, 3, 6])
def test_fewer_than_seven_seeds_never_conclude_over_two_contrasts(seeds: int):
    analysis = analyze(synthetic.comparison(seeds=seeds))
    words = str(verdict(analysis))
    assert not any(contrast.found for contrast in analysis.contrasts)
    assert "Inconclusive: gelu and swiglu cannot be told apart from relu." in words
    assert "fewer than 7 pairs can never reach p ≤ 0.05" in words
    assert "relu" not in {name for pair in analysis.told_apart for name in pair}


def test_an_inconclusive_verdict_says_what_it_could_have_seen_and_what_more_costs():
    analysis = analyze(synthetic.comparison(("relu", "geglu"), noise=0.045))
    (contrast,) = analysis.contrasts
    words = str(verdict(analysis))
    assert not contrast.found
    assert f"it could have seen {contrast.detectable:.{analysis.decimals}f}" in words
    assert f"{contrast.more_seeds} more seeds would take about" in words
    seconds = sum(arm.seconds_per_run for arm in analysis.arms)
    expected = (contrast.more_seeds or 0) * seconds + 2 * 6.5
    assert contrast.more_seconds == pytest.approx(expected)


def test_a_smoke_test_draws_no_conclusion():
    analysis = analyze(synthetic.comparison(protocol="smoke test"))
    words = verdict(analysis)
    assert not any(contrast.found for contrast in analysis.contrasts)
    assert not analysis.told_apart
    assert words.headline == "Smoke test: no conclusion is drawn."
    assert words.order == ""
    assert "p =" not in str(words)
    assert "Inconclusive" not in str(words)


def test_identical_arms_are_told_so():
    made = synthetic.comparison(("relu", "gelu"), rates=())
    relu = made.runs_of("relu")
    analysis = analyze(replace(made, runs=relu + tuple(replace(run, arm="gelu") for run in relu)))
    (contrast,) = analysis.contrasts
    assert (contrast.mean, contrast.p_adjusted, contrast.interval) == (0, 1, (0, 0))
    assert "every pair is equal to the last digit" in str(verdict(analysis))
    assert "Inconclusive" in verdict(analysis).headline


def test_a_diverged_seed_is_said_and_not_averaged_in():
    made = synthetic.with_status(synthetic.comparison(), "swiglu", 103, "diverged")
    analysis = analyze(made)
    swiglu = analysis.contrasts[1]
    assert analysis.arms[2].diverged == (103,)
    assert 103 not in swiglu.seeds
    assert len(swiglu.seeds) == 7
    assert math.isfinite(analysis.arms[2].mean)
    assert not swiglu.found
    words = str(verdict(analysis))
    assert "swiglu: 1 of 8 seeds diverged; its mean leaves them out." in words
    assert "No conclusion: a run diverged" in words
    assert words.startswith(
        "gelu ends at a lower validation loss than relu; "
        "no conclusion on swiglu against relu: a run diverged."
    )


def test_a_diverged_first_arm_allows_no_conclusion_at_all():
    made = synthetic.with_status(synthetic.comparison(), "relu", 103, "diverged")
    analysis = analyze(made)
    assert not any(contrast.found for contrast in analysis.contrasts)
    assert verdict(analysis).headline == (
        "No conclusion on gelu and swiglu against relu: a run diverged."
    )


def test_an_arm_that_diverged_on_every_seed_leaves_the_others_standing():
    made = synthetic.comparison()
    for seed in range(100, 108):
        made = synthetic.with_status(made, "gelu", seed, "diverged")
    analysis = analyze(made)
    assert [arm.arm.name for arm in analysis.order] == ["swiglu", "relu"]
    words = str(verdict(analysis))
    assert "gelu: no seed was finished by both it and relu." in words
    assert "swiglu ends at a lower" in words


def test_interrupted_and_missing_seeds_are_noted():
    made = synthetic.with_status(synthetic.comparison(), "gelu", 101, "interrupted")
    made = replace(made, runs=tuple(r for r in made.runs if (r.arm, r.seed) != ("swiglu", 102)))
    analysis = analyze(made)
    assert len(analysis.contrasts[0].seeds) == len(analysis.contrasts[1].seeds) == 7
    words = str(verdict(analysis))
    assert "gelu: 1 of 8 seeds are not finished." in words
    assert "swiglu: 1 of 8 seeds were not run." in words


def test_a_best_rate_at_the_edge_is_said():
    words = str(verdict(analyze(synthetic.comparison(rates=(3e-3, 1e-2)))))
    assert "relu: its best learning rate 0.003 lies at the grid's edge." in words


def test_a_diverged_rate_counts_with_its_loss_before_training():
    made = synthetic.comparison(("relu",))
    lost = [
        replace(run, status="diverged") if run.learning_rate == 1e-2 else run
        for run in made.runs_of("relu", "tuning")
    ]
    (arm,) = analyze(replace(made, runs=(*lost, *made.runs_of("relu")))).arms
    start = np.mean([run.validation_loss[0] for run in lost if run.learning_rate == 1e-2])
    assert arm.rates[1e-2] == pytest.approx(start)
    best = min(arm.rates.values())
    assert arm.sensitivity == pytest.approx(np.mean([*arm.rates.values()]) - best)


def test_rates_that_were_not_tuned_are_said():
    assert "not tuned for each arm" in str(verdict(analyze(synthetic.comparison(rates=()))))


def test_one_run_alone():
    words = verdict(analyze(synthetic.comparison(("relu",), 1, ())))
    assert words.headline.startswith("relu reaches a validation loss of 2.")
    assert "nothing is compared" in words.sentences[0]
    assert words.order == ""


def test_nothing_finished():
    made = synthetic.comparison(("relu", "gelu"), 1, ())
    for arm in ("relu", "gelu"):
        made = synthetic.with_status(made, arm, 100, "interrupted")
    assert verdict(analyze(made)).headline.startswith("No run finished")
