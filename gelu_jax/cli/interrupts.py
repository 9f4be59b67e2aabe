"""Ctrl-C."""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager

interrupted = threading.Event()


@contextmanager
def remembered_interrupts() -> Generator[None]:
    """Ctrl-C raises, and is remembered: what is raised in a finalizer, Python drops."""

    def interrupt(*_: object) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
