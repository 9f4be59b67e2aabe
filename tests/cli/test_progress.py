"""The board: what it says is what has happened, in a terminal and in a file."""

import io
import math
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from gelu_jax.cli import progress as module
from gelu_jax.cli.progress import ProgressDisplay
from gelu_jax.compare.config import CompareConfig
from gelu_jax.runs.execution import Task
from gelu_jax.training.config import from_dict
from gelu_jax.training.trainer import Point

CONFIG = from_dict(
    {
        "arms": {"relu": {}, "swiglu": {"model.variant": "swiglu"}},
        "seeds": 2,
        "run": {
            "data": {"kind": "digits"},
            "model": {"kind": "mlp", "d_in": 64, "num_classes": 10, "variant": "relu"},
            "steps": 100,
            "batch_size": 32,
            "eval_every": 50,
        },
    },
    CompareConfig,
)


FAST = ", 320 examples/s"


class Clock:
    now = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Ten steps take a second, and nothing else takes time."""
    clock = Clock()
    monkeypatch.setattr(module.time, "monotonic", lambda: clock.now)
    return clock


def task(arm: str, seed: int = 0, rate: float = 1e-3, purpose: Any = "report") -> Task:
    return Task(arm, seed, rate, purpose)


def point(step: int, loss: float = 1.0) -> Point:
    return Point(step, 1.0, loss, 0.5, step / 10)


def train(board: ProgressDisplay, clock: Clock, what: Task, loss: float, start: int = 0) -> None:
    """As `perform` tells it: what the task has, then its evaluations."""
    board.update(what, point(start) if start else None)
    for step in range(start or 50, board._steps[what.arm] + 1, 50):
        if step > start:
            clock.now += (50 if step > start else 0) / 10
            board.update(what, point(step, loss))


def made(
    terminal: bool = False, config: CompareConfig = CONFIG
) -> tuple[ProgressDisplay, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100, color_system=None)
    return ProgressDisplay(config, console), out


def test_plain_lines_where_there_is_no_terminal(clock: Clock):
    board, out = made()
    with board:
        train(board, clock, task("relu"), 2.0)
        train(board, clock, task("swiglu"), 1.5)
        train(board, clock, task("relu", 1), 2.2)
        board.update(task("swiglu", 1), None)
        board.update(task("swiglu", 1), point(50, math.nan))
    assert out.getvalue().splitlines() == [
        f" 25%  relu report-lr0.001-seed0: validation loss 2.0000  (about 30 seconds left{FAST})",
        f" 50%  swiglu report-lr0.001-seed0: validation loss 1.5000  (about 20 seconds left{FAST})",
        f" 75%  relu report-lr0.001-seed1: validation loss 2.2000  (about 10 seconds left{FAST})",
        f"100%  swiglu report-lr0.001-seed1: diverged  (done{FAST})",
    ]


def test_a_long_run_has_a_line_every_so_often(clock: Clock):
    """Without a terminal, and at once: a log that is followed shows it."""
    config = replace(CONFIG, arms={"relu": {"steps": 1000}}, seeds=1)
    board, out = made(config=config)
    with board:
        board.update(task("relu"), None)
        for step in range(50, 1001, 50):
            clock.now += 5
            board.update(task("relu"), point(step))
    lines = out.getvalue().splitlines()
    assert [line.partition(": ")[2].partition(",")[0] for line in lines] == [
        "step 300", "step 600", "step 900", "validation loss 1.0000  (done"
    ]  # fmt: skip
    assert lines[0].endswith("(about 70 seconds left, 320 examples/s)"), lines[0]


def test_what_was_done_before_does_not_distort_the_estimate(clock: Clock):
    """Finished runs and half of one are found: they are done, but not with this session's speed."""
    board, out = made()
    with board:
        board.update(task("relu"), point(100, 2.0))
        board.update(task("swiglu"), point(100, 1.5))
        assert board.share == 0.5
        assert board.left == "compiling"
        clock.now += 5.0  # what compiling takes is counted on the session's steps
        train(board, clock, task("relu", 1), 2.2, start=50)
        assert board._trained == 50
        assert board.left == "about 20 seconds left"  # 10 seconds for 50 steps, 100 ahead
    assert out.getvalue() == (
        f" 75%  relu report-lr0.001-seed1: validation loss 2.2000  (about 20 seconds left{FAST})\n"
    )


def test_the_view_of_a_terminal(clock: Clock):
    board, _ = made(terminal=True)
    train(board, clock, task("relu"), 2.0)
    train(board, clock, task("swiglu"), 1.5)
    train(board, clock, task("relu", 1), 2.4)
    board.update(task("swiglu", 1), None)
    board.update(task("swiglu", 1), point(50))
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    console.print(board._view())
    lines = [line.split("  ") for line in console.file.getvalue().splitlines()]
    table = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert table[0] == ["arm", "now", "seeds", "mean loss", "paired difference"]
    assert table[1] == ["relu", "2/2", "2.2000"]
    # the gap is that of seed 0 alone, which both arms have: 1.5 − 2.0, not 1.5 − 2.2
    assert table[2] == [
        "swiglu", "report-lr0.001-seed1, step 50, 1.0000", "1/2", "1.5000", "−0.5000"
    ]  # fmt: skip
    bar, text = table[3]
    assert set(bar) == {"━"}
    # 350 of 400 steps are done; the fake clock leaves 4.5 seconds, give or take a rounding
    speed = "320 examples/s"
    assert text in (f"88%, about {seconds} seconds left, {speed}" for seconds in (4, 5))


def test_it_is_live_in_a_terminal(clock: Clock):
    board, out = made(terminal=True)
    with board:
        train(board, clock, task("relu"), 2.0)
        board._live.refresh()
    text = out.getvalue()
    assert "paired difference" in text
    assert "2.0000" in text
    assert "validation loss" not in text  # no plain lines beside the board


def test_tuning_and_an_extended_grid(clock: Clock):
    """Runs that nobody planned make the work longer; tuning runs are no seeds."""
    config = replace(CONFIG, learning_rates=(1e-3, 2e-3), tuning_seeds=1, seeds=1)
    board, _ = made(config=config)
    for arm in ("relu", "swiglu"):
        for rate in (1e-3, 2e-3):
            train(board, clock, task(arm, 1000, rate, "tuning"), 1.0)
    assert board.share == pytest.approx(4 / 6)
    assert board._finals("relu") == {}
    train(board, clock, task("relu", 1000, 4e-3, "tuning"), 1.0)
    assert board.share == pytest.approx(5 / 6)
    train(board, clock, task("relu", 0, 4e-3), 1.0)
    assert board.share == pytest.approx(6 / 7)
    assert board.left == "about 10 seconds left"
    train(board, clock, task("swiglu", 0, 2e-3), 1.0)
    assert (board.share, board.left) == (1.0, "done")


def test_arms_of_other_lengths(clock: Clock):
    config = replace(CONFIG, arms={"short": {}, "long": {"steps": 300}}, seeds=1)
    board, out = made(config=config)
    with board:
        train(board, clock, task("short"), 1.0)
        assert board.share == 0.25
        train(board, clock, task("long"), 1.0)
    assert board.left == "done"
    assert out.getvalue().count("\n") == 2


def test_nothing_yet(clock: Clock):
    board, _ = made()
    assert (board.share, board.left) == (0.0, "starting")
    board.update(task("relu"), None)
    assert (board.share, board.left) == (0.0, "compiling")
    assert board._row("relu") == ("relu", "report-lr0.001-seed0, step 0", "0/2", "", "")


def test_it_shows_the_loss_that_is_compared(clock: Clock):
    config = replace(CONFIG, metric="training loss")
    board = ProgressDisplay(config, Console(file=io.StringIO()))
    for arm in ("relu", "swiglu"):
        board.update(task(arm), None)
    board.update(task("relu"), Point(100, 0.5, 7.0, 0.5, 1.0))
    board.update(task("swiglu"), Point(100, 0.25, 8.0, 0.5, 1.0))
    assert board._row("swiglu")[-2:] == ("0.2500", "−0.2500")
    assert "training loss 0.2500" in board._line(task("swiglu"), Point(100, 0.25, 8.0, 0.5, 1.0))


@pytest.mark.parametrize("width", [40, 79, 80, 120])
def test_no_number_is_cut_in_a_terminal_of_any_width(clock: Clock, width: int):
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    board = ProgressDisplay(CONFIG, console)
    for arm, loss in (("relu", 2.3456), ("swiglu", 2.2345)):
        train(board, clock, task(arm), loss)
    console.print(board._view())
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    words = " ".join(shown.split())
    for text in ("2.3456", "2.2345", "−0.1111", "1/2", "50%", "step 100"):
        assert text in words
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= width
