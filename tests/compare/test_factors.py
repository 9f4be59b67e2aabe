"""Factorial arms: every combination, matched and asked about within levels."""

from typing import Any

import numpy as np
import pytest
from test_experiment import DIGITS, config_of

from gelu_jax.compare.config import CompareConfig
from gelu_jax.compare.experiment import matched_arms
from gelu_jax.compare.matching import parameters
from gelu_jax.errors import ConfigError
from gelu_jax.training.config import from_dict, to_dict
from gelu_jax.training.data import load_data

FACTORS = {
    "variant": {"relu": {"model.variant": "relu"}, "swiglu": {"model.variant": "swiglu"}},
    "depth": {"shallow": {}, "deep": {"model.num_layers": 4}},
}


def factorial(**changes: Any) -> CompareConfig:
    return from_dict({"run": DIGITS, "factors": FACTORS, "multiple_of": 1} | changes, CompareConfig)


def test_arms_are_matched_within_levels():
    config = factorial()
    assert list(config.arms) == ["relu_shallow", "relu_deep", "swiglu_shallow", "swiglu_deep"]
    arms = matched_arms(config, load_data(config.run.data, config.run.batch_size))
    size = {name: parameters(arm) for name, arm in arms.items()}
    assert size["relu_deep"] > 1.2 * size["relu_shallow"]
    for depth in ("shallow", "deep"):
        assert size[f"swiglu_{depth}"] == pytest.approx(size[f"relu_{depth}"], rel=0.05)


def test_contrasts_of_a_two_by_two_design_by_hand():
    contrasts = factorial().contrasts
    losses = {"relu_shallow": 5.0, "relu_deep": 4.0, "swiglu_shallow": 4.5, "swiglu_deep": 3.0}
    found = {
        name: sum(weight * losses[arm] for arm, weight in weights.items())
        for name, weights in contrasts.items()
    }
    assert found == {
        "swiglu − relu at shallow": -0.5,
        "swiglu − relu at deep": -1.0,
        "swiglu − relu": -0.75,
        "(swiglu − relu) × (deep − shallow)": -0.5,
    }


def test_contrasts_of_a_larger_design_sum_to_zero_and_are_not_said_twice():
    """3 × 2 × 3: for 2 levels each, 6 within, a main effect, and 1 + 2 interactions."""
    factors = {
        name: {f"{name}{level}": {} for level in range(levels)}
        for name, levels in (("a", 3), ("b", 2), ("c", 3))
    }
    config = factorial(factors=factors)  # checks them as it does those of a person
    assert len(config.arms) == 18
    assert len(config.contrasts) == 2 * (6 + 1 + 1 + 2)
    cells = np.arange(18.0) ** 2
    values = dict(zip(config.arms, cells, strict=True))
    cube = cells.reshape(3, 2, 3)
    main = sum(w * values[arm] for arm, w in config.contrasts["a1 − a0"].items())
    assert main == pytest.approx(cube[1].mean() - cube[0].mean())
    moved = sum(w * values[arm] for arm, w in config.contrasts["(a1 − a0) × (c2 − c0)"].items())
    difference = (cube[1] - cube[0]).mean(0)
    assert moved == pytest.approx(difference[2] - difference[0])


def test_one_factor_is_compared_level_by_level():
    config = factorial(factors={"variant": FACTORS["variant"]})
    assert list(config.contrasts) == ["swiglu − relu"]


def test_it_reads_back_and_own_contrasts_stay():
    config = factorial()
    assert to_dict(from_dict(to_dict(config), CompareConfig)) == to_dict(config)
    own = {"deep": {"swiglu_deep": 1.0, "relu_deep": -1.0}}
    assert factorial(contrasts=own).contrasts == own


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"arms": {"x": {}}}, r"arms = \['x'\]: factors give the arms; leave them out"),
        ({"factors": {"a": {"x": {}}}}, r"factors\.a = \['x'\]: a factor has at least two levels"),
        (
            {"factors": {"a": {"x": {"steps": 4}, "y": {}}, "b": {"u": {"steps": 8}, "v": {}}}},
            "factors = 'steps': is changed by two factors",
        ),
    ],
)
def test_wrong_factors_are_one_line(changes: dict[str, Any], line: str):
    with pytest.raises(ConfigError, match=line):
        factorial(**changes)


def test_without_factors_the_first_arm_is_what_others_are_matched_to():
    assert set(config_of().references.values()) == {"relu"}
