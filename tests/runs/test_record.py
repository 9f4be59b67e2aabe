"""The record of a run: what is written is read back, and cut off where a checkpoint stands."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import synthetic

from gelu_jax.runs.record import Run, read_run, write_run

RUN = Run("relu", 0, 1e-3, "report", "finished", (1, 2), (3.0, 2.5), (0, 2), (5.0, 2.6), (0.0, 1.5))


def test_metrics_have_an_object_for_every_step(tmp_path: Path):
    run = replace(
        RUN,
        train_loss=(3.0, math.nan),
        validation_accuracy=(0.1, 0.2),
        health={"dead": ((0.0,), (0.5,))},
    )
    write_run(run, tmp_path / "deep")
    lines = (tmp_path / "deep" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {
            "step": 0, "validation_loss": 5.0, "validation_accuracy": 0.1,
            "seconds": 0.0, "dead": [0.0],
        },
        {"step": 1, "train_loss": 3.0},
        {
            "step": 2, "train_loss": "NaN", "validation_loss": 2.6, "validation_accuracy": 0.2,
            "seconds": 1.5, "dead": [0.5],
        },
    ]  # fmt: skip


def test_a_record_is_read_back_equal(tmp_path: Path):
    run = synthetic.run("relu", 0, 3e-3)
    write_run(run, tmp_path)
    assert read_run(tmp_path / "run.json") == run
    assert read_run(tmp_path / "none.json") is None


def test_a_damaged_record_is_warned_of(tmp_path: Path):
    write_run(RUN, tmp_path)
    path = tmp_path / "run.json"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.warns(UserWarning, match="damaged record; training again"):
        assert read_run(path) is None


def test_until_keeps_what_came_before():
    run = synthetic.run("relu", 0, 3e-3)
    for step in (-1, 0, run.eval_steps[1], run.eval_steps[1] + 1, run.eval_steps[-1]):
        cut = replace(run, status="interrupted").until(step)
        assert cut.eval_steps == tuple(s for s in run.eval_steps if s <= step)
        assert cut.train_steps == tuple(s for s in run.train_steps if s <= step)
        n = len(cut.eval_steps)
        assert cut.validation_loss == run.validation_loss[:n]
        assert all(len(values) == n for values in cut.health.values())
