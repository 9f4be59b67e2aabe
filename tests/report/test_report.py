"""The report's files: whole, self-contained, escaped, and drawn alike each time."""

import csv
import html.parser
import json
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import synthetic
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.transforms import Bbox
from synthetic import CASES, FULL, HOSTILE, analyzed

from gelu_jax.compare.analysis import analyze
from gelu_jax.compare.records import read_results, write_results
from gelu_jax.report.figures import curves, saved
from gelu_jax.report.methods import methods
from gelu_jax.report.page import page
from gelu_jax.report.plots import plot_data
from gelu_jax.report.tables import literature_table
from gelu_jax.report.write import write_report


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


@cache
def outline(case: str) -> Outline:
    return Outline(page(analyzed(case)))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, ...]]:
    """The files of a case's report, drawn once."""
    return cache(lambda case: write_report(CASES[case], tmp_path_factory.mktemp("report")))


@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_comparison_is_reported(written, case: str):
    paths = written(case)
    directory, names = paths[0].parent, [
        "curves.pdf", "curves.png", "curves.svg", "report.html", "results.csv",
    ]  # fmt: skip
    assert sorted(path.name for path in paths) == names
    assert sorted(path.name for path in directory.iterdir()) == names
    assert (directory / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (directory / "curves.pdf").read_bytes().startswith(b"%PDF")
    ElementTree.parse(directory / "curves.svg")
    seen = Outline((directory / "report.html").read_text())
    assert seen.open == []
    json.loads(seen.data)


def test_a_report_is_drawn_alike_each_time(written, tmp_path: Path):
    for path, again in zip(written("full"), write_report(FULL, tmp_path), strict=True):
        assert path.read_bytes() == again.read_bytes(), path.name


def test_the_page_loads_nothing_from_elsewhere():
    tags = outline("full").tags
    for tag, attributes in tags:
        assert "src" not in attributes
        if "href" in attributes:
            assert attributes["href"] == "data:,", tag
    (policy,) = (a["content"] for t, a in tags if a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy


def test_the_verdict_stands_on_top():
    text = outline("full").text
    order = [
        "gelu and swiglu reach a significantly lower validation loss than relu.",
        "Order by mean loss", "Results", "Learning rate", "Health", "What each arm changes",
        "Published results", "Methods", "Results table to copy", "Reproduce",
    ]  # fmt: skip
    places = [text.index(heading) for heading in order]
    assert places == sorted(places)


def test_hostile_names_stay_text():
    seen = outline("hostile")
    assert "img" not in {tag for tag, _ in seen.tags}
    assert seen.open == []
    assert all("onerror" not in attributes for _, attributes in seen.tags)
    assert seen.text.count(HOSTILE) >= 10
    assert json.loads(seen.data)["arms"][0]["name"] == "relu" + HOSTILE
    assert "</script><img" not in page(analyzed("hostile"))


def test_hostile_names_survive_the_other_files(written):
    table = next(path for path in written("hostile") if path.name == "results.csv")
    with table.open(newline="") as file:
        assert next(csv.DictReader(file))["arm"] == "relu" + HOSTILE


def test_the_curves_in_the_page_are_those_of_the_runs():
    data = json.loads(outline("full").data)
    for arm in data["arms"]:
        runs = FULL.runs_of(arm["name"])
        curves = arm["measures"]["validation"]
        assert [run["seed"] for run in curves["runs"]] == [run.seed for run in runs]
        for shown, run in zip(curves["runs"], runs, strict=True):
            assert shown["values"] == pytest.approx(run.validation_loss, rel=1e-5)
        means = [sum(at) / 8 for at in zip(*(run.validation_loss for run in runs), strict=True)]
        assert curves["band"]["mean"] == pytest.approx(means, rel=1e-5)


def test_the_training_loss_may_be_what_is_compared():
    made, analysis = CASES["training loss"], analyzed("training loss")
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
    assert gelu.speed_up != analyzed("full").contrasts[0].speed_up
    seen = outline("training loss")
    (shown,) = (a["value"] for _, a in seen.tags if a.get("name") == "measure" and "checked" in a)
    assert shown == "training"
    assert "training loss than relu" in seen.text
    assert "the mean over the steps since the previous evaluation" in methods(analysis)
    assert literature_table(analysis) is None


def test_a_rate_is_the_same_number_throughout_the_data():
    """An extended grid has rates such as 0.0003² / 0.001, which is not 9e-05."""
    rate = 3e-4**2 / 1e-3
    assert rate != 9e-5
    data = plot_data(analyze(synthetic.comparison(rates=(rate, 1e-3))))
    for arm in data["arms"]:
        assert {tried[0] for tried in arm["tried"]} == {rate for rate, _ in arm["rates"]}
        assert {9e-5, 1e-3} == {rate for rate, _ in arm["rates"]}


def test_a_diverged_run_is_shown_but_not_averaged_in():
    data = json.loads(outline("diverged").data)
    gelu = data["arms"][1]["measures"]["validation"]
    (lost,) = (run for run in gelu["runs"] if run["status"] == "diverged")
    assert lost["seed"] == 103
    assert lost["values"][-1] is None
    assert all(math.isfinite(value) for value in gelu["band"]["mean"])


def test_optional_sections_are_there_only_with_their_content():
    def shown(case: str) -> set[str]:
        ids = {attributes.get("id") for _, attributes in outline(case).tags}
        return {"differences-plot", "rates", "health", "differences", "literature"} & ids

    everything = {"differences-plot", "rates", "health", "differences", "literature"}
    assert shown("full") == everything
    assert shown("one run") == {"health"}
    assert shown("smoke test") == everything - {"rates"}
    assert shown("no run") == {"differences"}


def test_a_caption_speaks_of_one_seed_where_there_is_one():
    assert "Mean over the seeds" not in outline("one run").text
    assert "One seed per arm" in outline("ten arms").text
    assert outline("full").text.count("Mean over the seeds that finished") == 2


def test_seeds_are_hidden_at_first_where_there_are_many_arms():
    def seeds(case: str) -> bool:
        (box,) = (a for _, a in outline(case).tags if a.get("name") == "seeds")
        return "checked" in box

    assert seeds("full")
    assert not seeds("ten arms")


def test_the_figure_can_be_restyled(tmp_path: Path):
    figure = curves(FULL)
    left, right = figure.axes
    left.set_yscale("log")
    figure.savefig(tmp_path / "own.pdf")
    labels = left.get_legend_handles_labels()[1]
    assert labels == ["relu", "gelu", "swiglu"]
    assert [text.get_text() for text in right.get_yticklabels()] == ["gelu", "swiglu"]
    assert saved(curves(analyzed("full"))) == saved(curves(FULL))


def test_an_arm_of_which_every_run_diverged_is_drawn():
    made = FULL
    for seed in range(100, 108):
        made = synthetic.with_status(made, "gelu", seed, "diverged")
    lines = {line.get_label(): line for line in curves(made).axes[0].lines}
    assert "gelu (diverged)" in lines
    assert np.isfinite(lines["gelu (diverged)"].get_ydata()).sum() == 12
    one = curves(synthetic.with_status(FULL, "gelu", 103, "diverged")).axes[0]
    assert sum(line.get_linestyle() == ":" for line in one.lines) == 1


def test_every_file_is_named_with_the_record(tmp_path: Path):
    write_results(FULL, tmp_path)
    assert sorted(write_report(FULL, tmp_path)) == sorted(tmp_path.iterdir())


def test_missing_numbers_are_words():
    for case in CASES:
        text = outline(case).text
        assert "–" not in text, case
        assert "·" not in text, case


RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


@pytest.mark.parametrize("name", ["adopted_activations", "feed_forward_variants"])
def test_no_text_of_the_curves_lies_on_another_or_is_cut(name: str):
    """18 arms and 32 differences, and 6 arms and 5 differences."""
    figure = curves(read_results(RESULTS / name))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    page = figure.bbox
    left, right = figure.axes
    legend = figure.legends or [left.get_legend()]
    for texts in (left.texts, right.get_yticklabels(), legend[0].get_texts()):
        boxes = [text.get_window_extent() for text in texts]
        assert len(boxes) > 4
        for one, other in combinations(boxes, 2):
            assert not one.padded(-1).overlaps(other.padded(-1))
        around = Bbox.union(boxes)
        assert (around.min >= page.min).all(), around
        assert (around.max <= page.max).all(), around


def test_the_label_of_a_long_baseline_is_not_cut():
    figure = curves(read_results(RESULTS / "relu_squared_or_swiglu"))
    FigureCanvasAgg(figure).draw()
    label = figure.axes[1].xaxis.label.get_window_extent()
    assert (label.min >= figure.bbox.min).all(), label
    assert (label.max <= figure.bbox.max).all(), label


def test_many_arms_of_which_none_has_run_are_empty_axes():
    found = read_results(RESULTS / "adopted_activations")
    (axes,) = curves(replace(found, runs=())).axes
    assert not axes.lines
