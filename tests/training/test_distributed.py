"""Several processes on one run: real processes on the loopback interface, and what ends them.

The pairs of processes, 2 × 4 virtual devices, are slow: each of them has Python and jax to start.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest
from quickly import FLAGS

from gelu_jax import cli
from gelu_jax.errors import ConfigError
from gelu_jax.training import distributed
from gelu_jax.training.distributed import (
    DistributedConfig,
    broadcast_from_primary,
    is_primary,
    same_everywhere,
)
from gelu_jax.training.mesh import MeshConfig, make_mesh

ROOT = Path(__file__).parents[2]

CONFIG = """\
data: {kind: digits}
model: {kind: mlp, d_in: 64, num_classes: 10, num_layers: 2, d_ff: 16, dropout_rate: 0.1}
optimizer: {name: adam}
steps: 240
batch_size: 32
eval_every: 20
checkpoint_every: 40
mesh: {data: 2, fsdp: 2, tensor: 2}
"""
COMMAND = ("train", "tiny.yaml")


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ("--process-id 0", "process_id = 0: needs --distributed"),
        ("--coordinator a:1 --num-processes 2", "coordinator = 'a:1': needs --distributed"),
        ("--distributed --coordinator node", "coordinator = 'node': must be host:port"),
        ("--distributed --coordinator node:x", "coordinator = 'node:x': must be host:port"),
        ("--distributed --coordinator :80", "coordinator = ':80': must be host:port"),
        ("--distributed --coordinator a:65536", "coordinator = 'a:65536': must be host:port"),
        ("--distributed --num-processes 0", "num_processes = 0: must be above 0"),
        ("--distributed --process-id -1", "process_id = -1: must lie in [0, 2147483647]"),
        (
            "--distributed --num-processes 2 --process-id 2",
            "process_id = 2: must lie in [0, 1]",
        ),
    ],
)
def test_bad_flags_are_a_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: str,
    line: str,
):
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gelu-jax", *COMMAND, *flags.split()])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    assert (end.value.code, out) == (2, "")
    assert err.startswith(line)
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_the_environment_tells_what_no_flag_does():
    environment = {
        "JAX_COORDINATOR_ADDRESS": "node:1234",
        "JAX_NUM_PROCESSES": "4",
        "JAX_PROCESS_ID": "3",
    }
    assert DistributedConfig(True).with_environment({}) == DistributedConfig(True)
    assert DistributedConfig(True).with_environment(environment) == DistributedConfig(
        True, "node:1234", 4, 3
    )
    flags = DistributedConfig(True, "other:80", process_id=0)
    assert flags.with_environment(environment) == DistributedConfig(True, "other:80", 4, 0)
    for name, text, line in (
        ("JAX_PROCESS_ID", "one", "JAX_PROCESS_ID = 'one': must be a whole number from 0"),
        ("JAX_NUM_PROCESSES", "3", "process_id = 3: must lie in [0, 2]"),
    ):
        with pytest.raises(ConfigError) as caught:
            DistributedConfig(True).with_environment(environment | {name: text})
        assert str(caught.value) == line


def test_alone_there_is_nobody_to_ask():
    assert is_primary()
    assert broadcast_from_primary(lambda: "found") == "found"
    same_everywhere({"config": {"steps": 3}})


def test_what_differs_from_process_0_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        distributed, "broadcast_from_primary", lambda find: find() | {"data": "of process 0"}
    )
    monkeypatch.setattr(jax, "process_index", lambda: 3)
    with pytest.raises(ConfigError) as caught:
        same_everywhere({"config": {"steps": 3}, "data": "of this one"})
    assert str(caught.value) == "data: not the same on process 3 as on process 0"


def test_several_processes_need_a_mesh_of_all_devices(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    for config, given in ((None, "None"), (MeshConfig(2, 2, 1), r"\{.*\}")):
        with pytest.raises(ConfigError, match=rf"mesh = {given}: must use all 8 devices of the"):
            make_mesh(config)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


class Pair:
    """The two processes of one run, in one folder; each has a log of its own."""

    def __init__(
        self,
        folder: Path,
        cache: Path,
        more: tuple[tuple[str, ...], ...] = ((), ()),
        limit: int = 0,
    ):
        (folder / "tiny.yaml").write_text(CONFIG)
        self.folder = folder
        self.environment = environment(cache, devices=4) | {
            "JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}",
            "JAX_NUM_PROCESSES": "2",
        }
        self.processes = [self.start(i, more[i], limit if i == 0 else 0) for i in range(2)]

    def start(self, number: int, more: tuple[str, ...], limit: int) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "gelu_jax", *COMMAND, *more, "--distributed"]
        if limit:
            command = ["prlimit", f"--fsize={limit}", *command]
        with self.log(number).open("wb") as log:
            return subprocess.Popen(
                [*command, f"--process-id={number}"],
                cwd=self.folder, env=self.environment, stdout=log, stderr=log,
            )  # fmt: skip

    def log(self, number: int) -> Path:
        return self.folder / f"{number}.log"

    def lines(self, number: int) -> list[str]:
        """What we print; gloo and the C++ of jax print between it."""
        text = self.log(number).read_text()
        ours = (
            "process ",
            "killed",
            "Interrupted",
            "Terminated",
            "runs/",
            "tiny",
            "config",
            "100%",
        )
        return [line for line in text.splitlines() if line.startswith((*ours, "warning", "Trace"))]

    def wait(self, seconds: float = 400) -> list[int]:
        limit = time.monotonic() + seconds
        return [process.wait(limit - time.monotonic()) for process in self.processes]

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


def environment(cache: Path, devices: int) -> dict[str, str]:
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {FLAGS}",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


@pytest.fixture
def pairs(cache: Path) -> Iterator[Any]:
    """Starts pairs, and leaves none of them running."""
    started: list[Pair] = []

    def start(folder: Path, **more: Any) -> Pair:
        started.append(Pair(folder, cache, **more))
        return started[-1]

    yield start
    for pair in started:
        pair.end()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def undisturbed(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("undisturbed")
    pair = Pair(folder, cache)
    try:
        assert pair.wait() == [0, 0]
    finally:
        pair.end()
    names = ("report.html", "curves.png", "curves.svg", "curves.pdf", "results.csv", "results.json")
    assert pair.lines(0)[-6:] == [f"runs/tiny/{name}" for name in names]
    assert pair.lines(1) == []
    return record(folder)


def record(folder: Path) -> dict[str, Any]:
    """The curve, floats as they are written; and that it stands alone, with its checkpoints."""
    (path,) = (folder / "runs/tiny/runs/tiny").glob("*/run.json")
    assert {p.name for p in (path.parent / "checkpoint").iterdir()} == {"200", "240"}
    assert {p.name for p in folder.rglob(".*")} == {".lock"}
    found = json.loads(path.read_text(), parse_float=str)
    assert found["status"] == "finished"
    return {key: value for key, value in found.items() if "seconds" not in key}


def saved(folder: Path) -> int:
    steps = folder.glob("runs/tiny/runs/tiny/*/checkpoint/[0-9]*")
    return max((int(path.name) for path in steps), default=0)


def wait_for_checkpoint(pair: Pair, after: int = 0) -> None:
    limit = time.monotonic() + 300
    while saved(pair.folder) <= after:
        assert all(process.poll() is None for process in pair.processes), pair.lines(0)
        assert time.monotonic() < limit, "no checkpoint within five minutes"
        time.sleep(0.01)


@pytest.mark.slow
def test_two_processes_train_as_one_does(undisturbed: dict[str, Any], cache: Path, tmp_path: Path):
    """Measured over 1500 steps, losses from 2.3 to 0.2: at most 3e-7 apart."""
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    command = [sys.executable, "-m", "gelu_jax", *COMMAND]
    variables = environment(cache, devices=8)
    subprocess.run(command, cwd=tmp_path, env=variables, check=True, capture_output=True)
    alone = record(tmp_path)
    for name in ("train_loss", "validation_loss"):
        ours, theirs = ([float(loss) for loss in run[name]] for run in (undisturbed, alone))
        assert ours == pytest.approx(theirs, abs=5e-6), name


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_one_killed_stops_the_other_and_both_go_on(
    undisturbed: dict[str, Any], pairs: Any, tmp_path: Path, victim: int
):
    pair = pairs(tmp_path)
    wait_for_checkpoint(pair)
    pair.processes[victim].kill()
    codes = pair.wait()
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] == 1
    step = saved(tmp_path)
    who = "process 1 of 2 exited", "process 0 exited, or not every process started"
    line = f"{who[1 - victim]}; rerun the same command to resume from step {step}"
    assert pair.lines(1 - victim) == [line]
    assert pairs(tmp_path).wait() == [0, 0]
    assert record(tmp_path) == undisturbed


@pytest.mark.slow
def test_a_signal_to_one_stops_both_at_the_same_step(pairs: Any, tmp_path: Path):
    """Ctrl-C, and what a scheduler sends first; five times as long, so that it comes in time."""
    longer = (("steps=1200",), ("steps=1200",))
    for victim, how in ((0, signal.SIGINT), (1, signal.SIGTERM)):
        before, pair = saved(tmp_path), pairs(tmp_path, more=longer)
        wait_for_checkpoint(pair, before)
        pair.processes[victim].send_signal(how)
        assert pair.wait() == [128 + how] * 2, pair.log(1).read_text()
        line = pair.lines(0)[-1]
        assert line.endswith(
            f" at step {saved(tmp_path)}; saved. Rerun the same command to resume."
        )
        assert pair.lines(1) == []
    assert pairs(tmp_path, more=longer).wait() == [0, 0]
    (path,) = tmp_path.glob("runs/tiny/runs/tiny/*/run.json")
    found = json.loads(path.read_text())
    assert found["status"] == "finished"
    assert found["eval_steps"] == list(range(0, 1201, 20))


@pytest.mark.slow
def test_a_coordinator_that_leaves_too_early_changes_no_exit_code(cache: Path, tmp_path: Path):
    """jax aborts the other process in its own goodbye, after all is done: seen under load."""
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    variables = environment(cache, devices=4)
    variables |= {"JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}", "JAX_NUM_PROCESSES": "2"}
    processes = []
    for number, seconds in enumerate((0, 60)):
        script = (
            "import sys, time; from gelu_jax import cli; from gelu_jax.training import distributed;"
            f"distributed._disconnect = lambda: time.sleep({seconds}); cli.main()"
        )
        command = [sys.executable, "-c", script, *COMMAND, "steps=40", "--distributed"]
        process = subprocess.Popen(
            [*command, f"--process-id={number}"], cwd=tmp_path, env=variables,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        processes.append(process)
    errors = [process.communicate(timeout=400)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert "Terminating process" in errors[1]  # so it was aborted


@pytest.mark.slow
def test_a_process_that_is_told_nothing_asks(cache: Path, tmp_path: Path):
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    command = [sys.executable, "-m", "gelu_jax", *COMMAND, "--distributed"]
    for missing, flags in (
        ("coordinator", "--num-processes 2 --process-id 0"),
        ("num_processes", "--coordinator localhost:80 --process-id 0"),
        ("process_id", "--coordinator localhost:80 --num-processes 2"),
    ):
        done = subprocess.run(
            [*command, *flags.split()], cwd=tmp_path, env=environment(cache, 1),
            capture_output=True, text=True,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"{missing}: not known; give --")
        assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_processes_that_differ_are_told_so(pairs: Any, tmp_path: Path):
    pair = pairs(tmp_path, more=((), ("steps=260",)))
    assert pair.wait() == [1, 2]
    assert pair.lines(0) == ["process 1 of 2 exited; rerun the same command to start over"]
    assert pair.lines(1) == ["config: not the same on process 1 as on process 0"]


@pytest.mark.slow
def test_a_full_disk_stops_all(undisturbed: dict[str, Any], pairs: Any, tmp_path: Path):
    """The operating system refuses process 0 what is longer than the record: the state."""
    pair = pairs(tmp_path, limit=20_000)
    assert pair.wait() == [1, 1]
    lines = pair.log(0).read_text().splitlines()
    assert any(line.endswith(": file too large") for line in lines), lines
    assert not any("Traceback" in line for line in lines), lines
    assert pairs(tmp_path).wait() == [0, 0]
    assert record(tmp_path) == undisturbed
