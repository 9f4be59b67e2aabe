"""What can happen to a comparison: killed, interrupted, disk full, two at once.

Real processes on real files. To spare each of them the seconds that importing JAX takes, a server
imports everything and forks before JAX has started; each child then is a process of its own, whose
`gelu_jax.cli.main` can be killed at any moment. XLA's programs are kept in JAX's compilation cache,
so that a child begins to train at once.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gelu_jax.compare.records import read_results

ROOT = Path(__file__).parent.parent

CONFIG = """\
arms:
  relu: {model.variant: relu}
  swiglu: {model.variant: swiglu}
learning_rates: [1e-3, 3e-3]
seeds: 1
protocol: smoke test
run:
  data: {kind: digits}
  model: {kind: mlp, d_in: 64, num_classes: 10, num_layers: 2, d_ff: 16, dropout_rate: 0.1}
  optimizer: {name: adam}
  steps: 30
  batch_size: 32
  eval_every: 3
  checkpoint_every: 6
"""

SERVER = """
import json, os, resource, sys, traceback
import gelu_jax.cli, sklearn.datasets
from jax._src import xla_bridge

assert not xla_bridge.backends_are_initialized()

def serve(job):
    for number in (1, 2):
        os.dup2(os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.chdir(job["cwd"])
    if job["limit"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["limit"], resource.RLIM_INFINITY))
    sys.argv = ["gelu-jax", *job["arguments"]]
    try:
        gelu_jax.cli.main()
    except SystemExit as end:
        return end.code
    except BaseException:
        traceback.print_exc()
        return 99
    finally:
        sys.stdout.flush()
    return 0

print("ready", flush=True)
for line in sys.stdin:
    job = json.loads(line)
    if "wait" in job:
        print(os.waitstatus_to_exitcode(os.waitpid(job["wait"], 0)[1]), flush=True)
    elif (pid := os.fork()) == 0:
        os._exit(serve(job))
    else:
        print(pid, flush=True)
"""


@dataclass
class Process:
    """A child of the server."""

    server: "Server"
    pid: int
    log: Path

    def wait(self) -> int:
        return self.server.ask({"wait": self.pid})

    def end(self, how: signal.Signals) -> int:
        os.kill(self.pid, how)
        return self.wait()

    @property
    def lines(self) -> list[str]:
        return self.log.read_text().splitlines()


class Server:
    """Starts `gelu-jax` with some arguments in a folder, as many times as it is asked."""

    def __init__(self, cache: Path):
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        command = [sys.executable, "-c", SERVER]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, env=environment, text=True, **pipes)  # type: ignore[call-overload]
        assert self.process.stdout.readline() == "ready\n"

    def ask(self, job: dict[str, Any]) -> int:
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def start(self, cwd: Path, *arguments: str, limit: int | None = None) -> Process:
        logs = len(list(cwd.glob("*.log")))
        log = cwd / f"{logs}.log"
        job = {"cwd": str(cwd), "arguments": arguments, "limit": limit, "log": str(log)}
        return Process(self, self.ask(job), log)

    def run(self, cwd: Path, *arguments: str, limit: int | None = None) -> tuple[int, list[str]]:
        process = self.start(cwd, *arguments, limit=limit)
        return process.wait(), process.lines


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("cache"))
    yield server
    server.process.stdin.close()
    server.process.wait(60)
    server.process.stdout.close()


def prepared(folder: Path) -> Path:
    (folder / "tiny.yaml").write_text(CONFIG)
    return folder


COMPARE = ("compare", "tiny.yaml")


def curves(folder: Path) -> dict[str, dict[str, Any]]:
    """Every run's record by its address: all but the seconds, floats as they are written."""
    found = {}
    for path in sorted((folder / "runs/tiny/runs").glob("*/*/run.json")):
        record = json.loads(path.read_text(), parse_float=str)
        found[f"{path.parent.parent.name}/{path.parent.name}"] = {
            key: value for key, value in record.items() if "seconds" not in key
        }
    return found


@pytest.fixture(scope="module")
def undisturbed(
    server: Server, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    folder = prepared(tmp_path_factory.mktemp("undisturbed"))
    code, lines = server.run(folder, *COMPARE)
    assert code == 0, lines
    found = curves(folder)
    assert len(found) >= 6  # two arms, at two rates or three, and one reported seed each
    assert {record["status"] for record in found.values()} == {"finished"}
    return found


def wait_for_progress(folder: Path, since: float, steps: int = 0) -> None:
    """Until a run has been written to, and has made so many steps: the process trains."""
    limit = time.monotonic() + 300
    while time.monotonic() < limit:
        for path in (folder / "runs").rglob("run.json"):
            written = path.stat().st_mtime > since
            if written and json.loads(path.read_text())["eval_steps"][-1] >= steps:
                return
        time.sleep(0.005)
    raise AssertionError("no progress within five minutes")


def assert_whole(folder: Path, undisturbed: dict[str, dict[str, Any]]) -> None:
    """The comparison is done, bit for bit as if nothing had happened, and nothing half is left."""
    assert curves(folder) == undisturbed
    comparison = read_results(folder / "runs/tiny")
    assert {run.status for run in comparison.runs} == {"finished"}
    assert len(comparison.runs) == len(undisturbed)
    hidden = {p.name for p in (folder / "runs").rglob(".*")}
    assert hidden == {".lock"}
    kept = {p.name for p in (folder / "runs").glob("*/runs/*/*/checkpoint/*")}
    assert kept == {"24", "30"}


def kill_and_go_on(server: Server, folder: Path, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(kills):
        since = time.time()
        process = server.start(folder, *COMPARE)
        wait_for_progress(folder, since)
        time.sleep(rng.uniform(0, 0.4))
        assert process.end(signal.SIGKILL) in (-signal.SIGKILL, 0)
        for path in (folder / "runs").rglob("run.json"):
            json.loads(path.read_text())
    code, lines = server.run(folder, *COMPARE)
    assert code == 0, lines
    assert not any("warning" in line for line in lines), lines


def test_killed_three_times(server: Server, undisturbed: dict[str, dict[str, Any]], tmp_path: Path):
    kill_and_go_on(server, prepared(tmp_path), kills=3, seed=1)
    assert_whole(tmp_path, undisturbed)


@pytest.mark.slow
def test_killed_at_twenty_random_moments(
    server: Server, undisturbed: dict[str, dict[str, Any]], tmp_path: Path
):
    for round_ in range(4):
        folder = tmp_path / str(round_)
        folder.mkdir()
        kill_and_go_on(server, prepared(folder), kills=5, seed=10 + round_)
        assert_whole(folder, undisturbed)


def test_interrupted_and_two_at_once(
    server: Server, undisturbed: dict[str, dict[str, Any]], tmp_path: Path
):
    folder = prepared(tmp_path)
    since = time.time()
    first = server.start(folder, *COMPARE)
    wait_for_progress(folder, since, steps=3)
    os.kill(first.pid, signal.SIGSTOP)  # so that it is surely still at work
    try:
        code, lines = server.run(folder, *COMPARE)
        assert (code, lines) == (2, ["output = 'runs/tiny': another process is at work there"])
        other = server.run(folder, *COMPARE, "--overwrite")
        assert other[0] == 2
    finally:
        os.kill(first.pid, signal.SIGCONT)
    assert first.end(signal.SIGINT) == 130
    assert first.lines[-1] == "stopped; the same command goes on from here"
    assert not any("Traceback" in line for line in first.lines)
    for home, record in curves(folder).items():  # what was trained is kept, to the last point
        if record["status"] == "interrupted" and record["eval_steps"][-1]:
            checkpoints = (folder / "runs/tiny/runs" / home / "checkpoint").iterdir()
            assert max(int(path.name) for path in checkpoints) == record["eval_steps"][-1]
    assert server.run(folder, *COMPARE)[0] == 0
    assert_whole(folder, undisturbed)


def test_a_full_disk(server: Server, undisturbed: dict[str, dict[str, Any]], tmp_path: Path):
    """The operating system refuses files above a size: in the record, the state, the report."""
    folder = prepared(tmp_path)
    before: dict[str, dict[str, Any]] = {}
    for limit in (100, 900, 4_000, 100_000):
        code, lines = server.run(folder, *COMPARE, limit=limit)
        assert code == 1, lines
        assert lines[-1].endswith(": file too large"), lines
        assert not any("Traceback" in line or "rror:" in line for line in lines), lines
        written = curves(folder)
        for home, record in before.items():
            losses = record["validation_loss"]
            assert written[home]["validation_loss"][: len(losses)] == losses
        before = written
    assert {record["status"] for record in before.values()} == {"finished"}
    assert server.run(folder, *COMPARE)[0] == 0
    assert_whole(folder, undisturbed)


def test_a_damaged_record_and_a_damaged_checkpoint(
    server: Server, undisturbed: dict[str, dict[str, Any]], tmp_path: Path
):
    """Both are named in one line each, and what they held is trained again to the same bits."""
    folder = prepared(tmp_path)
    assert server.run(folder, *COMPARE)[0] == 0
    relu = next((folder / "runs/tiny/runs/relu").glob("report-*"))
    swiglu = next((folder / "runs/tiny/runs/swiglu").glob("report-*"))
    (relu / "run.json").write_bytes((relu / "run.json").read_bytes()[:100])
    record = json.loads((swiglu / "run.json").read_text())
    (swiglu / "run.json").write_text(json.dumps(record | {"status": "interrupted"}))
    damaged = next((swiglu / "checkpoint/30/state").rglob("manifest.ocdbt"))
    damaged.write_bytes(b"")
    code, lines = server.run(folder, *COMPARE)
    assert code == 0, lines
    warnings = [line for line in lines if line.startswith("warning: ")]
    assert len(warnings) == 2
    assert "relu" in warnings[0]
    assert "damaged record" in warnings[0]
    assert "checkpoint/30: damaged checkpoint, passed over" in warnings[1]
    assert_whole(folder, undisturbed)
