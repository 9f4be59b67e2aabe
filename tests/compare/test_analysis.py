"""The analysis of whole comparisons whose truth is known."""

from dataclasses import replace

import numpy as np
import pytest
import synthetic
from synthetic import analyzed

from gelu_jax.compare.analysis import analyze


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
