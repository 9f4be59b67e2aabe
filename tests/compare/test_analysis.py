"""The analysis of whole comparisons whose truth is known."""

import math
from dataclasses import replace

import numpy as np
import pytest
import synthetic
from synthetic import analyzed

from gelu_jax.compare.analysis import Contrast, analyze


def test_the_truth_of_the_synthetic_comparison_is_found():
    analysis = analyzed("full")
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


def test_the_family_is_every_pair_of_arms():
    analysis = analyzed("full")
    assert {c.pair for c in analysis.family} == {
        ("gelu", "relu"),
        ("swiglu", "relu"),
        ("swiglu", "gelu"),
    }
    assert [c.name for c in analysis.contrasts] == ["gelu", "swiglu"]
    assert analysis.significant == {("gelu", "relu"), ("swiglu", "relu"), ("swiglu", "gelu")}
    assert analysis.level == 0.05


def test_another_look_spends_the_level():
    """The same 12 seeds: looked at once, after a look at 8 that was planned, and that was not."""
    made = synthetic.comparison(("relu", "gelu"), seeds=12, noise=0.012)

    def contrast(looks: tuple[int, ...], most: int | None) -> Contrast:
        config = {**made.config, "max_seeds": most}
        (found,) = analyze(replace(made, looks=looks, config=config)).contrasts
        return found

    once, planned, late = contrast((), None), contrast((8, 12), 12), contrast((8, 12), None)
    assert once == contrast((12,), None)
    assert once.p_adjusted == once.p_value
    assert once.p_adjusted <= planned.p_adjusted <= late.p_adjusted
    assert once.p_adjusted < late.p_adjusted
    assert once.interval is not None
    assert planned.interval is not None
    assert planned.interval[0] <= once.interval[0] <= once.interval[1] <= planned.interval[1]


def test_an_arm_that_diverged_is_not_in_the_family():
    made = synthetic.with_status(synthetic.comparison(), "swiglu", 103, "diverged")
    analysis = analyze(made)
    assert analysis.significant == {("gelu", "relu")}
    (alone,) = analyze(synthetic.comparison(("relu", "gelu"))).contrasts
    assert analysis.contrasts[0].p_adjusted == alone.p_adjusted
    assert math.isnan(analysis.contrasts[1].p_adjusted)
    assert analysis.contrasts[1].interval is None
