"""The report of a ladder: its verdict in words, its page, and its files."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import synthetic
from synthetic import HOSTILE
from test_report import Outline

from gelu_jax.compare.config import CompareConfig
from gelu_jax.compare.ladder_analysis import LadderAnalysis, analyze_ladder
from gelu_jax.report.figures import scaling
from gelu_jax.report.ladder_tables import laws_table, rungs_table, speed_up_table
from gelu_jax.report.ladder_verdict import ladder_verdict
from gelu_jax.report.literature import findings
from gelu_jax.report.page import ladder_page
from gelu_jax.report.summary import ladder_summary
from gelu_jax.report.write import write_ladder_report
from gelu_jax.training.config import from_dict

CONFIG = from_dict(
    {
        "run": {
            "data": {"kind": "digits"}, "steps": 10, "batch_size": 32, "eval_every": 5,
            "model": {"kind": "mlp", "d_in": 64, "num_classes": 10, "num_layers": 2, "d_ff": 8},
        },
        "arms": {"relu": {}, "gelu": {}, "swiglu": {}},
        "description": "A made-up ladder.",
        "learning_rates": [3e-3, 6e-3, 1.2e-2],
        "ladder": {"sizes": 5, "smallest": 3e4, "largest": 5e5},
    },
    CompareConfig,
)  # fmt: skip
THREE = synthetic.SIZES[::2]


@cache
def analyzed() -> LadderAnalysis:
    return analyze_ladder(synthetic.ladder())


def sentence(factor: float, slope: float) -> str:
    """What is said of an arm whose speed-up is this, with little noise."""
    made = synthetic.ladder({"geglu": (factor, slope)}, noise=0.001, sizes=THREE)
    return ladder_verdict(analyze_ladder(made)).sentences[0]


def test_the_verdict_of_the_issue():
    words = ladder_verdict(analyzed())
    assert words.headline == (
        "swiglu needs significantly less compute than relu for the same loss; "
        "gelu does not differ significantly from relu."
    )
    gelu, swiglu, predicted = words.sentences
    assert gelu.startswith("gelu: the same compute as relu, as far as can be told, by a factor of ")
    assert "swiglu: needs 1.31 × less compute than relu (1.27 to 1.35), and the factor" in swiglu
    assert "grows with scale: slope 0.055 (0.036 to 0.074) per decade." in swiglu
    assert "The laws of the smaller sizes predict the losses at 500k parameters" in predicted


@pytest.mark.parametrize(
    ("factor", "slope", "says"),
    [
        (1.3, 0.0, "less compute than relu (1.2"),
        (1.3, 0.0, "and the factor does not change with scale: slope "),
        (1.3, -0.08, "and the factor shrinks with scale: slope −0.0"),
        (0.8, 0.0, "needs 1.26 × more compute than relu (1.25 to 1.26), and"),  # 1.25 in truth
        (0.8, 0.08, "and the factor shrinks with scale: slope −0.0"),
        (0.8, -0.08, "and the factor grows with scale: slope 0.0"),
    ],
)
def test_factors_and_trends_in_words(factor: float, slope: float, says: str):
    assert says in sentence(factor, slope)


def test_what_cannot_be_told_is_said():
    noisy = synthetic.ladder({"geglu": (1.0, 0.0)}, noise=0.05, sizes=THREE)
    assert "whether the factor changes with scale cannot be told" in str(
        ladder_verdict(analyze_ladder(noisy))
    )
    few = ladder_verdict(analyze_ladder(synthetic.ladder(seeds=5, sizes=THREE)))
    assert few.headline == "Inconclusive: gelu and swiglu do not differ significantly from relu."
    assert "5 paired seeds can never conclude: it takes 6." in few.notes
    smoke = tuple(
        replace(rung, protocol="smoke test") for rung in synthetic.ladder(seeds=2, sizes=THREE)
    )
    words = str(ladder_verdict(analyze_ladder(smoke)))
    assert words.startswith("Smoke test: no conclusion is drawn.")
    assert "significant" not in words


def test_the_tables():
    analysis = analyzed()
    table = speed_up_table(analysis)
    assert table.header[:4] == ("arm", "in", "mean", "slope per decade")
    assert [row[:2] for row in table.rows[3:]] == [
        ("swiglu", unit) for unit in ("FLOPs", "tokens", "seconds")
    ]
    assert table.rows[3][2] == "1.31 ×\n(1.27 to 1.35)"
    laws = laws_table(analysis)
    assert [row[0] for row in laws.rows] == ["relu", "gelu", "swiglu"]
    assert laws.header[-1].endswith("at 500k, from the others")
    rungs = rungs_table(analysis)
    assert [row[0] for row in rungs.rows] == [f"{size:,}" for size in synthetic.SIZES]
    assert "tuned" in rungs.rows[0][4]
    assert "tuned" not in rungs.rows[4][4]


def test_the_page_holds_everything_and_loads_nothing():
    places = ["rungs/1-30k/r.html"] * 5
    page = ladder_page(analyzed(), CONFIG, "a ladder", "gelu-jax compare x", places)
    seen = Outline(page)
    assert seen.open == []
    links = [a["href"] for _, a in seen.tags if "href" in a]
    assert links == ["data:,", *places]
    assert all("src" not in attributes for _, attributes in seen.tags)
    at = [
        seen.text.index(heading)
        for heading in ("Loss against compute", "Effective speed-up", "Sizes",
                        "Published results", "Methods", "Tables to copy", "Reproduce")
    ]  # fmt: skip
    assert at == sorted(at)
    assert "Shazeer" in seen.text
    data = json.loads(seen.data)
    assert len(data["arms"][0]["losses"]) == 5
    assert data["speedUps"]["FLOPs"][0] is None
    for words in ("20 tokens per parameter of relu", "η ∝ N^-0.25", "2 smallest sizes",
                  "within ±0.1", "4 in all, are one family"):  # fmt: skip
        assert words in seen.text, words


def test_hostile_names_stay_text():
    rungs = tuple(
        replace(
            rung,
            arms=tuple(replace(arm, name=arm.name + HOSTILE) for arm in rung.arms),
            runs=tuple(replace(run, arm=run.arm + HOSTILE) for run in rung.runs),
            unit=HOSTILE,
        )
        for rung in synthetic.ladder(sizes=THREE)
    )
    seen = Outline(ladder_page(analyze_ladder(rungs), CONFIG, HOSTILE, HOSTILE, [HOSTILE] * 3))
    assert seen.open == []
    assert "img" not in {tag for tag, _ in seen.tags}
    assert json.loads(seen.data)["arms"][0]["name"] == "relu" + HOSTILE


def test_the_files_are_named_and_alike_each_time(tmp_path: Path):
    files = write_ladder_report(analyzed(), CONFIG, tmp_path / "a", "command")
    assert sorted(files) == sorted((tmp_path / "a").iterdir())
    again = write_ladder_report(analyzed(), CONFIG, tmp_path / "b" / "a", "command")
    for one, other in zip(files, again, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
    assert [len(axes.lines) > 0 for axes in scaling(analyzed()).axes] == [True, True]
    found = json.loads(ladder_summary("a", analyzed(), files))
    assert found["speed_ups"]["FLOPs"][1]["arm"] == "swiglu"
    assert found["verdict"]["headline"].startswith("swiglu needs")


def test_findings_are_shown_for_their_variants_alone():
    assert {f.source for f in findings(["relu_squared", "swiglu"])} == {"nanochat's log"}
    assert not findings(["relu", "swiglu"])
