"""Trackers: every number of a record arrives once, also of a run that was stopped and continued."""

import json
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import synthetic
from tensorboardX.proto.event_pb2 import Event
from wandb.proto.wandb_internal_pb2 import Record

from gelu_jax.errors import ConfigError
from gelu_jax.runs import trackers as room
from gelu_jax.runs.execution import Task
from gelu_jax.runs.record import Run
from gelu_jax.runs.trackers import EventFiles, Tracker, Wandb, scalars, trackers

RUNS = [synthetic.run("relu", seed, 3e-3) for seed in (0, 1)]
TASKS = [Task(run.arm, run.seed, run.learning_rate, run.purpose) for run in RUNS]
Scalars = dict[tuple[int, str], float]


def first(run: Run, evaluations: int) -> Run:
    """The record as it stood after so many evaluations."""
    return replace(run.until(run.eval_steps[evaluations - 1]), status="interrupted")


def expected(run: Run) -> Scalars:
    """In the float32 of an event file."""
    return {
        (point["step"], name): struct.unpack("f", struct.pack("f", value))[0]
        for point in run.points()
        for name, value in scalars(point)
    }


def events(folder: Path) -> Iterator[tuple[tuple[int, str], float]]:
    """What stands in event files: records of length, its checksum, an Event, its checksum."""
    for path in sorted(folder.glob("events.out.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += length + 16
            for value in event.summary.value:
                yield (event.step, value.tag), value.simple_value


def in_event_files(directory: Path) -> Tracker:
    return Tracker(lambda task: EventFiles(directory / task.name))


def test_every_number_is_in_the_event_files_once(tmp_path: Path):
    with in_event_files(tmp_path) as tracker:
        for task, run in zip(TASKS, RUNS, strict=True):
            for evaluations in range(1, len(run.eval_steps) + 1, 10):
                tracker.update(task, first(run, evaluations))
            tracker.update(task, run)
            tracker.update(task, run)
    for task, run in zip(TASKS, RUNS, strict=True):
        found = list(events(tmp_path / task.name))
        assert dict(found) == expected(run)
        assert len(found) == len(expected(run))
    assert {"largest_h/layer_2", "share_of_dead_units/layer_1", "validation_loss"} <= {
        name for _, name in dict(found)
    }


def test_a_run_that_goes_on_is_whole_and_not_twice(tmp_path: Path):
    """The second session goes back to a checkpoint before the last point of the first."""
    with in_event_files(tmp_path) as tracker:
        tracker.update(TASKS[0], first(RUNS[0], 1))
        tracker.update(TASKS[0], first(RUNS[0], 9))
    with in_event_files(tmp_path) as tracker:
        tracker.update(TASKS[0], first(RUNS[0], 5))
        tracker.update(TASKS[0], RUNS[0])
    found = list(events(tmp_path / TASKS[0].name))
    assert dict(found) == expected(RUNS[0])
    assert len(found) == len(expected(RUNS[0]))


@pytest.mark.filterwarnings("ignore")  # wandb's own
@pytest.mark.slow  # under load its offline file has been seen to lack a step
def test_weights_and_biases_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    homes = {task: Path("relu") / task.name for task in TASKS}
    with Tracker(lambda task: Wandb(tmp_path, homes[task], {"steps": 7})) as tracker:
        for task, run in zip(TASKS, RUNS, strict=True):
            tracker.update(task, first(run, 3))
            tracker.update(task, run)
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.name)
    assert [path.stem.partition("-")[2] for path in files] == [
        f"relu-{task.name}" for task in TASKS
    ]
    for path, run in zip(files, RUNS, strict=True):
        rows = {
            (point["step"], name): value for point in run.points() for name, value in scalars(point)
        }
        assert history(path) == pytest.approx(rows, rel=1e-12)


def history(path: Path) -> Scalars:
    """The logged rows of an offline run."""
    found: Scalars = {}
    for data in records(path.read_bytes()):
        record: Any = Record.FromString(data)
        row = {
            item.key or "/".join(item.nested_key): json.loads(item.value_json)
            for item in record.history.item
        }
        found |= {(row["_step"], k): v for k, v in row.items() if not k.startswith("_")}
    return found


def records(data: bytes) -> Iterator[bytes]:
    """A LevelDB log: blocks of 32 KiB of pieces, each with checksum, length and kind before it."""
    at, record = 7, b""
    while at < len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
        length, kind = struct.unpack_from("<HB", data, at + 4)
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or its last piece
            yield record
            record = b""


def test_a_missing_extra_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(room, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        trackers(("wandb", "tensorboard"), tmp_path, {})
    assert str(caught.value).splitlines() == [
        "log = 'tensorboard': needs tensorboardX: pip install 'gelu-jax[tensorboard]'",
        "log = 'wandb': needs wandb: pip install 'gelu-jax[wandb]'",
    ]
    assert trackers((), tmp_path, {}) == ()


def test_each_kind_has_its_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Named as the folder of the run, its address with it; asked for twice, it is there once."""
    home = tmp_path / "runs/relu/report-lr0.003-seed0-0123456789ab"
    begun = list[Any]()
    writer = SimpleNamespace(write=lambda *_: None, close=lambda: begun.append("closed"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(room, "folder", lambda *_: home)
    monkeypatch.setattr(room, "resolved", lambda *_: {"seed": 0})
    monkeypatch.setattr(room, "EventFiles", lambda path: begun.append(path) or writer)
    monkeypatch.setattr(room, "Wandb", lambda *given: begun.append(given) or writer)
    trainers: Any = {"relu": None}
    made = trackers(("wandb", "tensorboard", "wandb"), tmp_path, trainers)
    for tracker in made:
        with tracker:
            tracker.update(TASKS[0], RUNS[0])
    relative = home.relative_to(tmp_path / "runs")
    assert begun == [
        tmp_path / "tensorboard" / relative, "closed",
        (tmp_path, relative, {"seed": 0}), "closed",
    ]  # fmt: skip
