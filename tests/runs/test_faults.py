"""What can happen to a comparison: killed, interrupted, disk full, two at once, workers that die.

Real processes on real files. To spare each of them the seconds that importing JAX takes, a server
imports everything and forks before JAX has started; each child then is a process of its own, whose
`gelu_jax.cli.main` can be killed at any moment. XLA's programs are kept in JAX's compilation cache,
so that a child begins to train at once.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import quickly

from gelu_jax.compare.records import read_results

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

CONFIG = """\
arms:
  relu: {model.variant: relu}
  swiglu: {model.variant: swiglu}
learning_rates: [1e-3, 3e-3]
tuning_seeds: 1
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
from gelu_jax import signals
from jax._src import xla_bridge

assert not xla_bridge.backends_are_initialized()

def serve(job):
    for number in (1, 2):
        os.dup2(os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.chdir(job["cwd"])
    if job["limit"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["limit"], resource.RLIM_INFINITY))
    sys.argv = ["gelu-jax", *job["arguments"]]
    signals.install()
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

# Found by every Python that is started: a worker notes each point that it trains.
NOTES = """
import os, sys

if {"submitit.core._submit", "default_worker.py"} & {os.path.basename(a) for a in sys.orig_argv}:
    from gelu_jax.training.trainer import Trainer

    fit = Trainer.fit

    def noted(self, seed, learning_rate, resume=None):
        for state, point in fit(self, seed, learning_rate, resume):
            note = f"{os.getpid()} {self.config.model.variant}-{learning_rate}-{seed} {point.step}"
            with open("points", "a") as file:
                file.write(note + chr(10))
            yield state, point

    Trainer.fit = noted
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
        (cache / "sitecustomize.py").write_text(NOTES)
        environment = (
            os.environ
            | quickly.PROCESS
            | {
                "PATH": f"{ROOT / 'tests' / 'runs' / 'slurm'}:{os.environ['PATH']}",
                "PYTHONPATH": f"{cache}:{ROOT}",
                "JAX_COMPILATION_CACHE_DIR": str(cache),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            }
        )
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
INTERRUPTED = r"Interrupted( at step \d+; saved.*)?\. Rerun the same command to resume\."


def records(folder: Path) -> list[Path]:
    """The record of every run. Checkpoints, which come and go, are not looked into."""
    return sorted((folder / "runs").glob("*/runs/*/*/run.json"))


def curves(folder: Path) -> dict[str, dict[str, Any]]:
    """Every run's record by its address: all but the seconds, floats as they are written."""
    found = {}
    for path in records(folder):
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
        for path in records(folder):
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
    assert hidden in ({".lock"}, {".lock", ".claim"})
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
        for path in records(folder):
            json.loads(path.read_text())
    code, lines = server.run(folder, *COMPARE)
    assert code == 0, lines
    assert not any("warning" in line for line in lines), lines


def test_killed(server: Server, undisturbed: dict[str, dict[str, Any]], tmp_path: Path):
    kill_and_go_on(server, prepared(tmp_path), kills=1, seed=1)
    assert_whole(tmp_path, undisturbed)


def test_killed_at_twenty_random_moments(
    server: Server, undisturbed: dict[str, dict[str, Any]], tmp_path: Path
):
    for round_ in range(2):
        folder = tmp_path / str(round_)
        folder.mkdir()
        kill_and_go_on(server, prepared(folder), kills=10, seed=10 + round_)
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
        assert (code, lines) == (2, ["output = 'runs/tiny': another process is using it"])
        other = server.run(folder, *COMPARE, "--overwrite")
        assert other[0] == 2
    finally:
        os.kill(first.pid, signal.SIGCONT)
    assert first.end(signal.SIGINT) == 130
    assert re.fullmatch(INTERRUPTED, first.lines[-1])
    assert not any("Traceback" in line for line in first.lines)
    for home, record in curves(folder).items():  # what was trained is kept, to the last point
        if record["status"] == "interrupted" and record["eval_steps"][-1]:
            checkpoints = (folder / "runs/tiny/runs" / home / "checkpoint").iterdir()
            assert max(int(path.name) for path in checkpoints) == record["eval_steps"][-1]
    assert server.run(folder, *COMPARE)[0] == 0
    assert_whole(folder, undisturbed)


def test_terminated_and_hung_up(
    server: Server, undisturbed: dict[str, dict[str, Any]], tmp_path: Path
):
    """What a scheduler and a closed terminal send: as after Ctrl-C, nothing is lost."""
    folder = prepared(tmp_path)
    for how in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        since = time.time()
        process = server.start(folder, *COMPARE)
        wait_for_progress(folder, since, steps=3)
        code = process.end(how)
        assert code in (0, 128 + how), process.lines
        assert not any("Traceback" in line for line in process.lines)
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
    assert "checkpoint/30: skipped a damaged checkpoint" in warnings[1]
    assert_whole(folder, undisturbed)


# --- Workers: 20 to 50 seconds a test, which start two or more processes each ---------------------

LOCAL = (*COMPARE, "--launcher", "local", "--workers", "2")
SLURM = (
    *COMPARE,
    "--launcher",
    "slurm",
    "--workers",
    "2",
    "--resources",
    "partition=any",
    "time=9",
)
STEPS = list(range(0, 31, 3))


def notes(folder: Path) -> list[tuple[int, str, int]]:
    """The process, the run and the step of each point that workers trained."""
    path = folder / "points"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(pid), run, int(step)) for pid, run, step in map(str.split, lines)]


def workers(folder: Path) -> list[int]:
    """The processes of all workers that have begun."""
    said = (folder / "runs/tiny/workers").glob("worker-*.json")
    return [json.loads(path.read_text())["pid"] for path in said]


def wait_for(what: Callable[[], Any]) -> Any:
    limit = time.monotonic() + 120
    while time.monotonic() < limit:
        if found := what():
            return found
        time.sleep(0.003)
    raise AssertionError("it did not happen within two minutes")


def lives(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def kill_in_mid_run(folder: Path) -> tuple[int, str]:
    """SIGKILLs a worker between two points of a run; which, and the run."""

    def stopped() -> tuple[int, str] | None:
        pid, run, step = (notes(folder) or [(0, "", 0)])[-1]
        if not 6 < step < 24:
            return None
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.05)
        _, now, step = [note for note in notes(folder) if note[0] == pid][-1]
        if now == run and step < 30:
            return pid, run
        os.kill(pid, signal.SIGCONT)
        return None

    pid, run = wait_for(stopped)
    os.kill(pid, signal.SIGKILL)
    return pid, run


def assert_each_run_done_once(folder: Path, killed: int, interrupted: str) -> None:
    """One process trains a run from its first point to its last, whole; the one that was cut short
    another takes up at a checkpoint."""
    steps: dict[str, dict[int, list[int]]] = {}
    for pid, run, step in notes(folder):
        steps.setdefault(run, {}).setdefault(pid, []).append(step)
    assert len({pid for by in steps.values() for pid in by}) == 2
    first, second = steps.pop(interrupted).items()
    assert first[0] == killed
    begun, ended = first[1], second[1]
    assert begun == STEPS[: len(begun)]
    assert ended == STEPS[-len(ended) :]
    assert ended[0] <= begun[-1] + 3
    assert (ended[0] - 3) % 6 == 0 or ended[0] == 0
    assert all(list(by.values()) == [STEPS] for by in steps.values())


def test_one_of_two_workers_is_killed(
    server: Server, undisturbed: dict[str, dict[str, Any]], tmp_path: Path
):
    """Local workers finish what it had begun; nothing is done twice; each run has its line."""
    folder = prepared(tmp_path)
    lead = server.start(folder, *LOCAL)
    killed, interrupted = kill_in_mid_run(folder)
    assert lead.wait() == 0, lead.lines
    assert_whole(folder, undisturbed)
    assert_each_run_done_once(folder, killed, interrupted)
    assert sum(": validation loss " in line for line in lead.lines) == len(undisturbed)
    assert not (folder / "runs/tiny/workers").exists()
    runs = read_results(folder / "runs/tiny").environment["runs"]
    assert runs == "by 2 workers (local)"


def test_a_slurm_job_is_killed(
    server: Server, undisturbed: dict[str, dict[str, Any]], tmp_path: Path
):
    """Through submitit and scripts that stand in for sbatch, srun, sacct and scancel."""
    folder = prepared(tmp_path)
    lead = server.start(folder, *SLURM)
    script = wait_for(lambda: list((folder / "runs/tiny/workers").glob("*_submission.sh")))[0]
    assert "#SBATCH --partition=any\n" in script.read_text()
    assert "#SBATCH --time=9\n" in script.read_text()
    killed, interrupted = kill_in_mid_run(folder)
    assert lead.wait() == 0, lead.lines
    assert_whole(folder, undisturbed)
    assert_each_run_done_once(folder, killed, interrupted)


@pytest.mark.parametrize("command", [LOCAL, SLURM], ids=["local", "slurm"])
def test_no_worker_is_left(
    server: Server,
    undisturbed: dict[str, dict[str, Any]],
    tmp_path: Path,
    command: tuple[str, ...],
):
    folder = prepared(tmp_path)
    lead = server.start(folder, *command)
    wait_for(lambda: len(workers(folder)) == 2 and notes(folder))
    for pid in workers(folder):
        os.kill(pid, signal.SIGKILL)
    assert lead.wait() == 1
    last = f"{folder}/runs/tiny/workers: no worker is left; rerun the same command to resume"
    assert lead.lines[-1] == last
    assert sum("warning: a worker ended: " in line for line in lead.lines) == 2
    assert not any("Traceback" in line for line in lead.lines)
    assert server.run(folder, *command)[0] == 0
    assert_whole(folder, undisturbed)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("command", [LOCAL, SLURM], ids=["local", "slurm"])
def test_the_lead_is_stopped(
    server: Server,
    undisturbed: dict[str, dict[str, Any]],
    tmp_path: Path,
    command: tuple[str, ...],
    how: signal.Signals,
):
    """Its workers end by themselves, and a command in one process waits for them."""
    folder = prepared(tmp_path)
    lead = server.start(folder, *command)
    pids = wait_for(lambda: len(workers(folder)) == 2 and notes(folder) and workers(folder))
    if how == signal.SIGINT:
        assert lead.end(how) == 130
        assert lead.lines[-1] == "Interrupted. Rerun the same command to resume."
        wait_for(lambda: not any(map(lives, pids)))
    else:
        assert lead.end(how) == -signal.SIGKILL
    assert server.run(folder, *COMPARE)[0] == 0
    wait_for(lambda: not any(map(lives, pids)))
    assert_whole(folder, undisturbed)
