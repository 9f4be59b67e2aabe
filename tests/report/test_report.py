"""The report's files: whole, self-contained, escaped, and drawn alike each time."""

import csv
import html.parser
import json
import math
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
import synthetic

from gelu_jax.compare.analysis import analyze
from gelu_jax.compare.records import Arm, Comparison
from gelu_jax.report.literature import ANCHORS
from gelu_jax.report.methods import methods
from gelu_jax.report.page import page
from gelu_jax.report.tables import (
    Table,
    contrasts_table,
    difference_table,
    literature_table,
    rates_table,
    results_table,
)
from gelu_jax.report.write import write_report

FULL = synthetic.comparison()
ALONE = synthetic.comparison(("relu",), 1, ())
CASES = {
    "full": FULL,
    "one run": ALONE,
    "one arm": synthetic.comparison(("relu",), 3),
    "smoke test": synthetic.comparison(seeds=3, rates=(), protocol="smoke test"),
    "diverged": synthetic.with_status(FULL, "gelu", 103, "diverged"),
    "interrupted": synthetic.with_status(ALONE, "relu", 100, "interrupted"),
    "diverged alone": synthetic.with_status(ALONE, "relu", 100, "diverged"),
    "training loss": replace(FULL, metric="training loss"),
    "no run": replace(FULL, runs=()),
    "no evaluation": replace(
        ALONE,
        runs=tuple(
            replace(
                run, status="diverged", train_steps=(), train_loss=(), eval_steps=(), seconds=(),
                validation_loss=(), validation_accuracy=(), health={},
            )
            for run in ALONE.runs
        ),
    ),
    "ten arms": replace(
        ALONE,
        arms=tuple(replace(ALONE.first, name=f"arm {i}") for i in range(10)),
        runs=tuple(replace(ALONE.runs[0], arm=f"arm {i}") for i in range(10)),
    ),
}  # fmt: skip
HOSTILE = "</script><img src=x onerror=alert(1)>&\"'|\\_$%"


def hostile() -> Comparison:
    arms = tuple(
        Arm(arm.name + HOSTILE, {HOSTILE: HOSTILE}, arm.parameters, arm.flops_per_step)
        for arm in FULL.arms
    )
    return replace(
        FULL,
        name=HOSTILE,
        description=HOSTILE,
        unit=HOSTILE,
        command=HOSTILE,
        arms=arms,
        runs=tuple(
            replace(run, arm=run.arm + HOSTILE, health={HOSTILE: run.health["largest |h|"]})
            for run in FULL.runs
        ),
        config={HOSTILE: {HOSTILE: HOSTILE}},
        environment={HOSTILE: HOSTILE},
        data={"description": HOSTILE, HOSTILE: HOSTILE},
    )


class Outline(html.parser.HTMLParser):
    """What a browser would see of a page: its elements, attributes and text, scripts aside."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.data = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "link", "input", "img"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "script" not in self.open and "style" not in self.open:
            self.text += data
        elif self.tags[-1][1].get("id") == "data":
            self.data += data


@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_comparison_is_reported(tmp_path: Path, case: str):
    paths = write_report(CASES[case], tmp_path)
    names = ["curves.png", "curves.svg", "report.html", "results.csv"]
    assert sorted(path.name for path in paths) == names
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    ElementTree.parse(tmp_path / "curves.svg")
    outline = Outline((tmp_path / "report.html").read_text())
    assert outline.open == []
    json.loads(outline.data)


def test_a_report_is_drawn_alike_each_time(tmp_path: Path):
    for path, again in zip(
        write_report(FULL, tmp_path / "a"), write_report(FULL, tmp_path / "b"), strict=True
    ):
        assert path.read_bytes() == again.read_bytes(), path.name


def test_the_page_loads_nothing_from_elsewhere():
    outline = Outline(page(analyze(FULL)))
    for tag, attributes in outline.tags:
        assert "src" not in attributes
        if "href" in attributes:
            assert attributes["href"] == "data:,", tag
    (policy,) = (a["content"] for t, a in outline.tags if a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy


def test_the_verdict_stands_on_top():
    text = Outline(page(analyze(FULL))).text
    order = [
        "gelu and swiglu end at a lower validation loss than relu.", "Order by mean loss",
        "Results", "Learning rate", "Health", "What each arm changes", "Beside the literature",
        "Methods", "To paste", "To repeat",
    ]  # fmt: skip
    places = [text.index(heading) for heading in order]
    assert places == sorted(places)


def test_hostile_names_stay_text():
    outline = Outline(page(analyze(hostile())))
    tags = {tag for tag, _ in outline.tags}
    assert "img" not in tags
    assert outline.open == []
    assert all("onerror" not in attributes for _, attributes in outline.tags)
    assert outline.text.count(HOSTILE) >= 10
    assert json.loads(outline.data)["arms"][0]["name"] == "relu" + HOSTILE
    assert "</script><img" not in page(analyze(hostile()))


def test_hostile_names_survive_the_other_files(tmp_path: Path):
    write_report(hostile(), tmp_path)
    ElementTree.parse(tmp_path / "curves.svg")
    with (tmp_path / "results.csv").open(newline="") as file:
        assert next(csv.DictReader(file))["arm"] == "relu" + HOSTILE


def test_the_curves_in_the_page_are_those_of_the_runs():
    data = json.loads(Outline(page(analyze(FULL))).data)
    for arm in data["arms"]:
        runs = FULL.runs_of(arm["name"])
        curves = arm["measures"]["validation"]
        assert [run["seed"] for run in curves["runs"]] == [run.seed for run in runs]
        for shown, run in zip(curves["runs"], runs, strict=True):
            assert shown["values"] == pytest.approx(run.validation_loss, rel=1e-5)
        means = [sum(at) / 8 for at in zip(*(run.validation_loss for run in runs), strict=True)]
        assert curves["band"]["mean"] == pytest.approx(means, rel=1e-5)


def test_the_training_loss_may_be_what_is_compared():
    made = CASES["training loss"]
    analysis = analyze(made)
    for arm in analysis.arms:
        runs = made.runs_of(arm.arm.name)
        assert arm.losses == {run.seed: run.train_loss[-1] for run in runs}
        tried = [r for r in made.runs_of(arm.arm.name, "tuning") if r.learning_rate == 1e-2]
        assert arm.rates[1e-2] == pytest.approx(sum(r.train_loss[-1] for r in tried) / 2)
        best = min(arm.rates.values())
        assert arm.sensitivity == pytest.approx(sum(arm.rates.values()) / 3 - best)
    gelu = analysis.contrasts[0]
    first, arm = (made.runs_of(name) for name in ("relu", "gelu"))
    differences = [b.train_loss[-1] - a.train_loss[-1] for a, b in zip(first, arm, strict=True)]
    assert gelu.differences == pytest.approx(differences)
    assert gelu.speed_up != analyze(FULL).contrasts[0].speed_up
    outline = Outline(page(analysis))
    (shown,) = (
        a["value"] for _, a in outline.tags if a.get("name") == "measure" and "checked" in a
    )
    assert shown == "training"
    assert "training loss than relu" in outline.text
    assert "the mean over the steps since the one before" in methods(analysis)
    assert literature_table(analysis) is None


def test_a_diverged_run_is_shown_but_not_averaged_in():
    data = json.loads(Outline(page(analyze(CASES["diverged"]))).data)
    gelu = data["arms"][1]["measures"]["validation"]
    (lost,) = (run for run in gelu["runs"] if run["status"] == "diverged")
    assert lost["seed"] == 103
    assert lost["values"][-1] is None
    assert all(math.isfinite(value) for value in gelu["band"]["mean"])


def test_optional_sections_are_there_only_with_their_content():
    def shown(made: Comparison) -> set[str]:
        (body,) = (a for tag, a in Outline(page(analyze(made))).tags if tag == "body")
        return set((body["class"] or "").split())

    everything = {"has-contrasts", "has-rates", "has-health", "has-literature", "has-arms"}
    assert shown(FULL) == everything
    assert shown(ALONE) == {"has-health"}
    assert shown(CASES["smoke test"]) == everything - {"has-rates"}
    assert shown(CASES["no run"]) == {"has-arms"}


def test_results_table():
    table = results_table(analyze(FULL))
    assert [row[0] for row in table.rows] == ["relu", "gelu", "swiglu"]
    swiglu = dict(zip(table.header, table.rows[2], strict=True))
    assert swiglu["parameters"] == "121,920\n(+1.7 %)"
    assert swiglu["learning rate"] == "0.003"
    assert swiglu["difference to relu\n(95 % interval)"].startswith("−0.047")
    assert swiglu["p (Holm)"] == "0.016"
    assert "p (Holm)" not in results_table(analyze(CASES["smoke test"])).header
    assert "speed-up" not in "".join(results_table(analyze(ALONE)).header)


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
    assert "&lt;z&gt;" in table.html()


def test_difference_table_shows_the_first_arms_value():
    table = difference_table(analyze(FULL))
    assert table.header == ("field", "relu", "gelu", "swiglu")
    assert ("model.variant", "relu", "gelu", "swiglu") in table.rows
    assert ("model.d_ff", "–", "·", "176") in table.rows
    assert ("hidden width", "256", "256", "176") in table.rows


def test_contrasts_table_has_what_the_design_can_see():
    analysis = analyze(FULL)
    table = contrasts_table(analysis)
    swiglu, contrast = dict(zip(table.header, table.rows[1], strict=True)), analysis.contrasts[1]
    assert swiglu["arm"] == "swiglu"
    assert swiglu["pairs"] == "8"
    assert float(swiglu["smallest detectable"]) == pytest.approx(contrast.detectable, abs=1e-4)
    flops = contrast.speed_up * 1.53 / 1.56
    assert swiglu["speed-up in FLOPs"] == f"{flops:.2f} ×"
    assert float(swiglu["speed-up in seconds"].split()[0]) < flops
    assert contrasts_table(analyze(ALONE)).rows == ()


def test_rates_table_has_the_search():
    table = rates_table(analyze(FULL))
    assert table.header == ("arm", "0.001", "0.003", "0.01", "chosen", "sensitivity")
    relu = dict(zip(table.header, table.rows[0], strict=True))
    assert relu["chosen"] == "0.003"
    low, best, high = (float(relu[rate]) for rate in ("0.001", "0.003", "0.01"))
    excess = (low + best + high) / 3 - best
    assert float(relu["sensitivity"]) == pytest.approx(excess, abs=2e-4)


def test_literature_table_has_the_published_gaps():
    table = literature_table(analyze(FULL))
    assert table is not None
    gelu, swiglu = table.rows
    assert gelu[2:] == ("−0.014", "+0.002", "+0.000")
    assert swiglu[2:] == ("−0.053", "−0.041", "−0.049")
    assert table.header[2:] == tuple(anchor.source for anchor in ANCHORS)
    renamed = replace(
        ALONE, arms=(replace(ALONE.first, name="mine"),), runs=()
    )  # an arm that no paper has
    assert literature_table(analyze(renamed)) is None


def test_methods_say_what_was_done():
    text = methods(analyze(FULL))
    for part in (
        "3 arms (relu, gelu and swiglu)", "8 seeds (100–107)", "2,000 steps of 2,048 tokens",
        "best of 0.001, 0.003 and 0.01", "2 seeds (0, 1, none of them reported)", "sign-flip test",
        "Holm over 2 contrasts", "at most 1.7 %", "Optimizer: name adamw, weight_decay 0.1",
    ):  # fmt: skip
        assert part in text
    assert "Holm" not in methods(analyze(ALONE))
    assert "smoke test" in methods(analyze(CASES["smoke test"]))
