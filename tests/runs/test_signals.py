"""Signals at any moment of a command's life: the exit code of the signal, one line, no traceback.

Fresh processes, with all their imports and with real compilations. A moment is counted from when
the process has its handlers, which it has before it imports jax; what comes before that is Python's
own start.
"""

import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from gelu_jax import signals

ROOT = Path(__file__).parents[2]
CONFIG = """\
data: {kind: digits}
model: {kind: mlp, d_in: 64, num_classes: 10, num_layers: 2, d_ff: 16}
optimizer: {name: adam}
steps: 4000
batch_size: 32
eval_every: 50
"""


class Ended(NamedTuple):
    code: int
    err: str
    seconds: float  # from the first moment that counts


def start(folder: Path, *before: str) -> subprocess.Popen[str]:
    """`gelu-jax train` in a new folder, which compiles for itself."""
    folder.mkdir()
    (folder / "tiny.yaml").write_text(CONFIG)
    uncached = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    return subprocess.Popen(
        [*before, sys.executable, "-m", "gelu_jax", "train", "tiny.yaml"],
        cwd=folder,
        env=uncached | {"PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_handlers(process: subprocess.Popen[str]) -> None:
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        caught = int(status.read_text().partition("SigCgt:")[2].split()[0], 16)
        if caught >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.001)
    raise AssertionError(process.communicate()[1])


def ended(folder: Path, after: float | None, how: signal.Signals = signal.SIGINT) -> Ended:
    process = start(folder)
    wait_for_handlers(process)
    began = time.monotonic()
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.send_signal(how)
    _, err = process.communicate()
    return Ended(process.returncode, err, time.monotonic() - began)


def assert_ended_well(found: Ended, how: signal.Signals) -> None:
    assert found.code in (0, 128 + how), found
    assert "Traceback" not in found.err, found
    assert "Fatal" not in found.err, found
    if found.code:
        *others, last = found.err.splitlines()
        assert last.startswith(signals.WORDS[how]), found
        assert last.endswith(". Rerun the same command to resume."), found
        assert not [line for line in others if "report-lr0.001" not in line], found


def end_at_moments(folder: Path, hows: list[signal.Signals], jobs: int) -> list[int]:
    """Ends as many processes as there are signals, each in its part of the life of one process."""
    rng = random.Random(15)
    whole = ended(folder / "whole", None)
    assert whole.code == 0, whole
    moments = [whole.seconds * (k + rng.random()) / len(hows) for k in range(len(hows))]
    moments[0] = 0.0  # jax is not imported yet
    folders = [folder / str(number) for number in range(len(hows))]
    with ThreadPoolExecutor(jobs) as pool:
        every = list(pool.map(ended, folders, moments, hows))
    for how, moment, found in zip(hows, moments, every, strict=True):
        print(f"{moment:.2f}", how.name, found.code, found.err.splitlines()[-1:])
        assert_ended_well(found, how)
    return [found.code for found in every]


@pytest.mark.slow
def test_ended_at_eight_moments(tmp_path: Path):
    hows = [signal.SIGINT, signal.SIGTERM, signal.SIGINT, signal.SIGHUP] * 2
    codes = end_at_moments(tmp_path, hows, jobs=4)
    assert codes[0] == 130


@pytest.mark.slow
def test_interrupted_at_a_hundred_moments(tmp_path: Path):
    codes = end_at_moments(tmp_path, [signal.SIGINT] * 100, jobs=2)
    print({code: codes.count(code) for code in set(codes)})
    assert codes.count(130) > 50


def test_what_is_ignored_stays_ignored(tmp_path: Path):
    """Under nohup the end of the terminal ends nothing; SIGTERM still does."""
    process = start(tmp_path / "x", "sh", "-c", 'trap "" HUP; exec "$@"', "sh")
    wait_for_handlers(process)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.communicate()[1] == "Terminated. Rerun the same command to resume.\n"
    assert process.returncode == 143


SCRIPT = """
import os, signal, sys, threading, time
import gelu_jax.signals as signals

signals.install()
done = []
def slow(number):
    time.sleep(float(sys.argv[1]))
    return f"number {number}"
def fails(number):
    raise OSError(28, "No space left on device")
with signals.before_exit(lambda _: ""), signals.before_exit(slow), signals.before_exit(fails):
    if os.fork() == 0:  # a child has none of it
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.set_wakeup_fd(-1) == -1
        assert signals.received() is None
        os._exit(0)
    assert os.wait()[1] == 0
    print("ready", flush=True)
    time.sleep(0.3)
time.sleep(60)
print("never")
"""


def scripted(script: str, *arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_what_is_done_before_the_end():
    """The innermost first, each whatever the others do, while the main thread waits for it."""
    process = scripted(SCRIPT, "1")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    assert (process.returncode, out) == (143, "")
    assert err == (
        "Terminated without saving (OSError: [Errno 28] No space left on device), number 15. "
        "Rerun the same command to resume.\n"
    )


def test_a_second_interrupt_ends_at_once():
    process = scripted(SCRIPT, "600")
    process.send_signal(signal.SIGINT)
    time.sleep(0.8)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert err == "Interrupted again; nothing more was saved. Rerun the same command to resume.\n"


DEFERRED = """
import os, time
import gelu_jax.signals as signals

signals.install()
try:
    with signals.before_exit(lambda _: "never"), signals.deferred():
        print("ready", flush=True)
        time.sleep(1)
except KeyboardInterrupt:
    signals.leave(signals.received(), "after all")
"""


def test_a_deferred_signal_is_raised_in_the_main_thread():
    process = scripted(DEFERRED)
    process.send_signal(signal.SIGHUP)
    _, err = process.communicate()
    assert process.returncode == 129
    assert err == "The terminal was closed after all. Rerun the same command to resume.\n"
