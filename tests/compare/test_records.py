"""Records: what is written is read back, by us and by every reader of strict JSON and CSV."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import jsonschema
import numpy as np
import pytest
import synthetic
from hypothesis import given

from gelu_jax.compare import records
from gelu_jax.compare.records import (
    Arm,
    Comparison,
    json_schema,
    read_results,
    write_csv,
    write_results,
)
from gelu_jax.errors import ConfigError
from gelu_jax.runs.record import Run

SCHEMA = Path(records.__file__).parent / "results.schema.json"
ANY_FLOAT = st.floats(allow_nan=True, allow_infinity=True)


def small_run(**changes: object) -> Run:
    start = Run(
        "relu", 0, 1e-3, "report", "finished", (1, 2), (3.0, 2.5), (0, 2), (5.0, 2.6), (0.0, 1.5)
    )
    return replace(start, **changes)  # type: ignore[arg-type]


def small(*runs: Run, **changes: object) -> Comparison:
    made = replace(synthetic.comparison(("relu",), 1, ()), runs=runs)
    return replace(made, **changes)  # type: ignore[arg-type]


def strict_json(path: Path) -> object:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_a_comparison_is_read_back_equal(tmp_path: Path):
    made = synthetic.with_status(synthetic.comparison(), "gelu", 101, "interrupted")
    write_results(made, tmp_path)
    assert read_results(tmp_path) == made


@given(losses=st.lists(ANY_FLOAT, min_size=2, max_size=2), seed=st.integers(0, 2**63 - 1))
def test_every_finite_float_survives_strict_json(tmp_path_factory, losses: list[float], seed: int):
    directory = tmp_path_factory.mktemp("results")
    run = small_run(
        seed=seed,
        status="diverged",
        validation_loss=tuple(losses),
        health={"x": ((losses[0],), ())},
    )
    write_results(small(run), directory)
    written: Any = strict_json(directory / "results.json")
    expected = [loss if math.isfinite(loss) else None for loss in losses]
    assert written["runs"][0]["validation_loss"] == expected
    (back,) = read_results(directory).runs
    expected = [loss if math.isfinite(loss) else math.nan for loss in losses]
    assert list(map(repr, back.validation_loss)) == list(map(repr, expected))
    assert list(map(repr, back.health["x"][0])) == [repr(expected[0])]
    assert back.seed == seed


def test_the_words_of_older_files_are_read(tmp_path: Path):
    made = small(small_run(status="diverged", validation_loss=(5.0, math.nan)))
    write_results(made, tmp_path)
    path = tmp_path / "results.json"
    for word in ("NaN", "Infinity", "-Infinity"):
        path.write_text(path.read_text().replace("[5.0,null]", f'[5.0,"{word}"]'))
        (back,) = read_results(tmp_path).runs
        assert repr(back.validation_loss[1]) == repr(float(word))
        jsonschema.validate(strict_json(path), json.loads(SCHEMA.read_text()))
        path.write_text(path.read_text().replace(f'"{word}"', "null"))


def test_data_frames_read_null_as_nan(tmp_path: Path):
    write_results(small(small_run(status="diverged", validation_loss=(5.0, math.inf))), tmp_path)
    written: Any = strict_json(tmp_path / "results.json")
    loss = np.array(written["runs"][0]["validation_loss"], float)
    assert np.isnan(loss).tolist() == [False, True]


def test_not_a_number_in_the_config_is_written_as_a_word(tmp_path: Path):
    write_results(small(small_run(), config={"clip": math.inf, "more": [math.nan]}), tmp_path)
    assert read_results(tmp_path).config == {"clip": "Infinity", "more": ["NaN"]}


def test_the_committed_schema_is_the_one_of_the_records():
    """After a change: SCHEMA.write_text(json.dumps(json_schema(), indent=2) + "\\n")."""
    assert json.loads(SCHEMA.read_text()) == json_schema()


@pytest.mark.parametrize("status", ["finished", "diverged", "interrupted"])
def test_results_obey_the_committed_schema(tmp_path: Path, status: str):
    write_results(synthetic.with_status(synthetic.comparison(), "gelu", 101, status), tmp_path)
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    written = strict_json(tmp_path / "results.json")
    jsonschema.validate(written, schema)
    written["unknown"] = 1  # type: ignore[index]
    with pytest.raises(jsonschema.ValidationError, match="unknown"):
        jsonschema.validate(written, schema)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("", "Invalid JSON"),
        ('{"name": 3}', "name = '3': Input should be a valid string"),
        ('{"schema_version": 2}', "schema_version = '2': Input should be 1"),
        ('{"tokens": 1}', "tokens = '1': Unexpected keyword argument"),
        ("[1]", "should be"),
    ],
)
def test_a_damaged_file_is_reported_by_field(tmp_path: Path, content: str | None, message: str):
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(ConfigError, match=r"results\.json") as caught:
        read_results(tmp_path)
    assert message in str(caught.value)


def test_a_truncated_file_is_reported(tmp_path: Path):
    write_results(synthetic.comparison(seeds=1), tmp_path)
    path = tmp_path / "results.json"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ConfigError, match="Invalid JSON"):
        read_results(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_loss": (1.0,)}, "train_loss"),
        ({"validation_loss": (1.0,)}, "validation_loss"),
        ({"seconds": ()}, "seconds"),
        ({"validation_accuracy": (0.1,)}, "validation_accuracy"),
        ({"health": {"dead": ((0.1,),)}}, "dead"),
    ],
)
def test_curves_of_unequal_length_are_refused(changes: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=rf"runs\.relu\.seed 0\.{message} .*has \d values for 2"):
        small_run(**changes)


@pytest.mark.parametrize("end", [math.nan, math.inf])
def test_a_run_without_a_finite_end_has_not_finished(end: float):
    with pytest.raises(ConfigError, match=r"seed 0\.status = 'finished': .* diverged"):
        small_run(validation_loss=(5.0, end))
    with pytest.raises(ConfigError, match="finite validation loss"):
        small_run(validation_loss=(), eval_steps=(), seconds=())


@pytest.mark.parametrize("steps", [(2, 2), (2, 1)])
def test_steps_rise(steps: tuple[int, int]):
    with pytest.raises(ConfigError, match=r"train_steps .* steps must rise"):
        small_run(train_steps=steps)
    with pytest.raises(ConfigError, match=r"eval_steps .* steps must rise"):
        small_run(eval_steps=steps)


def test_wrong_arms_and_runs_are_refused():
    with pytest.raises(ConfigError, match="no such arm; the arms are relu"):
        small(small_run(arm="geul"))
    with pytest.raises(ConfigError, match="there twice"):
        small(small_run(), small_run())
    with pytest.raises(ConfigError, match="an arm has one rate"):
        small(small_run(), small_run(seed=1, learning_rate=0.1))
    with pytest.raises(ConfigError, match="two arms have this name"):
        small(arms=(Arm("a", {}, 1, 1.0), Arm("a", {}, 1, 1.0)))
    with pytest.raises(ConfigError, match="at least one arm"):
        small(arms=())


def test_csv_has_a_row_for_every_evaluation(tmp_path: Path):
    made = synthetic.with_status(synthetic.comparison(), "gelu", 101, "interrupted")
    write_csv(made, tmp_path)
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(len(run.eval_steps) for run in made.runs)
    assert tuple(rows[0]) == records.CSV_COLUMNS
    run = made.runs_of("swiglu")[2]
    mine = [
        r
        for r in rows
        if (r["arm"], r["seed"], r["purpose"]) == ("swiglu", str(run.seed), "report")
    ]
    assert [float(row["validation_loss"]) for row in mine] == list(run.validation_loss)
    assert [int(row["tokens"]) for row in mine] == [step * 2048 for step in run.eval_steps]
    assert float(mine[-1]["flops"]) == 2000 * 1.56e9
    assert float(mine[-1]["train_loss"]) == run.train_loss[-1]
    assert mine[0]["train_loss"] == ""
