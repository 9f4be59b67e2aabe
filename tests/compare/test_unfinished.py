"""What is said of a comparison before it ends: what it takes, what is there, what is missing."""

from dataclasses import replace
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import pytest
from test_experiment import ARMS, RUN

from gelu_jax.compare import outline as module
from gelu_jax.compare.analysis import analyze
from gelu_jax.compare.config import CompareConfig
from gelu_jax.compare.experiment import compare, planned_runs, prepare
from gelu_jax.compare.matching import flops_per_step, parameters
from gelu_jax.compare.outline import measure, outline
from gelu_jax.compare.unfinished import read_unfinished, runs_left
from gelu_jax.report.methods import methods
from gelu_jax.report.page import page
from gelu_jax.report.verdict import verdict
from gelu_jax.runs.execution import Task
from gelu_jax.runs.record import Run
from gelu_jax.training.footprint import footprint
from gelu_jax.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("quick_to_compile")
CONFIG = CompareConfig(run=RUN, arms=ARMS, seeds=6, tuning_seeds=1, learning_rates=(1e-3, 1e-2))
TRAINERS = prepare(CONFIG)


def interrupt(task: Task, run: Run) -> None:
    """Ends the comparison amid the second arm's third reported run."""
    point = run.last_point
    if (task.arm, task.purpose, task.seed) == ("swiglu", "report", 2) and point and point.step == 2:
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def begun(tmp_path_factory: Any, quick_to_compile: None) -> Path:
    home = tmp_path_factory.mktemp("begun")
    with pytest.raises(KeyboardInterrupt):
        compare(CONFIG, home, interrupt, TRAINERS)
    return home


def test_what_is_there_is_read_and_nothing_concluded(begun: Path):
    before = sorted(begun.rglob("*"))
    found = read_unfinished(begun)
    assert sorted(begun.rglob("*")) == before
    reported = [run for run in found.comparison.runs if run.purpose == "report"]
    tuning = len(found.comparison.runs) - len(reported)
    assert [(run.arm, run.seed, run.status) for run in reported] == [
        *(("relu", seed, "finished") for seed in (0, 1, 2)),
        *(("swiglu", seed, "finished") for seed in (0, 1)),
        ("swiglu", 2, "interrupted"),
    ]
    assert (found.done, found.planned) == (tuning + 5, tuning + 12)
    assert "3 of 6 reported runs" in found.missing[0]
    assert "2 of 6 reported runs" in found.missing[1]
    assert "report-lr" in found.missing[2]
    assert "-seed2: step 2 of 4, validation loss" in found.missing[2]
    expected = 0.0
    for arm, steps in (("relu", 3 * 4), ("swiglu", 4 * 4 - 2)):
        of_arm = [run for run in found.comparison.runs if run.arm == arm]
        expected += steps * fmean(run.seconds[-1] / run.eval_steps[-1] for run in of_arm)
    assert found.seconds == pytest.approx(expected)
    analysis = analyze(found.comparison)
    assert not any(contrast.found for contrast in analysis.family)
    words = verdict(analysis)
    assert words.headline == "Unfinished: no conclusion is drawn."
    assert words.order == ""
    assert "over 2 paired seeds." in str(words)
    assert "nothing is concluded yet" in methods(analysis)
    assert "unfinished" in page(analysis)


def test_only_runs_of_the_present_config_count(begun: Path, tmp_path: Path):
    every = {name: planned_runs(CONFIG, name) for name in ARMS}
    assert runs_left(CONFIG, TRAINERS, begun) == {"relu": 3, "swiglu": 4}
    assert runs_left(CONFIG, TRAINERS, tmp_path) == every
    longer = replace(CONFIG, run=replace(RUN, steps=8))
    assert runs_left(longer, prepare(longer), begun) == every


def test_the_expense_is_one_interval_for_all_missing_runs(
    begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """With a clock by which each interval of two steps takes ten seconds."""
    ticks = iter(range(0, 1000, 10))
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    found = measure(CONFIG, TRAINERS, begun)
    assert found is not None
    relu, swiglu = (flops_per_step(each.config, each.data) for each in TRAINERS.values())
    steps = 3 * 4 + 4 * 4 * swiglu / relu
    compiling = 2 * TRAINERS["relu"].programs.seconds
    assert found.seconds == pytest.approx(steps * 5 + compiling)
    assert (found.runs, found.measured, found.steps) == (7, "relu", 2)
    assert found.memory == max(footprint(each).total for each in TRAINERS.values())
    monkeypatch.undo()
    compare(CONFIG, begun, trainers=TRAINERS)
    assert measure(CONFIG, TRAINERS, begun) is None


def test_an_outline_counts_runs_flops_and_memory():
    arms = outline(CONFIG, TRAINERS)
    for arm, trainer in zip(arms, TRAINERS.values(), strict=True):
        assert (arm.runs, arm.steps) == (8, 4)
        assert arm.parameters == parameters(trainer.config)
        assert arm.flops == 32 * flops_per_step(trainer.config, trainer.data)
        assert arm.memory == footprint(trainer).total


def test_a_footprint_has_the_state_and_grows_with_the_batch():
    small = footprint(TRAINERS["relu"])
    weights = 4 * parameters(RUN)
    assert small.gradients == weights
    assert 3 * weights <= small.state <= 3 * weights + 64  # Adam's two moments, and counters
    larger = replace(RUN, batch_size=64)
    trainer = Trainer(larger, replace(TRAINERS["relu"].data, batch_size=64))
    assert footprint(trainer).kept == pytest.approx(2 * small.kept, rel=0.05)
    assert small.kept >= 32 * (64 + 16 + 16 + 10)  # at least a byte for each unit of each example
    parts = Trainer(replace(larger, gradient_accumulation_steps=2), trainer.data)
    assert footprint(parts).kept == footprint(trainer).kept // 2
