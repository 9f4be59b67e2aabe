"""Several processes as one: `jax.distributed`, and a clear line when one of them exits.

Every process runs the same command over the mesh of all devices, and reads and writes the same
directory, on a file system that all of them share; the primary writes for all.

When a process exits, the others can be left waiting for it in a collective, where no Python runs,
and jax aborts those that lose its coordinator, process 0. So the run itself is a child process: a
thread of the child asks the coordinator which processes are alive, and its parent, which waits,
explains an abort.
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
LatestStep = Callable[[], int | None]
"""Finds the step that a rerun would resume from; None where there is no checkpoint."""

HEARTBEAT = 30
"""Seconds without a sign of life after which a process counts as dead."""

_TIMEOUT = 24 * 60 * 60 * 1000  # milliseconds; `_monitor` ends a wait for a process that exited
_GOODBYE = 2  # seconds between the last other process's goodbye and the coordinator's
_VARIABLES = {
    "coordinator": "JAX_COORDINATOR_ADDRESS",
    "num_processes": "JAX_NUM_PROCESSES",
    "process_id": "JAX_PROCESS_ID",
}


@dataclass(frozen=True)
class DistributedConfig:
    """Whether several processes share a run, and how they find each other.

    What is not given is taken from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID,
    else from the cluster: jax knows SLURM, Open MPI, Kubernetes and Cloud TPU.

    Attributes:
      distributed: this process is one of several that run the same command.
      coordinator: host:port of process 0; the same for all.
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
            yield Problem(given[0], getattr(self, given[0]), "needs --distributed")
        if self.coordinator is not None:
            host, _, port = self.coordinator.rpartition(":")
            if not (host and port.isdecimal() and 0 < int(port) < 2**16):
                yield Problem("coordinator", self.coordinator, "must be host:port")
        if self.num_processes is not None and self.num_processes < 1:
            yield Problem("num_processes", self.num_processes, "must be above 0")
        elif self.process_id is not None:
            last = (self.num_processes or 2**31) - 1
            if not 0 <= self.process_id <= last:
                yield Problem("process_id", self.process_id, f"must lie in [0, {last}]")

    def with_environment(self, environment: Mapping[str, str]) -> "DistributedConfig":
        """Fills in what the environment says and no flag does.

        Args:
          environment: variables by name.

        Returns:
          The config with these values.

        Raises:
          ConfigError: a value is not valid.
        """
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
    """Calls a function in the primary process; all processes must do this in the same order.

    Args:
      find: the function; what it returns must be picklable.

    Returns:
      What it returned there, in every process.
    """
    if not jax.distributed.is_initialized():
        return find()
    name = f"gelu_jax/broadcast/{next(_broadcasts)}"
    if is_primary():
        found = find()
        _client().key_value_set_bytes(name, pickle.dumps(found))
        return found
    return pickle.loads(_client().blocking_key_value_get_bytes(name, _TIMEOUT))


_broadcasts = count()
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


def same_everywhere(values: Mapping[str, object]) -> None:
    """Checks that every process holds the same values as the primary.

    Args:
      values: by name.

    Raises:
      ConfigError: on a process where they differ, with a line for each name.
    """
    of_primary = broadcast_from_primary(lambda: values)
    reason = f"not the same on process {jax.process_index()} as on process 0"
    check(Problem(name, ABSENT, reason) for name in values if values[name] != of_primary[name])


@contextmanager
def process_group(config: DistributedConfig, latest_step: LatestStep) -> Generator[None]:
    """Connects the processes for the length of a `with` block; all leave it together.

    Where another process exits, this one exits with code 1 and one line on standard error. Must be
    entered before anything touches a device. Does nothing unless `config.distributed`.

    Args:
      config: how the processes find each other.
      latest_step: finds the step that a rerun would resume from, for that line.

    Raises:
      ConfigError: the config is not valid, or does not say how to find the others.
    """
    config = config.with_environment(os.environ)
    if not config.distributed:
        yield
        return
    tell_parent = _continue_in_child(latest_step)
    _connect(config)
    leaving = threading.Event()
    monitor = threading.Thread(target=_monitor, args=(leaving, latest_step), daemon=True)
    monitor.start()
    try:
        yield
        _client().wait_at_barrier("gelu_jax/done", _TIMEOUT)
    except RuntimeError:  # a collective failed; if because a process exited, `_monitor` reports it
        time.sleep(2 * HEARTBEAT)
        raise
    except KeyboardInterrupt:  # all processes stop at the same evaluation
        with suppress(RuntimeError):
            _client().wait_at_barrier("gelu_jax/done", 2 * HEARTBEAT * 1000)
            leaving.set()
            monitor.join()
            tell_parent(128 + (signals.received() or signal.SIGINT))
            _disconnect()
        raise
    finally:  # jax takes the client away when this process ends for a reason of its own
        leaving.set()
        monitor.join()
    tell_parent(0)
    _disconnect()


def _continue_in_child(latest_step: LatestStep) -> Callable[[int], None]:
    """Returns in a child process; the parent waits for it to end, and says what that means.

    The child ends with its parent, however that ends, and gets its signals from it alone.

    Returns:
      Tells the parent the exit code of a run that is over: jax can abort a process whose
      coordinator leaves while it says goodbye itself, which then means nothing.
    """
    reader, writer = os.pipe()
    code_reader, code_writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        for number in signals.WORDS:
            signal.signal(number, signal.SIG_IGN)
        threading.Thread(target=_listen, args=(reader,), daemon=True).start()
        return lambda code: None if is_primary() else _write_byte(code_writer, code)
    os.close(reader)
    os.close(code_writer)
    ended = threading.Event()

    def pass_on(number: int) -> str:
        _write_byte(writer, number)
        ended.wait()
        signals.leave(number, None)  # the child has said what there is to say

    with signals.before_exit(pass_on):
        status = os.waitpid(child, 0)[1]
        ended.set()
    Console(stderr=True).show_cursor()  # an aborted progress display has left it hidden
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGABRT and (told := os.read(code_reader, 1)):
        sys.exit(told[0])
    if code == -signal.SIGABRT:
        sys.exit(f"process 0 exited, or not every process started; {_resume_hint(latest_step)}")
    if code < 0:
        sys.exit(f"killed by {signal.Signals(-code).name}; {_resume_hint(latest_step)}")
    sys.exit(code)


def _write_byte(pipe: int, number: int) -> None:
    os.write(pipe, bytes([number]))


def _listen(pipe: int) -> None:
    while number := os.read(pipe, 1):
        signals.deliver(number[0])
    os._exit(1)


def _connect(config: DistributedConfig) -> None:
    # it would make jax catch SIGTERM and continue
    jax.config.update("jax_enable_preemption_service", False)
    # without it jax aborts all processes when one exits, before anything can be printed
    jax.config.update("jax_enable_recoverability", True)
    try:
        jax.distributed.initialize(
            config.coordinator,
            config.num_processes,
            config.process_id,
            heartbeat_timeout_seconds=HEARTBEAT,
        )
    except ValueError:  # jax could not find what is missing either
        missing = next(name for name in _VARIABLES if getattr(config, name) is None)
        flag = f"--{missing.replace('_', '-')}"
        reason = f"not known; give {flag}, or set {_VARIABLES[missing]}"
        raise ConfigError([Problem(missing, ABSENT, reason)]) from None


def _monitor(leaving: threading.Event, latest_step: LatestStep) -> None:
    """Exits when another process has."""
    everyone = range(runtime.global_state.num_processes)
    while not leaving.wait(1):
        try:
            dead = set(everyone) - _alive()
        except RuntimeError:  # process 0 does not answer: jax aborts if that lasts
            continue
        if dead and not leaving.is_set():
            line = f"process {min(dead)} of {len(everyone)} exited; {_resume_hint(latest_step)}"
            print(line, file=sys.stderr, flush=True)
            os._exit(1)


def _alive() -> set[int]:
    return set(_client().get_live_nodes(list(range(runtime.global_state.num_processes))))


def _disconnect() -> None:
    """No process leaves while another still watches; process 0, the coordinator, leaves last.

    jax aborts a process whose coordinator goes before it has heard the answer to its own goodbye.
    """
    _client().wait_at_barrier("gelu_jax/leaving", 2 * HEARTBEAT * 1000)
    limit = time.monotonic() + 2 * HEARTBEAT
    while is_primary() and len(_alive()) > 1 and time.monotonic() < limit:
        time.sleep(0.05)
    if is_primary():
        time.sleep(_GOODBYE)
    jax.distributed.shutdown()


def _resume_hint(latest_step: LatestStep) -> str:
    step = latest_step()
    again = "rerun the same command"
    return f"{again} to start over" if step is None else f"{again} to resume from step {step}"


def _client() -> Any:
    return runtime.global_state.client
