"""The tables of a report: what is in them, and their three renderings."""

from dataclasses import replace

import pytest
from synthetic import ALONE, analyzed

from gelu_jax.compare.analysis import analyze
from gelu_jax.report.literature import ANCHORS
from gelu_jax.report.methods import methods
from gelu_jax.report.tables import (
    Table,
    contrasts_table,
    difference_table,
    literature_table,
    rates_table,
    results_table,
)


def test_results_table():
    table = results_table(analyzed("full"))
    assert [row[0] for row in table.rows] == ["relu", "gelu", "swiglu"]
    swiglu = dict(zip(table.header, table.rows[2], strict=True))
    assert swiglu["parameters"] == "121,920\n(+1.7 %)"
    assert swiglu["learning rate"] == "0.003"
    assert swiglu["difference from relu\n(95 % CI)"].startswith("−0.047")
    assert swiglu["adjusted p"] == "0.0078"
    assert "adjusted p" not in results_table(analyzed("smoke test")).header
    assert "speed-up" not in "".join(results_table(analyzed("one run")).header)


def test_a_mixture_of_experts_shows_what_a_token_meets():
    made = analyzed("full").comparison
    arms = [replace(arm, active_parameters=arm.parameters) for arm in made.arms]
    arms[1] = replace(arms[1], parameters=300_000)
    made = replace(made, arms=tuple(arms), config={**made.config, "match": "active_parameters"})
    table = results_table(analyze(made))
    at = table.header.index("parameters")
    assert [row[at] for row in table.rows] == [
        "119,872", "300,000\n(119,872 active)", "121,920\n(+1.7 %)",
    ]  # fmt: skip
    assert "relu has 119,872 active parameters" in methods(analyze(made))


def test_table_renderings():
    table = Table(("arm", "a_b\n(c)"), (("x|y", "−1 %\n(2 ± 3)"), ("<z>", "4")))
    assert table.markdown().splitlines() == [
        "| arm | a_b (c) |", "| --- | ---: |", "| x\\|y | −1 % (2 ± 3) |", "| <z> | 4 |",
    ]  # fmt: skip
    assert table.latex().splitlines() == [
        r"\begin{tabular}{lr}", r"\toprule", r"arm & a\_b (c) \\", r"\midrule",
        r"x|y & $-$1 \% (2 $\pm$ 3) \\", r"$<$z$>$ & 4 \\", r"\bottomrule", r"\end{tabular}",
    ]  # fmt: skip
    assert "<td>−1 %<small>(2 ± 3)</small></td>" in table.html()
    assert '<th scope="row">&lt;z&gt;</th>' in table.html()


def test_difference_table_shows_the_first_arms_value():
    table = difference_table(analyzed("full"))
    assert table.header == ("field", "relu", "gelu", "swiglu")
    assert ("model.variant", "relu", "gelu", "swiglu") in table.rows
    assert ("model.d_ff", "none", "same", "176") in table.rows
    assert ("hidden width", "256", "256", "176") in table.rows


def test_contrasts_table_has_what_the_design_can_see():
    analysis = analyzed("full")
    table = contrasts_table(analysis)
    swiglu, contrast = dict(zip(table.header, table.rows[1], strict=True)), analysis.contrasts[1]
    assert swiglu["arm"] == "swiglu"
    assert swiglu["paired seeds"] == "8"
    assert float(swiglu["minimum detectable difference"]) == pytest.approx(
        contrast.detectable, abs=1e-4
    )
    flops = contrast.speed_up * 1.53 / 1.56
    assert swiglu["speed-up in FLOPs"] == f"{flops:.2f} ×"
    assert float(swiglu["speed-up in seconds"].split()[0]) < flops
    assert contrasts_table(analyzed("one run")).rows == ()


def test_rates_table_has_the_search():
    table = rates_table(analyzed("full"))
    assert table.header == ("arm", "0.001", "0.003", "0.01", "chosen rate", "sensitivity")
    relu = dict(zip(table.header, table.rows[0], strict=True))
    assert relu["chosen rate"] == "0.003"
    low, best, high = (float(relu[rate]) for rate in ("0.001", "0.003", "0.01"))
    excess = (low + best + high) / 3 - best
    assert float(relu["sensitivity"]) == pytest.approx(excess, abs=2e-4)


def test_literature_table_has_the_published_gaps():
    table = literature_table(analyzed("full"))
    assert table is not None
    gelu, swiglu = table.rows
    assert gelu[2:] == ("−0.014", "+0.002", "+0.000")
    assert swiglu[2:] == ("−0.053", "−0.041", "−0.049")
    assert table.header[2:] == tuple(anchor.source for anchor in ANCHORS)
    renamed = replace(
        ALONE, arms=(replace(ALONE.first, name="mine"),), runs=()
    )  # an arm that no paper has
    assert literature_table(analyze(renamed)) is None
