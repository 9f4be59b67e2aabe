"""The family of tests against enumeration, and its intervals against the tests that they invert."""

import itertools
import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from gelu_jax.compare.family import (
    EXACT_PAIRS,
    MOST_ARMS,
    Inference,
    Look,
    infer,
    null_sets,
    sign_patterns,
    spent,
)
from gelu_jax.compare.statistics import sign_flip_test

LEVEL = 0.05
COLUMN = arrays(np.int64, st.integers(2, 9), elements=st.integers(-1000, 1000))


def one_look(differences: np.ndarray, arms: tuple[tuple[int, int], ...] = ()) -> list[Inference]:
    return list(infer(differences, [Look(len(differences), LEVEL)], arms))


def pairs(arms: int) -> tuple[tuple[int, int], ...]:
    return tuple(itertools.combinations(range(arms), 2))


def pair_differences(losses: np.ndarray) -> np.ndarray:
    return np.stack([losses[:, b] - losses[:, a] for a, b in pairs(losses.shape[1])], 1)


def enumerated_p(differences: np.ndarray, j: int, nulls: frozenset[int]) -> float:
    """p_S(j) by all 2ⁿ sign patterns, with sums in Python's exact fractions of float64."""
    norms = np.sqrt((differences**2).sum(0))
    observed = abs(differences[:, j].sum()) / norms[j]
    count = 0
    for signs in itertools.product((-1.0, 1.0), repeat=len(differences)):
        statistics = np.abs(signs @ differences) / norms
        count += statistics[sorted(nulls)].max() >= observed - 1e-9
    return count / 2 ** len(differences)


def closed_test(differences: np.ndarray, arms: int) -> set[int]:
    """Rejects j if the maximum over each set that holds it and could be null is significant."""
    found = set(range(len(pairs(arms))))
    for labels in itertools.product(range(arms), repeat=arms):
        nulls = frozenset(j for j, (a, b) in enumerate(pairs(arms)) if labels[a] == labels[b])
        p_values = [enumerated_p(differences, j, nulls) for j in nulls]
        if nulls and min(p_values) > LEVEL:
            found -= nulls
    return found


@given(COLUMN, st.floats(1e-6, 1e6), st.randoms(use_true_random=False))
def test_one_contrast_is_the_sign_flip_test(whole: np.ndarray, unit: float, random):
    """To the last bit, ties included, in any unit and any order of the seeds."""
    order = random.sample(range(len(whole)), len(whole))
    (found,) = one_look((whole[order] * 0.001 * unit)[:, None])
    assert found.p_value == sign_flip_test(whole * 0.001)


@pytest.mark.parametrize("seed", range(6))
def test_what_is_found_of_three_arms_is_in_the_closed_test(seed: int):
    rng = np.random.default_rng(seed)
    differences = pair_differences(rng.standard_normal((7, 3)) + np.array([0, seed / 2, seed / 2]))
    found = one_look(differences, pairs(3))
    assert {j for j, each in enumerate(found) if each.found} <= closed_test(differences, 3)
    first = max(
        range(3), key=lambda j: abs(differences[:, j].sum()) / np.linalg.norm(differences[:, j])
    )
    assert found[first].p_value == enumerated_p(differences, first, frozenset({0, 1, 2}))


def test_without_arms_the_steps_are_those_of_westfall_and_young():
    """After each rejection the maximum is over the contrasts that are left."""
    rng = np.random.default_rng(1)
    differences = rng.standard_normal((8, 3)) + np.array([3, 1.5, 0])
    statistics = np.abs(differences.sum(0)) / np.linalg.norm(differences, axis=0)
    left, largest, found = frozenset({0, 1, 2}), 0.0, one_look(differences)
    for j in np.argsort(-statistics):
        largest = max(largest, enumerated_p(differences, int(j), left))
        assert found[j].p_value == largest
        assert found[j].found == (largest <= LEVEL)
        if largest > LEVEL:
            break
        left -= {int(j)}
    assert len(left) < 3


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("arms", [(), pairs(3)])
def test_an_interval_holds_what_the_test_does_not_reject(seed: int, arms):
    """Just inside its bounds the shifted differences are accepted, just outside rejected."""
    rng = np.random.default_rng(seed)
    differences = pair_differences(rng.standard_normal((8, 3)) + np.array([0, 0.1, 0.2]))
    found = one_look(differences, arms)
    assert not any(each.found for each in found)
    everything = frozenset({0, 1, 2})
    for j, each in enumerate(found):
        for bound, outwards in zip(each.interval, (-1e-5, 1e-5), strict=True):
            for step, is_inside in ((-outwards, True), (outwards, False)):
                shifted = differences.copy()
                shifted[:, j] -= bound + step
                assert (enumerated_p(shifted, j, everything) > LEVEL) == is_inside


@given(st.integers(2, 4), st.integers(2, 9), st.integers(0, 2**32), st.floats(0, 3), st.booleans())
@settings(max_examples=150)
def test_verdict_interval_and_p_never_disagree(
    arms: int, seeds: int, seed: int, effect: float, coarse: bool
):
    """Also of tied, missing and repeated looks; and each interval holds the mean."""
    rng = np.random.default_rng(seed)
    losses = rng.standard_normal((seeds, arms)) + effect * np.arange(arms)
    if coarse:
        losses = np.round(losses)
    differences = pair_differences(losses)
    differences[rng.random(differences.shape) < 0.1] = np.nan
    looks = [Look(n, spent(n, seeds)) for n in range(2, seeds + 1, 3)]
    looks = [*(look for look in looks if look.pairs < seeds), Look(seeds, LEVEL)]
    for each in infer(differences, looks, pairs(arms)):
        low, high = each.interval
        assert low <= high
        assert each.found == (not low <= 0 <= high)
        assert each.found == (each.p_value <= LEVEL) or len(looks) > 1


@given(st.integers(0, 2**32), st.floats(1e-6, 1e6), st.randoms(use_true_random=False))
@settings(max_examples=50)
def test_units_signs_and_the_order_of_seeds_change_nothing(seed: int, unit: float, random):
    rng = np.random.default_rng(seed)
    differences = pair_differences(rng.standard_normal((7, 3)) + np.array([0, 1, 2]))
    order = random.sample(range(7), 7)
    for one, other in zip(
        one_look(differences, pairs(3)),
        one_look(-unit * differences[order], pairs(3)),
        strict=True,
    ):
        assert one.p_value == other.p_value
        low, high = one.interval
        assert other.interval == pytest.approx((-unit * high, -unit * low), rel=1e-6)


def test_no_difference_is_not_found_and_a_constant_one_is():
    zero, constant = one_look(np.full((8, 2), [0.0, 0.3]))
    assert (zero.found, zero.p_value) == (False, 1.0)
    assert zero.interval == (0, 0)
    assert (constant.found, constant.p_value) == (True, 2 / 256)
    assert constant.interval == pytest.approx((0.3, 0.3))


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_too_few_seeds_bound_nothing(seeds: int):
    (found,) = one_look(np.arange(1.0, seeds + 1)[:, None])
    assert not found.found
    assert found.interval == (-math.inf, math.inf)


def test_what_a_look_found_stays_found():
    """The interval may only become shorter: it is the common part of all looks."""
    rng = np.random.default_rng(0)
    differences = rng.normal(0, 1, (14, 1))
    differences[:8] += 3
    differences[8:] -= 3
    looks = [Look(8, 0.03), Look(14, 0.05)]
    (early,), (late,) = infer(differences[:8], looks[:1]), infer(differences, looks)
    assert early.found
    assert late.found
    assert late.p_value == early.p_value
    assert early.interval[0] <= late.interval[0] <= late.interval[1] <= early.interval[1]


def test_a_later_look_counts_the_patterns_that_crossed_before():
    """By enumeration: at most 5 of 128 patterns are spent at the first look, 6 in all."""
    rng = np.random.default_rng(3)
    differences = rng.normal(0.4, 1, (8, 1))
    looks = [Look(6, 0.04), Look(8, LEVEL)]
    (found,) = infer(differences, looks)
    signs = sign_patterns(8)

    def statistics(seeds: int) -> np.ndarray:
        values = differences[:seeds, 0]
        return np.abs(signs[:, :seeds] @ values) / np.linalg.norm(values)

    first, second = statistics(6), statistics(8)
    boundary = np.sort(first)[::-1][math.floor(0.04 * len(signs))]
    crossed = first > boundary + 1e-9
    assert 0 < crossed.sum() <= 0.04 * len(signs)
    assert found.p_value == np.mean(crossed | (second >= second[0] - 1e-9))


def test_the_level_is_spent_once():
    assert spent(8, 8) == spent(12, 8) == pytest.approx(0.05)
    assert spent(0, 8) == 0
    levels = [spent(n, 32) for n in range(33)]
    assert levels == sorted(levels)


@pytest.mark.parametrize("count", [1, 2, 5, EXACT_PAIRS, EXACT_PAIRS + 3])
def test_sign_patterns(count: int):
    signs = sign_patterns(count)
    assert signs.shape == (2 ** (min(count, EXACT_PAIRS) - 1), count)
    assert (signs[0] == 1).all()
    assert set(np.unique(signs)) <= {-1, 1}
    if count <= EXACT_PAIRS:
        assert len(np.unique(np.concatenate([signs, -signs]), axis=0)) == 2**count


@pytest.mark.parametrize("arms", [2, 3, 4])
def test_null_sets_are_the_largest_equalities_of_arms(arms: int):
    """Against every labelling of the arms, for every set of rejected pairs."""
    members = range(len(pairs(arms)))
    possible = {
        frozenset(j for j in members if labels[pairs(arms)[j][0]] == labels[pairs(arms)[j][1]])
        for labels in itertools.product(range(arms), repeat=arms)
    }
    for size in range(len(members) + 1):
        for rejected in map(frozenset, itertools.combinations(members, size)):
            left = {nulls for nulls in possible if not nulls & rejected}
            largest = {nulls for nulls in left if not any(nulls < other for other in left)}
            assert set(null_sets(len(members), rejected, pairs(arms))) == largest


def test_many_arms_have_no_logical_constraints():
    many = pairs(MOST_ARMS + 1)
    assert null_sets(len(many), frozenset({0}), many) == (frozenset(range(1, len(many))),)
