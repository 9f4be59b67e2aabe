"""Several processes as one: `jax.distributed`, and a clear line when one of them is gone.

Every process runs the same command over the mesh of all devices, and reads and writes the same
directory, which lies on a file system that all of them share; the first writes for all.

A process that is gone can leave the others waiting for it in a collective, where no Python runs,
and jax aborts those that lose its coordinator, process 0. So the run itself is a child: a thread of
the child asks the coordinator who is alive, and its parent, which waits, says what an abort means.
"""

import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, TypeVar

import jax
from jax._src import distributed as runtime  # the client: what orbax's own barriers go through
from rich.console import Console

from gelu_jax import signals
from gelu_jax.errors import ABSENT, ConfigError, Problem, check
from gelu_jax.files import is_primary

T = TypeVar("T")
Saved = Callable[[], int | None]
"""The step of the newest checkpoint, to tell where the same command would go on."""

HEARTBEAT = 30
"""Seconds without a sign of life after which a process counts as gone."""

_PATIENCE = 24 * 60 * 60 * 1000  # milliseconds; whom one waits for is watched, see `_watch`
_VARIABLES = {
    "coordinator": "JAX_COORDINATOR_ADDRESS",
    "num_processes": "JAX_NUM_PROCESSES",
    "process_id": "JAX_PROCESS_ID",
}


@dataclass(frozen=True)
class DistributedConfig:
    """Whether several processes share a run, and how they find each other.

    What is not given is taken from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID,
    else from where the job runs: SLURM, Open MPI, Kubernetes and Cloud TPU are known to jax.

    Args:
        distributed: this process is one of several that run the same command.
        coordinator: host:port where process 0 is met; the same for all.
        num_processes: how many there are.
        process_id: which of them this one is, from 0.
    """

    distributed: bool = False
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None

    def _problems(self) -> Iterator[Problem]:
        given = [name for name in _VARIABLES if getattr(self, name) is not None]
        if given and not self.distributed:
            yield Problem(given[0], getattr(self, given[0]), "is for --distributed")
        if self.coordinator is not None:
            host, _, port = self.coordinator.rpartition(":")
            if not (host and port.isdecimal() and 0 < int(port) < 2**16):
                reason = "must be host:port; nearest: localhost:1234"
                yield Problem("coordinator", self.coordinator, reason)
        if self.num_processes is not None and self.num_processes < 1:
            yield Problem("num_processes", self.num_processes, "must be above 0; nearest: 1")
        elif self.process_id is not None:
            last = (self.num_processes or 2**31) - 1
            if not 0 <= self.process_id <= last:
                best = max(0, min(self.process_id, last))
                reason = f"must lie in [0, {last}]; nearest: {best}"
                yield Problem("process_id", self.process_id, reason)

    def completed(self, environment: Mapping[str, str]) -> "DistributedConfig":
        """The config with what the environment names and no flag does; ConfigError if it is bad."""
        found: dict[str, Any] = {}
        for name, variable in _VARIABLES.items() if self.distributed else ():
            text = environment.get(variable)
            if getattr(self, name) is None and text is not None:
                if name != "coordinator" and not text.isdecimal():
                    raise ConfigError([Problem(variable, text, "must be a whole number from 0")])
                found[name] = text if name == "coordinator" else int(text)
        config = replace(self, **found)
        check(config._problems())
        return config


def broadcast_from_primary(find: Callable[[], T]) -> T:
    """What the first process finds, in every process; all must ask in the same order."""
    if not jax.distributed.is_initialized():
        return find()
    name = f"gelu_jax/agreed/{next(_questions)}"
    if is_primary():
        found = find()
        _client().key_value_set_bytes(name, pickle.dumps(found))
        return found
    return pickle.loads(_client().blocking_key_value_get_bytes(name, _PATIENCE))


_questions = count()
_SIGNAL = "gelu_jax/signal"


def received_anywhere() -> int | None:
    """The signal that this process or another one has received; the same in every process."""
    if (own := signals.received()) is not None:
        with suppress(RuntimeError):  # another process was first
            _client().key_value_set(_SIGNAL, str(own))
    return broadcast_from_primary(_first_signal)


def _first_signal() -> int | None:
    try:
        return int(_client().key_value_try_get(_SIGNAL))
    except RuntimeError:  # there is none
        return None


def same_everywhere(what: Mapping[str, object]) -> None:
    """Raises ConfigError where a process holds something else than the first one does."""
    of_first = broadcast_from_primary(lambda: what)
    reason = f"not the same on process {jax.process_index()} as on process 0"
    check(Problem(name, ABSENT, reason) for name in what if what[name] != of_first[name])


@contextmanager
def together(config: DistributedConfig, saved: Saved) -> Generator[None]:
    """Connects the processes before anything touches a device; they part at the end, all done.

    Exits with code 1 and one line on standard error where a process is gone. Raises ConfigError
    where this one is not told who the others are. Does nothing unless ``config.distributed``.
    """
    config = config.completed(os.environ)
    if not config.distributed:
        yield
        return
    _stay_behind(saved)
    _connect(config)
    parted = threading.Event()
    watch = threading.Thread(target=_watch, args=(parted, saved), daemon=True)
    watch.start()
    try:
        yield
        _client().wait_at_barrier("gelu_jax/done", _PATIENCE)
    except RuntimeError:  # a collective has failed: if for somebody's absence, `_watch` will say so
        time.sleep(2 * HEARTBEAT)
        raise
    except KeyboardInterrupt:  # all processes stop at the same evaluation
        parted.set()
        with suppress(RuntimeError):
            _part()
        raise
    finally:  # jax takes the client away when this process ends for a reason of its own
        parted.set()
        watch.join()
    _part()


def _stay_behind(saved: Saved) -> None:
    """Goes on in a child; the parent waits for its end, and says what that means.

    The child ends with its parent, whatever ends that, and gets its signals from it alone.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        for number in signals.WORDS:
            signal.signal(number, signal.SIG_IGN)
        threading.Thread(target=_listen, args=(reader,), daemon=True).start()
        return
    os.close(reader)
    ended = threading.Event()

    def pass_on(number: int) -> str:
        os.write(writer, bytes([number]))
        ended.wait()
        signals.leave(number, None)  # the child has said what there is to say

    with signals.before_exit(pass_on):
        status = os.waitpid(child, 0)[1]
        ended.set()
    Console(stderr=True).show_cursor()  # a board that was drawn to the last has hidden it
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGABRT:
        sys.exit(f"process 0 is gone, or not every process came; {_advice(saved)}")
    if code < 0:
        sys.exit(f"killed by {signal.Signals(-code).name}; {_advice(saved)}")
    sys.exit(code)


def _listen(pipe: int) -> None:
    while number := os.read(pipe, 1):
        signals.deliver(number[0])
    os._exit(1)


def _connect(config: DistributedConfig) -> None:
    # jax would catch SIGTERM for it, and go on
    jax.config.update("jax_enable_preemption_service", False)
    # jax would abort all when one is gone, before anything can be said
    jax.config.update("jax_enable_recoverability", True)
    try:
        jax.distributed.initialize(
            config.coordinator,
            config.num_processes,
            config.process_id,
            heartbeat_timeout_seconds=HEARTBEAT,
        )
    except ValueError:  # what is missing, jax could not find either
        missing = next(name for name in _VARIABLES if getattr(config, name) is None)
        flag = f"--{missing.replace('_', '-')}"
        reason = f"nothing here tells it; nearest: {flag} or {_VARIABLES[missing]}"
        raise ConfigError([Problem(missing, ABSENT, reason)]) from None


def _watch(parted: threading.Event, saved: Saved) -> None:
    """Ends this process when another one is gone."""
    everyone = range(runtime.global_state.num_processes)
    while not parted.wait(1):
        try:
            gone = set(everyone) - _alive()
        except RuntimeError:  # process 0 does not answer: jax aborts if that lasts
            continue
        if gone and not parted.is_set():
            line = f"process {min(gone)} of {len(everyone)} is gone; {_advice(saved)}"
            print(line, file=sys.stderr, flush=True)
            os._exit(1)


def _alive() -> set[int]:
    return set(_client().get_live_nodes(list(range(runtime.global_state.num_processes))))


def _part() -> None:
    """Nobody leaves while another still watches; process 0 leaves last, or it would be missed."""
    _client().wait_at_barrier("gelu_jax/parting", 2 * HEARTBEAT * 1000)
    limit = time.monotonic() + 2 * HEARTBEAT
    while is_primary() and len(_alive()) > 1 and time.monotonic() < limit:
        time.sleep(0.05)
    jax.distributed.shutdown()


def _advice(saved: Saved) -> str:
    step = saved()
    return "start again" if step is None else f"the same command goes on from step {step}"


def _client() -> Any:
    return runtime.global_state.client
