"""Signals: a command that is told to end saves what it has trained, prints one line, and ends.

They are Ctrl-C (SIGINT), SIGTERM (a preempted job), SIGHUP (a closed terminal), and SIGUSR1 and
SIGUSR2 (which people have SLURM's ``--signal`` send before a time limit). The exit code is 128 and
the number of the signal, as shells have it. A signal that is ignored from the start, as SIGHUP is
under nohup, stays ignored.

A thread takes them, at once, even while the main thread is inside XLA. Nothing is raised in the
main thread, because an exception that comes in while jax traces, compiles or collects garbage is
dropped, or ends the interpreter under a compiler that is still at work: a segmentation fault.
"""

import atexit
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

_NAMES = {
    "SIGINT": "Interrupted",
    "SIGTERM": "Terminated",
    "SIGHUP": "The terminal was closed",
    "SIGUSR1": "Stopped by SIGUSR1",
    "SIGUSR2": "Stopped by SIGUSR2",
}
WORDS: dict[int, str] = {
    int(getattr(signal, name)): words for name, words in _NAMES.items() if hasattr(signal, name)
}
"""Signal → how its line begins."""

_TWICE = 0.5  # seconds after which a second Ctrl-C is one that a person has pressed

Action = Callable[[int], str]
"""Called in the signal's thread with the number of the signal; what it returns is for the line."""


class _Watch:
    """What has been received, and what is to be done about it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.installed = False
        self.received: int | None = None
        self.since = 0.0
        self.ending = False
        self.deferred = 0
        self.actions: list[Action] = []

    def take(self, number: int) -> None:
        with self.lock:
            if self.received is None:
                self.received, self.since = number, time.monotonic()
                self.ending = not self.deferred
                if self.ending:
                    threading.Thread(target=_end, args=(number, self.actions[::-1])).start()
                return
        if number == signal.SIGINT and time.monotonic() - self.since > _TWICE:
            leave(number, "again; nothing more was saved")


_watch = _Watch()


def install() -> None:
    """Has signals end this process as described above. Call it in the main thread."""
    if _watch.installed:
        return
    _watch.installed = True
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    for number in WORDS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _nothing)
    threading.Thread(target=_listen, args=(reader, writer), daemon=True).start()
    atexit.register(_ignore, os.getpid())  # the interpreter shuts down: all is done and printed


def _nothing(*_: object) -> None:
    """Python's part of a signal; the thread does the rest."""


def _listen(reader: socket.socket, _writer: socket.socket) -> None:
    while numbers := reader.recv(64):
        for number in numbers:
            if number in WORDS:  # others may have handlers of their own
                _watch.take(number)


def _ignore(pid: int) -> None:
    if os.getpid() == pid:
        for number in WORDS:
            signal.signal(number, signal.SIG_IGN)


def _forget() -> None:
    """In a forked process, which must not wake the thread of its parent."""
    if _watch.installed:
        signal.set_wakeup_fd(-1)
        for number in WORDS:
            if signal.getsignal(number) is _nothing:
                default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
                signal.signal(number, default)
    _watch.__init__()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def received() -> int | None:
    """The signal that this process has been told to end by; None as long as there is none."""
    return _watch.received


def deliver(number: int) -> None:
    """Does what a signal would do, for one that came another way.

    Args:
      number: of the signal.
    """
    _watch.take(number)


@contextmanager
def before_exit(action: Action) -> Generator[None]:
    """Has something done between a signal and the end of the process, while a block runs.

    Args:
      action: called in the signal's thread, the innermost first, while the main thread goes on; no
        further than to the end of this block.
    """
    with _watch.lock:
        _watch.actions.append(action)
    try:
        yield
    finally:
        with _watch.lock:
            ending = _watch.ending
            _watch.actions.remove(action)
        if ending:
            wait_for_the_end()


def ending() -> bool:
    """Whether a signal is ending this process: the actions of `before_exit` are under way."""
    return _watch.ending


def wait_for_the_end() -> NoReturn:
    """Keeps the main thread from doing more while a signal ends the process."""
    threading.Event().wait()
    raise AssertionError("never set")


@contextmanager
def deferred() -> Generator[None]:
    """Leaves a signal to the main thread, which must call `check` often while the block runs."""
    with _watch.lock:
        _watch.deferred += 1
    try:
        yield
    finally:
        with _watch.lock:
            _watch.deferred -= 1
    check()


def check() -> None:
    """Ends a block of `deferred` if a signal has come.

    Raises:
      KeyboardInterrupt: for any signal; `received` tells which.
    """
    if _watch.received is not None:
        raise KeyboardInterrupt


def _end(number: int, actions: list[Action]) -> None:
    said: list[str] = []
    for action in actions:
        try:
            said.append(action(number))
        except Exception as error:  # there is nobody left to catch it
            said.append(f"without saving ({type(error).__name__}: {error})".replace("\n", " "))
    leave(number, ", ".join(filter(None, said)))


def leave(number: int, said: str | None = "") -> NoReturn:
    """Ends the process with the exit code of a signal, and with nothing torn down under XLA.

    Args:
      number: of the signal.
      said: what its line says beside its name; None prints no line.
    """
    if said is not None:
        line = f"{WORDS[number]}{said and f' {said}'}. Rerun the same command to resume.\n"
        with suppress(OSError):  # the terminal is gone, say
            os.write(2, line.encode())
    os._exit(128 + number)


def _is_command() -> bool:
    """Whether this process was started as ``gelu-jax`` or ``python -m gelu_jax``."""
    words = sys.orig_argv
    if "--multiprocessing-fork" in words:  # a child, which has the arguments of its parent
        return False
    is_module = ["-m", "gelu_jax"] in (words[at : at + 2] for at in range(len(words)))
    return is_module or any(Path(word).stem == "gelu-jax" for word in sys.argv[:1])


if _is_command():
    install()
