"""Laws of loss and compute: exact where they must be, and as certain as they say in simulation."""

from functools import partial

import numpy as np
import pytest
import synthetic
from scipy import optimize, stats

from gelu_jax.compare.analysis import analyze
from gelu_jax.compare.family import Look, infer
from gelu_jax.compare.ladder_analysis import analyze_ladder
from gelu_jax.compare.scaling import (
    Law,
    fit_laws,
    held_out_errors,
    jackknife,
    log_speed_ups,
    mean_and_slope,
    shares_floor,
)

COSTS = 3e10 * 4.0 ** np.arange(5)
LAW = Law(0.9, 1.6, 0.22, 3e10)
UPPER = partial(stats.binom.ppf, 0.999)


def planted(factor: float, slope: float, costs: np.ndarray = COSTS) -> np.ndarray:
    """The losses of an arm with this speed-up at the middle of the ladder, and this slope."""
    decades = np.log10(costs) - np.log10(costs).mean()
    return LAW.loss(costs * factor * 10 ** (slope * decades))


# --- Exactly ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("floor", [0.0, 0.4, 1.7])
def test_the_fit_finds_laws_without_noise(floor: float, shared: bool):
    laws = [Law(floor, 1.6, 0.15, 1e11), Law(floor, 0.8, 0.35, 1e11)]
    costs = np.stack([COSTS, 1.1 * COSTS])
    losses = np.stack([law.loss(cost) for law, cost in zip(laws, costs, strict=True)])
    for law, found in zip(laws, fit_laws(costs, losses, shared=shared), strict=True):
        assert found.floor == pytest.approx(floor, abs=2e-3)
        assert found.exponent == pytest.approx(law.exponent, rel=5e-3)
        np.testing.assert_allclose(found.loss(100 * COSTS), law.loss(100 * COSTS), rtol=2e-3)
        np.testing.assert_allclose(found.cost(found.loss(COSTS)), COSTS, rtol=1e-9)


def test_the_fit_is_the_least_squares_of_scipy():
    """With noise; scipy minimizes the same sum from the truth, over all three parameters."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        losses = LAW.loss(COSTS) + rng.normal(0, 0.01, 5)
        (law,) = fit_laws(COSTS[None], losses[None], shared=False)
        found = optimize.least_squares(
            lambda p, losses=losses: p[0] + p[1] * (COSTS / 3e10) ** -p[2] - losses,
            (0.9, 1.6, 0.22),
            bounds=((0, 0, 0.01), (np.inf, np.inf, 3)),
            xtol=1e-14,
        )
        ours = ((law.loss(COSTS) - losses) ** 2).sum()
        assert ours <= 2 * found.cost * (1 + 1e-6)


def test_losses_that_do_not_fall_have_no_cost():
    (law,) = fit_laws(COSTS[None], np.linspace(1, 2, 5)[None], shared=False)
    assert np.isnan(law.cost(np.array(1.5)))
    assert LAW.cost(np.array(0.9)) == np.inf


def test_an_arm_equal_to_the_first_has_a_speed_up_of_one_whatever_the_law():
    losses = np.stack([LAW.loss(COSTS)] * 2) + np.random.default_rng(0).normal(0, 0.1, 5)
    wrong = Law(0.1, 3.0, 0.1, 1e11)
    np.testing.assert_allclose(log_speed_ups(np.stack([COSTS] * 2), losses, wrong), 0, atol=1e-12)


def test_planted_speed_ups_without_noise():
    costs = np.stack([COSTS] * 3)
    losses = np.stack([LAW.loss(COSTS), planted(1.3, 0.05), planted(0.8, -0.1)])
    found = mean_and_slope(COSTS, log_speed_ups(costs, losses, LAW))
    np.testing.assert_allclose(10 ** found[:, 0], [1.3, 0.8], rtol=1e-9)
    np.testing.assert_allclose(found[:, 1], [0.05, -0.1], atol=1e-9)
    assert np.isinf(log_speed_ups(costs, losses - [[0], [2], [0]], LAW)[0]).all()


def test_the_jackknife_of_a_mean_gives_the_seeds():
    samples = np.random.default_rng(0).normal(size=(6, 2, 3))
    value, seeds = jackknife(np.ravel, samples)
    np.testing.assert_allclose(seeds, samples.reshape(6, 6))
    np.testing.assert_allclose(value, samples.mean(0).ravel())


def test_a_size_that_is_left_out_is_predicted():
    costs, losses = np.stack([COSTS] * 2), np.stack([LAW.loss(COSTS), planted(1.3, 0.0)])
    np.testing.assert_allclose(held_out_errors(costs, losses, shared=True), 0, atol=2e-3)
    assert shares_floor(costs, losses + np.random.default_rng(0).normal(0, 1e-3, (2, 5)))
    apart = np.stack([LAW.loss(COSTS), 0.8 + LAW.loss(COSTS)])
    assert not shares_floor(costs, apart)


# --- In simulation ----------------------------------------------------------------------------

ARMS = ((1.0, 0.0), (1.3, 0.05))


def simulate(count: int, seeds: int, rungs: int, shared_over_rungs: bool, noise: str) -> None:
    """Ladders of known truth: false findings of the family, and coverage of every interval."""
    rng, costs = np.random.default_rng(seeds + rungs), COSTS[:rungs]
    draw = {"normal": rng.standard_normal, "heavy": partial(rng.standard_t, 3)}[noise]
    all_costs = np.stack([costs, *([costs] * len(ARMS))])
    means = np.stack([LAW.loss(costs), *(planted(*arm, costs) for arm in ARMS)])
    truth = np.array([[np.log10(factor), slope] for factor, slope in ARMS]).ravel()
    covered, law_covered, joint, false = np.zeros(len(truth)), np.zeros(2), 0, 0
    for _ in range(count):
        level = 0.018 * draw((seeds, 1, 1 if shared_over_rungs else rungs))
        losses = means + level + 0.004 * draw((seeds, *means.shape))
        shared = shares_floor(all_costs, losses.mean(0))

        def numbers(mean: np.ndarray, shared: bool = shared) -> np.ndarray:
            law, *_ = fit_laws(all_costs, mean, shared=shared)
            found = mean_and_slope(costs, log_speed_ups(all_costs, mean, law)).ravel()
            return np.array([*found, law.floor, law.exponent])

        _, values = jackknife(numbers, losses)
        result = infer(values[:, :-2], [Look(seeds, 0.05)])
        inside = [r.interval[0] <= t <= r.interval[1] for r, t in zip(result, truth, strict=True)]
        covered, joint = covered + inside, joint + all(inside)
        false += any(r.found for r, t in zip(result, truth, strict=True) if t == 0)
        for at, value in enumerate((LAW.floor, LAW.exponent)):
            low, high = infer(values[:, [at - 2]], [Look(seeds, 0.05)])[0].interval
            law_covered[at] += low <= value <= high
    least = stats.binom.ppf(0.001, count, 0.95)
    assert covered.min() >= least, covered / count
    assert false <= UPPER(count, 0.05), false / count
    assert joint >= stats.binom.ppf(0.001, count, 0.93), joint / count
    assert law_covered.min() >= stats.binom.ppf(0.001, count, 0.93), law_covered / count


def test_laws_and_factors_are_within_their_intervals():
    simulate(40, seeds=6, rungs=5, shared_over_rungs=False, noise="normal")


@pytest.mark.slow
@pytest.mark.parametrize("noise", ["normal", "heavy"])
@pytest.mark.parametrize("shared_over_rungs", [False, True])
@pytest.mark.parametrize(("seeds", "rungs"), [(6, 3), (6, 5), (8, 4), (8, 5), (12, 5)])
def test_laws_and_factors_are_within_their_intervals_often(
    seeds: int, rungs: int, shared_over_rungs: bool, noise: str
):
    """Noise that a seed has at all sizes, and noise of each size; 150 ladders each."""
    simulate(150, seeds, rungs, shared_over_rungs, noise)


# --- A whole ladder ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def analysis():
    return analyze_ladder(synthetic.ladder())


def test_the_truth_of_the_synthetic_ladder_is_found(analysis):
    gelu, swiglu = analysis.speed_ups["FLOPs"]
    assert gelu.mean.value == pytest.approx(1.0, abs=0.03)
    assert swiglu.mean.value == pytest.approx(1.3, abs=0.05)
    assert swiglu.slope.value == pytest.approx(0.05, abs=0.03)
    assert (gelu.mean.found, swiglu.mean.found, swiglu.slope.found) == (False, True, True)
    assert (gelu.trend, swiglu.trend) == ("stays", "grows")
    assert analysis.sizes == synthetic.SIZES
    low, high = analysis.exponents[0].interval
    assert low <= 0.22 <= high
    assert np.abs(analysis.held_out).max() < 0.05


def test_tokens_and_seconds_are_costs_as_well(analysis):
    """Tokens grow as the square root of compute here, and seconds as tokens times size."""
    flops, tokens, seconds = (analysis.speed_ups[u][1] for u in ("FLOPs", "tokens", "seconds"))
    assert tokens.mean.value == pytest.approx(flops.mean.value**0.5, rel=0.01)
    assert tokens.slope.value == pytest.approx(flops.slope.value, rel=0.02)
    assert seconds.mean.value == pytest.approx(tokens.mean.value, rel=1e-6)  # steps are as many
    assert np.isnan(tokens.mean.p_adjusted)


def test_few_seeds_bound_nothing_and_assert_nothing():
    found = analyze_ladder(synthetic.ladder(seeds=5, sizes=synthetic.SIZES[::2]))
    for speed_up in found.speed_ups["FLOPs"]:
        assert not speed_up.mean.found
        assert speed_up.mean.interval is None
        assert speed_up.trend == "unknown"
    one = analyze_ladder(synthetic.ladder(seeds=1, sizes=synthetic.SIZES[::2]))
    assert one.speed_ups["FLOPs"][1].mean.value > 1.1


def test_an_arm_with_a_diverged_run_has_no_law():
    made = list(synthetic.ladder(sizes=synthetic.SIZES[::2]))
    lost = [
        run if (run.arm, run.seed) != ("gelu", 3) else synthetic.replace(run, status="diverged")
        for run in made[2].runs
    ]
    made[2] = synthetic.replace(made[2], runs=tuple(lost))
    found = analyze_ladder(made)
    assert (found.arms, found.diverged) == (("relu", "swiglu"), ("gelu",))
    assert found.seeds == tuple(range(8))
    assert analyze(made[2]).arms[1].diverged == (3,)
