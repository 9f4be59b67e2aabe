"""Launchers and claims, without starting a process; with real ones: `test_faults`."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from gelu_jax.compare.config import CompareConfig
from gelu_jax.compare.experiment import prepare
from gelu_jax.errors import ConfigError
from gelu_jax.runs import directory as room
from gelu_jax.runs import launchers, worker
from gelu_jax.runs import worker_pool as module
from gelu_jax.runs.directory import live_workers, locked
from gelu_jax.runs.execution import Task, execute, folder
from gelu_jax.runs.launchers import Launch, launch
from gelu_jax.runs.worker import Worker
from gelu_jax.runs.worker_pool import WorkerPool
from gelu_jax.training.config import from_dict, write_config
from gelu_jax.training.trainer import Trainer

CONFIG = from_dict(
    {
        "arms": {"relu": {}},
        "seeds": 1,
        "run": {
            "data": {"kind": "digits"},
            "model": {"kind": "mlp", "d_in": 64, "num_classes": 10, "num_layers": 1, "d_ff": 4},
            "steps": 4,
            "batch_size": 32,
            "eval_every": 2,
        },
    },
    CompareConfig,
)
TASK = Task("relu", 0, 1e-3, "report")


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        (("slum", None, ()), "launcher = 'slum': did you mean slurm?"),
        (("k8s", None, ()), "launcher = 'k8s': choose from local, ray, slurm"),
        (("local", 0, ()), "workers = 0: must be above 0"),
        (("local", 2, ("time",)), "resources = 'time': must be key=value"),
        ((None, 2, ()), "workers = 2: needs --launcher local, slurm or ray"),
        (
            (None, None, ("time=9",)),
            "resources = ('time=9',): needs --launcher local, slurm or ray",
        ),
    ],
)
def test_a_wrong_launcher_is_one_line(asked: tuple[Any, ...], line: str):
    with pytest.raises(ConfigError) as caught:
        launch(*asked)
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("local", "needs submitit: pip install 'gelu-jax[slurm]'"),
        ("slurm", "needs submitit: pip install 'gelu-jax[slurm]'"),
        ("ray", "needs ray: pip install 'gelu-jax[ray]'"),
    ],
)
def test_a_missing_extra_names_the_command(kind: str, reason: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(launchers, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        Launch(kind)
    assert str(caught.value) == f"launcher = '{kind}': {reason}"


def test_without_slurm(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match=r"^launcher = 'slurm': srun is not on the PATH$"):
        Launch("slurm")


def test_what_is_launched(monkeypatch: pytest.MonkeyPatch):
    assert launch(None, None, ()) is None
    assert launch("local", None, ()) == Launch("local", os.cpu_count() or 1, {})
    monkeypatch.setenv("PATH", str(Path(__file__).parent / "slurm"))
    given = launch(
        "slurm", 8, ("partition=gpu", "time=60", "exclusive=true", "mem=4GB", "comment=a=b")
    )
    resources = {"partition": "gpu", "time": 60, "exclusive": True, "mem": "4GB", "comment": "a=b"}
    assert given == Launch("slurm", 8, resources)


@pytest.mark.parametrize(
    ("kind", "resources", "reason"),
    [
        ("slurm", {"partion": "gpu"}, r"Unavailable parameter\(s\): \['partion'\]"),
        ("local", {"time": 9}, "may only hold gpus_per_node, a whole number"),
        ("local", {"gpus_per_node": "one"}, "may only hold gpus_per_node, a whole number"),
    ],
)
def test_resources_that_the_launcher_does_not_know(
    tmp_path: Path,
    kind: str,
    resources: dict[str, Any],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("PATH", str(Path(__file__).parent / "slurm"))
    with pytest.raises(ConfigError, match=rf"^resources = .*: {reason}$"):
        Launch(kind, 1, resources)


# --- Claims -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trainers() -> dict[str, Trainer]:
    return prepare(CONFIG)


@pytest.fixture
def led(tmp_path: Path, trainers: dict[str, Trainer]) -> Any:
    """A directory whose pool asks for one task."""
    write_config(trainers["relu"].config, tmp_path / "workers" / "arms" / "relu.yaml")
    home = folder(trainers["relu"], TASK, tmp_path).relative_to(tmp_path / "runs")
    tasks = {home.as_posix(): vars(TASK)}
    (tmp_path / "workers" / "tasks.json").write_text(json.dumps(tasks))
    with FileLock(tmp_path / "workers" / "leader.lock"):
        yield tmp_path


def test_a_worker_without_a_pool_leaves_nothing(tmp_path: Path):
    Worker()(tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "leader.lock").touch()  # of one that has gone
    Worker()(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["workers", "leader.lock"]


def test_what_is_claimed_is_left_alone(
    led: Path, trainers: dict[str, Trainer], monkeypatch: pytest.MonkeyPatch
):
    did: list[Task] = []
    monkeypatch.setattr(worker, "execute", lambda trainer, task, *_: did.append(task))
    home = folder(trainers["relu"], TASK, led)
    attempt = worker._attempt  # pyright: ignore[reportPrivateUsage]
    with FileLock(home / ".claim"):
        assert not attempt(trainers["relu"], TASK, led, home)
    assert did == []
    assert attempt(trainers["relu"], TASK, led, home)
    assert did == [TASK]


def test_a_worker_of_another_version_refuses(led: Path, monkeypatch: pytest.MonkeyPatch):
    """Its results would stand at another address: nobody would find them."""
    monkeypatch.setattr(
        "gelu_jax.runs.execution.versions", lambda: ["another jax", "cpu", "source"]
    )
    monkeypatch.setattr(worker, "versions", lambda: ["another jax", "cpu", "source"])
    with pytest.raises(
        SystemExit, match="this worker has another gelu_jax, jax, or kind of device"
    ):
        Worker()(led)
    assert not (led / "runs").exists()
    assert live_workers(led) == []


def test_the_pool_follows_what_is_written(tmp_path: Path, trainers: dict[str, Trainer]):
    """It meets a run empty, is told of each evaluation it sees, and of the last one once."""
    seen: list[tuple[int, str]] = []
    launched = Launch("local", 1)
    pool = WorkerPool(
        launched, tmp_path, trainers, lambda _, run: seen.append((len(run.eval_steps), run.status))
    )
    home = folder(trainers["relu"], TASK, tmp_path)
    record = module._Record(home / "run.json")  # pyright: ignore[reportPrivateUsage]

    def follow(*_: Any) -> None:
        pool._follow(TASK, record)  # pyright: ignore[reportPrivateUsage]

    follow()
    assert seen == []
    execute(trainers["relu"], TASK, tmp_path, follow)
    follow()
    follow()
    assert seen[:2] == [(0, "interrupted"), (1, "interrupted")]
    assert seen[-1] == (3, "finished")
    assert len(seen) == 4
    assert record.ended


def test_a_command_waits_for_the_workers_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(room, "_PATIENCE", 0.3)
    (tmp_path / "workers").mkdir()
    with FileLock(tmp_path / "workers" / "worker-here-1.lock"):
        assert len(live_workers(tmp_path)) == 1
        with pytest.raises(ConfigError, match="workers of an earlier command"), locked(tmp_path):
            raise AssertionError("one was at work")
    with locked(tmp_path):
        assert live_workers(tmp_path) == []
